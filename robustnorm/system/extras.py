"""Optional packages, installed as extras of this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, needs: str) -> Iterator[None]:
    """Says what to install when an import within the block finds no such package.

    Args:
        name: The extra of this package that installs what is missing.
        needs: What needs which packages; begins the message.

    Raises:
        ImportError: In place of a ModuleNotFoundError.

    Examples:
        >>> with extra("report", "a page needs jinja2"):
        ...     import no_such_package
        Traceback (most recent call last):
        ImportError: a page needs jinja2 (No module named 'no_such_package'): pip install ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{needs} ({error}): pip install "robustnorm[{name}]"') from error


def check_report() -> None:
    """Raises an ImportError unless the packages of the extra "report" are installed."""
    with extra("report", "a report needs matplotlib and jinja2"):
        import jinja2  # noqa: F401
        import matplotlib.figure  # noqa: F401
