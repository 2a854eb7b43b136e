"""Reliability, measured at length; the tests keep short versions."""
