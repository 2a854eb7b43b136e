"""DARTS on NAS-Bench-201 with the norm that its mixed operations see as the choice: Table 2."""
