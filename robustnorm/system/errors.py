"""Errors that the user can fix; the command line prints their message and exits with a status."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self


class Status(IntEnum):
    """Exit statuses of the command line.

    Attributes:
        meaning: Its explanation in ``robustnorm --help``.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        status = int.__new__(cls, value)
        status._value_, status.meaning = value, meaning
        return status

    DONE = 0, "done"
    CHECK_FAILED = 1, "a check failed"
    USAGE = 2, "settings, data or network cannot be used, or the training diverged"
    MEMORY = 3, "out of memory"
    DISK = 4, "the disk is full, read-only, or has too little free space"
    REFUSED = 5, "a file is damaged, of another kind, or unsafe to read"
    UNRELIABLE = 6, "a check found the evaluation unreliable, with --strict true"
    INTERRUPTED = 130, "Ctrl-C"
    CLOSED = 141, "the output pipe was closed"
    PREEMPTED = 143, "SIGTERM or SIGUSR1; the state is saved, the same command continues"


class UserError(ValueError):
    """An error whose message says what is required, what was received and what to do.

    Attributes:
        status: Exit status of a command that ends with it.
    """

    status: ClassVar[Status] = Status.USAGE

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # names in it may contain line breaks


class UsageError(UserError):
    """The settings do not fit the files, data or network found."""


class OutOfMemoryError(UserError):
    """There is not enough memory."""

    status: ClassVar[Status] = Status.MEMORY


class DiskError(UserError):
    """A file cannot be written: the disk is full, read-only or too small."""

    status: ClassVar[Status] = Status.DISK


class RefusedFileError(UserError):
    """A file is damaged, of another kind or unsafe to read; none of it was used."""

    status: ClassVar[Status] = Status.REFUSED


class CheckFailed(Exception):  # noqa: N818 (the program itself worked)
    """What a command examined failed a check; the error's text is printed.

    Attributes:
        status: Exit status of the command.
    """

    status: ClassVar[Status] = Status.CHECK_FAILED


class Unreliable(CheckFailed):
    """A check found the evaluation unreliable under ``strict``; the text holds the tables."""

    status: ClassVar[Status] = Status.UNRELIABLE
