"""From a network and images to verdicts."""
