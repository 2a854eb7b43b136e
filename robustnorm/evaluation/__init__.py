"""Attacks networks and scores images: from a network and images to verdicts."""
