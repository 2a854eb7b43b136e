"""One training run on disk."""

from robustnorm.runs.run import load_model

__all__ = ["load_model"]
