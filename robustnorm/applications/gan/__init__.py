"""Conditional GANs with conditional norms in the generator: Table 1, Figures 2 and 3."""
