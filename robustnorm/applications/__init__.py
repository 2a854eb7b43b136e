"""The paper's other systems: architecture search, conditional GANs, style transfer."""
