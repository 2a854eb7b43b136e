"""Studies of a trained network, each with its measurement and its tables."""
