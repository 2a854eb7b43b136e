"""The command line: reads settings, refuses unsound ones before torch is loaded, runs commands."""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from fractions import Fraction
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import register_type

from robustnorm.config import Config
from robustnorm.data import check_data
from robustnorm.export_settings import ExportSettings
from robustnorm.norms import NORMS
from robustnorm.registry import unknown


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        help: What it does.
        settings: The dataclass of its options; a field without a default is given by place.
        run: "module:function", loaded when it runs: from the settings and the config file's path
            to the text to print, or None.
    """

    help: str
    settings: type[Any]
    run: str


COMMANDS = {
    "train": Command(
        "Train one norm with AdvProp, or continue its interrupted run.",
        Config,
        "robustnorm.commands.train:train_run",
    ),
    "eval": Command(
        "Evaluate every checkpoint that fits the config; print and write Tables 3 and 4.",
        Config,
        "robustnorm.commands.evaluate:evaluate_runs",
    ),
    "reproduce": Command(
        "Train bn, modenorm, auxbn, saauxbn and a plainly trained control, then evaluate.",
        Config,
        "robustnorm.commands.reproduce:reproduce",
    ),
    "demo": Command(
        "Reproduce on scikit-learn's digits: the whole path in minutes, without a download.",
        Config,
        "robustnorm.commands.reproduce:reproduce",
    ),
    "export": Command(
        "Write one branch of a trained run as a file for other tools; check it by loading it.",
        ExportSettings,
        "robustnorm.commands.export:export_run",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        arguments: Words after the program's name; ``sys.argv``'s by default.

    Returns:
        0 when done, 2 when the settings, the data or a checkpoint do not serve.
    """
    try:
        command, settings, path = parse(sys.argv[1:] if arguments is None else arguments)
    except (ArgumentError, ValueError) as error:
        return _fail(_with_nearest(str(error)))

    from robustnorm.allocator import keep_freed_memory
    from robustnorm.data.errors import DataError
    from robustnorm.evaluation.records import RecordError
    from robustnorm.runs import UsageError
    from robustnorm.training.checkpoint import CheckpointError

    log, handler = logging.getLogger("robustnorm"), logging.StreamHandler()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    keep_freed_memory()
    module, _, function = command.run.partition(":")
    try:
        text = getattr(import_module(module), function)(settings, path)
        if text is not None:
            print(text)
    except (UsageError, DataError, CheckpointError, RecordError, ImportError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; the same command continues from the last epoch", status=130)
    finally:
        log.removeHandler(handler)
    return 0


def parse(arguments: Sequence[str]) -> tuple[Command, Any, str | None]:
    """Returns command, settings and the config file's path; imports no torch.

    Raises:
        ArgumentError, ValueError: On anything unknown, of a wrong type, or out of range.
    """
    words = list(arguments)
    if words[:1] == ["demo"] and not any(word.startswith("--config") for word in words):
        words.insert(1, "--config=digits")
    parsed = _parser().parse_args([_find_config(word) for word in _joined(words)])
    command, values = COMMANDS[parsed.command], parsed[parsed.command]
    names = [field.name for field in fields(command.settings)]
    settings = command.settings(**{name: values[name] for name in names})
    path = str(values.config[-1]) if values.config else None
    if isinstance(settings, Config):
        NORMS.check(settings.norm)
        check_data(settings.data)
        if settings.name is None:
            settings = replace(settings, name=Path(path).stem if path else "default")
    return command, settings, path


def _parser() -> ArgumentParser:
    register_type(Fraction, serializer=str, deserializer=_fraction)
    parser = ArgumentParser(
        prog="robustnorm",
        description="Adversarial training and evaluation of normalization layers.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command")
    for name, command in COMMANDS.items():
        options = ArgumentParser(description=command.help, exit_on_error=False)
        options.add_argument(
            "--config",
            action="config",
            help="YAML file of the settings below, or the name of one that comes with the package "
            "(digits, cifar10, ...); settings given after it win.",
        )
        options.add_class_arguments(command.settings, as_positional=True)
        commands.add_subcommand(name, options, help=command.help)
    return parser


def _joined(words: list[str]) -> list[str]:
    """Returns the words with "--config FILE" written as "--config=FILE"."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--config":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _find_config(word: str) -> str:
    """Returns "--config=name" with the path of the packaged config of that name."""
    option, _, name = word.partition("=")
    if option != "--config" or not re.fullmatch(r"[\w-]+", name):
        return word
    checkout = Path(__file__).parents[1] / "configs"
    folder = checkout if checkout.is_dir() else Path(str(files("robustnorm"))) / "configs"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ValueError(unknown("config", name, known) + " Or give the path of a YAML file.")
    path = folder / f"{name}.yaml"
    here = Path.cwd()
    return f"--config={path.relative_to(here) if path.is_relative_to(here) else path}"


def _fraction(value: object) -> Fraction:
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"a number such as 8/255 or 0.03 is required, got '{value}'") from None


def _with_nearest(message: str) -> str:
    """Returns the message on one line, with the nearest setting where it names an unknown one."""
    names = {field.name for command in COMMANDS.values() for field in fields(command.settings)}
    names |= set(COMMANDS)
    message = " ".join(re.sub(r'Parser key "(\w+)":', r"\1:", message).split())
    for word in re.findall(r"--(\w+)|'(\w+)'|\"(\w+)\"", message):
        name = next(filter(None, word))
        nearest = difflib.get_close_matches(name, names, n=1)
        if nearest and name not in names | {"config"}:
            return f"{message}; did you mean '{nearest[0]}'?"
    return message


def _fail(message: str, status: int = 2) -> int:
    sys.stderr.write(f"robustnorm: {message}\n")
    return status
