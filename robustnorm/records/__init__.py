"""An evaluated network on disk: verdicts, journal, kept images, and re-checking them."""
