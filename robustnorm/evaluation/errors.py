"""Errors that end an evaluation before it could mislead."""

from robustnorm.system.errors import UserError


class EvaluationError(UserError):
    """A network or setting that does not allow a sound evaluation; the message says what to do."""
