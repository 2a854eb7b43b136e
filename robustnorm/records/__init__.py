"""One evaluated network on disk: its verdicts, its journal, its kept images, checked again."""
