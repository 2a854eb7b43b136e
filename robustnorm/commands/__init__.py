"""The commands behind the command line, one module each; they receive validated settings."""
