"""User settings: typed, validated, without importing torch."""
