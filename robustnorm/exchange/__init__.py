"""Weights in from other code, one branch out to other tools."""
