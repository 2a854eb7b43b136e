"""One training run on disk."""

from robustnorm.runs.run import Run, load_model

__all__ = ["Run", "load_model"]
