"""Training and evaluating runs: one, many, in slices of time, on many machines."""
