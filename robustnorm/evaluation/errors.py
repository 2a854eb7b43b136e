"""Errors that stop an evaluation before it could mislead."""

from robustnorm.system.errors import UserError


class EvaluationError(UserError):
    """A network or setting rules out a sound evaluation; the message says what to do."""
