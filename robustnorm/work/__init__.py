"""Trains and evaluates runs: one or many, in slices of time, on one machine or many."""
