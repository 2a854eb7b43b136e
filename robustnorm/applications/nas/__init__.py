"""DARTS on NAS-Bench-201 with different norms in the mixed operations: the paper's Table 2."""
