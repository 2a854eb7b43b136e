"""Arbitrary style transfer with AdaIN, ILM+IN and SaAdaIN: Figures 7 and 8 of the paper."""
