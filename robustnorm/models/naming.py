"""Networks by name: registered ones, timm's, and a factory in any module; imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robustnorm.system.errors import UsageError
from robustnorm.system.registry import Registry, did_you_mean, some, unknown

TIMM = "timm:"
_WORD = r"[A-Za-z_]\w*"
_FACTORY = rf"{_WORD}(\.{_WORD})*:{_WORD}(\.{_WORD})*"


def names_factory(name: object) -> bool:
    """Returns whether a name has the form of a factory in a module, such as ``mypkg.nets:wrn``.

    Examples:
        >>> [names_factory(name) for name in ("mypkg.nets:wrn", "timm:resnet18", "resnet18")]
        [True, False, False]
    """
    text = str(name)
    return re.fullmatch(_FACTORY, text) is not None and not text.startswith(TIMM)


def is_registered(name: str) -> bool:
    """Returns whether a name has the form of registered ones, which have a width.

    Examples:
        >>> is_registered("resnet18"), is_registered("timm:resnet18")
        (True, False)
    """
    return not name.startswith(TIMM) and not names_factory(name)


def describe_source(source: Mapping[str, str]) -> str:
    """Describes the result of ``Networks.source``.

    Examples:
        >>> describe_source({"file": "nets.py", "sha256": "0123456789abcdef"})
        'file nets.py, sha256 0123456789ab'
    """
    return ", ".join(
        f"{key} {value[:12] if key == 'sha256' else value}" for key, value in source.items()
    )


class Networks(Registry):
    """A registry that also takes ``timm:NAME`` and ``module:factory``.

    A module can do anything when it is imported, so it is imported only inside ``typed`` with its
    name: the command line enters that for names after ``--network``, never for names in files.

    Args:
        entries: Name to ``"module:attribute"``, for the registered networks.

    Examples:
        >>> networks = Networks({})
        >>> networks.check("zipfile:ZipFile")
        Traceback (most recent call last):
        robustnorm.system.errors.UsageError: network zipfile:ZipFile is Python code, ...
        >>> with networks.typed("zipfile:ZipFile"):
        ...     networks["zipfile:ZipFile"].__name__
        'ZipFile'
    """

    def __init__(self, entries: dict[str, str]) -> None:
        super().__init__("network", entries)
        self._typed: tuple[str, ...] = ()
        self._sources: dict[str, dict[str, str]] = {}

    @property
    def typed_names(self) -> tuple[str, ...]:
        """Names that the user typed, to be passed on to worker processes."""
        return self._typed

    @contextmanager
    def typed(self, *names: str) -> Iterator[None]:
        """Allows importing the modules of these names within the block; ignores other names."""
        before = self._typed
        self._typed = (*before, *filter(names_factory, names))
        try:
            yield
        finally:
            self._typed = before

    def check(self, name: str) -> str:
        """Returns ``name``, or raises an error without importing anything.

        Raises:
            ValueError: On an unknown name; the message suggests the nearest known one.
            UsageError: On a module's factory whose name was not typed; the message says what to
                type.
            ImportError: When timm is not installed.
        """
        if name in self:
            return name
        if name.startswith(TIMM):
            if find_spec("timm") is None:
                raise ImportError(f'network {name} needs timm: pip install "robustnorm[timm]"')
            return name
        if not names_factory(name):
            more = " Or timm:NAME, or a function in a module, such as mypkg.nets:wrn."
            raise ValueError(unknown(self.subject, name, list(self)) + more)
        if name not in self._typed:
            raise UsageError(
                f"network {name} is Python code, which is imported only if its name is typed: add "
                f"--network {name}"
            )
        return name

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name in self or not (name.startswith(TIMM) or names_factory(name)):
            return super().__getitem__(name)  # raises a KeyError, as any mapping does
        self.check(name)
        if name.startswith(TIMM):
            from_timm = importlib.import_module("robustnorm.models.from_timm")  # imports torch
            factory: Callable[..., Any] = from_timm.timm_factory(name.removeprefix(TIMM))
            return factory
        return self._import(name)

    def source(self, name: str) -> dict[str, str]:
        """Returns the source of a network that was built; {} for a registered one.

        This is the version of timm, or the file name and sha256 of the factory's module.
        """
        if name in self:
            return {}
        if name.startswith(TIMM):
            return {"timm": version("timm")}
        return self._sources.get(name, {})

    def _import(self, factory: str) -> Callable[..., Any]:
        name, _, attribute = factory.partition(":")
        begin = f"network {factory}: "
        try:
            with _importable(Path.cwd()):
                module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a module may raise anything
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            if absent and f"{name}.".startswith(f"{absent}."):
                raise UsageError(
                    f"{begin}there is no module {absent}, neither installed nor in the current "
                    f"folder {Path.cwd()}"
                ) from error
            raise UsageError(
                f"{begin}importing {name} failed ({type(error).__name__}: "
                f"{' '.join(str(error).split())})"
            ) from error
        found: Any = module
        for word in attribute.split("."):
            if not hasattr(found, word):
                defined = [k for k, value in vars(found).items() if _is_defined_in(value, name)]
                raise UsageError(
                    f"{begin}{name} has no '{word}'{did_you_mean(word, defined) or '.'} It "
                    f"defines: {some(defined, 5) or 'nothing that can be called'}"
                )
            found = getattr(found, word)
        if not callable(found):
            raise UsageError(
                f"{begin}{attribute} is a {type(found).__name__}; give a function or class that "
                "returns the network"
            )
        if factory not in self._sources:
            file = inspect.getsourcefile(module) if hasattr(module, "__file__") else None
            self._sources[factory] = {} if file is None else _described(Path(file))
        return found  # type: ignore[no-any-return]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Puts a folder first on the import path for the block, as ``python -m`` does."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # the module may have removed it
            sys.path.remove(str(folder))


def _is_defined_in(value: object, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module


def _described(file: Path) -> dict[str, str]:
    return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
