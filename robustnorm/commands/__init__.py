"""What the command line does once the settings are known to be sound, a file a command."""

from typing import ClassVar

from robustnorm.errors import Status


class CheckFailed(Exception):  # noqa: N818 (the program did its work)
    """What a command checked does not hold; its text is printed.

    Attributes:
        status: Exit status of the command.
    """

    status: ClassVar[Status] = Status.CHECK_FAILED


class Unreliable(CheckFailed):
    """A check found the evaluation unreliable, and the user is strict; the text is the tables."""

    status: ClassVar[Status] = Status.UNRELIABLE
