"""What ends an evaluation before it would mislead."""

from robustnorm.system.errors import UserError


class EvaluationError(UserError):
    """A network or a setting with which no evaluation is sound; the message says what to do."""
