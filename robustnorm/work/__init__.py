"""Runs trained and evaluated: one, many, in slices of time, on many machines."""
