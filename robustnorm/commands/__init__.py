"""The commands of the command line, one module each; they receive validated settings."""
