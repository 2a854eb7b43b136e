"""The other systems of the paper: architecture search, conditional GANs, style transfer."""
