"""Conditional GANs whose generators are told the class by their norms: Table 1, Figures 2, 3."""
