"""The command line: reads settings, refuses unsound ones before torch is loaded, runs commands."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import fields, replace
from fractions import Fraction
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import (
    ArgumentError,
    ArgumentParser,
    DefaultHelpFormatter,
    set_parsing_settings,
)
from jsonargparse.typing import register_type

from robustnorm.data import check_data
from robustnorm.norms import NORMS
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.campaign import Campaign, ready_plans
from robustnorm.settings.config import Config, ReportConfig, StudyConfig, VerifySettings
from robustnorm.settings.diagnose import DiagnoseSettings
from robustnorm.settings.export import ExportSettings
from robustnorm.settings.gan import GanConfig
from robustnorm.settings.import_weights import ImportSettings
from robustnorm.settings.nas import SearchSettings, Table2Settings
from robustnorm.settings.style import StyleSettings, StylizeSettings
from robustnorm.settings.sweep import SweepSettings, grids
from robustnorm.system.errors import CheckFailed, Status, UsageError, UserError
from robustnorm.system.registry import unknown
from robustnorm.system.stopping import SignalStop, Stopped
from robustnorm.system.untrusted import check_yaml, parse_fraction


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        help: What it does.
        settings: The dataclass of its options. A field without a default is given by place; one
            with help in its metadata under "by_place" takes all words that are left.
        run: "module:function", loaded when it runs: from the settings and the config file's path
            to the text to print, or None.
        stops: Whether it also takes ``should_stop``, which tells it of a signal; any other ends
            at once.
    """

    help: str
    settings: type[Any]
    run: str
    stops: bool = False


COMMANDS = {
    "train": Command(
        "Train one norm with AdvProp, or continue its interrupted run.",
        Config,
        "robustnorm.work.train:train_run",
        stops=True,
    ),
    "eval": Command(
        "Evaluate every checkpoint that fits the config; print and write Tables 3 and 4.",
        Config,
        "robustnorm.work.evaluate:evaluate_runs",
        stops=True,
    ),
    "verify": Command(
        "Re-check a record: hashes, clean verdicts, and each adversarial image that was kept.",
        VerifySettings,
        "robustnorm.commands.verify:verify_record",
    ),
    "reproduce": Command(
        "Train bn, modenorm, auxbn, saauxbn and a plainly trained control, then evaluate.",
        Config,
        "robustnorm.commands.reproduce:reproduce",
        stops=True,
    ),
    "report": Command(
        "Write one HTML page, with its figures, from result records.",
        ReportConfig,
        "robustnorm.work.report:report",
    ),
    "campaign": Command(
        "Train and evaluate the plans of a campaign, in slices of time.",
        Campaign,
        "robustnorm.work.campaign:run_campaign",
        stops=True,
    ),
    "demo": Command(
        "Reproduce on scikit-learn's digits: the whole path in minutes, without a download.",
        Config,
        "robustnorm.commands.reproduce:reproduce",
        stops=True,
    ),
    "diagnose": Command(
        "Compare the gradients of branches and classes, stage by stage, of one or more runs.",
        DiagnoseSettings,
        "robustnorm.commands.diagnose:diagnose_runs",
    ),
    "ablate": Command(
        "Train and evaluate all six norms of {shared, split} statistics x {shared, split, "
        "sandwich} affine.",
        Config,
        "robustnorm.commands.ablate:ablate",
        stops=True,
    ),
    "study": Command(
        "Study every checkpoint that fits the config: swapped branches, statistics measured "
        "again, gates.",
        StudyConfig,
        "robustnorm.commands.study:study_runs",
    ),
    "import": Command(
        "Make a run of weights that other code trained, to evaluate them like our own.",
        ImportSettings,
        "robustnorm.commands.import_weights:import_run",
    ),
    "sweep": Command(
        "Train and evaluate norms x seeds x configs as jobs: in processes, on Ray, on Slurm.",
        SweepSettings,
        "robustnorm.work.sweep:sweep",
        stops=True,
    ),
    "figure7": Command(
        "Train style transfer with AdaIN, ILM+IN and SaAdaIN; write Figures 7 and 8 and a table.",
        StyleSettings,
        "robustnorm.commands.figure7:figure7",
        stops=True,
    ),
    "stylize": Command(
        "Paint one picture in the style of another with a network that figure7 trained.",
        StylizeSettings,
        "robustnorm.commands.stylize:stylize",
    ),
    "search": Command(
        "Search a cell of NAS-Bench-201 with one norm by DARTS; print its ground truth.",
        SearchSettings,
        "robustnorm.commands.search:search",
        stops=True,
    ),
    "table1": Command(
        "Train SNGAN, AutoGAN and BigGAN with ccbn and sabn; write Table 1, Figures 2 and 3.",
        GanConfig,
        "robustnorm.commands.table1:table1",
        stops=True,
    ),
    "table2": Command(
        "Search with bn, affine, ccbn and sabn for each seed; print and write Table 2.",
        Table2Settings,
        "robustnorm.commands.search:table2",
        stops=True,
    ),
    "export": Command(
        "Write one branch of a trained run as a file for other tools; check it by loading it.",
        ExportSettings,
        "robustnorm.commands.export:export_run",
    ),
}

# What was a command once, and what does its work now.
REMOVED = dict.fromkeys(
    ("pack", "unpack"), "move runs with tar, split and sha256sum as docs/moving-runs.md shows"
) | {"replay": "training that diverges names the layer where it begins; give its command again"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        arguments: Words after the program's name; ``sys.argv``'s by default.

    Returns:
        A ``robustnorm.system.errors.Status``.
    """
    stop = SignalStop()
    with stop.installed():
        try:
            command, settings, path = parse(sys.argv[1:] if arguments is None else arguments)
        except UserError as error:
            return _fail(str(error), error.status)
        except (ArgumentError, ValueError) as error:
            return _fail(_with_nearest(str(error)))
        status = _run(command, settings, path, stop)
    # What was finished after the signal came is done, too; whoever sent it asked for this status.
    return Status.PREEMPTED if stop.received and status == Status.DONE else status


def _run(command: Command, settings: Any, path: str | None, stop: SignalStop) -> int:
    """Runs a command; returns the exit status."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and command is not COMMANDS["train"]:
        return _fail("torchrun's many processes serve 'train' alone; run this command without it")

    from robustnorm.system.allocator import keep_freed_memory

    log, handler = logging.getLogger("robustnorm"), logging.StreamHandler()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    keep_freed_memory()
    module, _, function = command.run.partition(":")
    options = {"should_stop": stop} if command.stops else {}
    try:
        text = getattr(import_module(module), function)(settings, path, **options)
        if text is not None:
            print(text)
    except CheckFailed as failed:
        print(failed)
        return failed.status
    except UserError as error:
        return _fail(str(error), error.status)
    except ImportError as error:
        return _fail(str(error))
    except Stopped as stopped:
        return _fail(f"{stopped}; the same command continues", Status.PREEMPTED)
    except (MemoryError, RuntimeError) as error:
        from robustnorm.system.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail(f"out of memory ({_first_line(error)})", Status.MEMORY)
    except KeyboardInterrupt:
        return _fail(
            "interrupted; the same command continues from the last epoch", Status.INTERRUPTED
        )
    finally:
        log.removeHandler(handler)
    return Status.DONE


def parse(arguments: Sequence[str]) -> tuple[Command, Any, str | None]:
    """Returns command, settings and the config file's path; imports no torch.

    Raises:
        ArgumentError, ValueError: On anything unknown, of a wrong type, or out of range.
        UsageError: On a command that is there no longer.
    """
    words = list(arguments)
    if words[:1] == ["demo"] and not any(word.startswith("--config") for word in words):
        words.insert(1, "--config=digits")
    if words and words[0] in REMOVED:
        raise UsageError(f"'{words[0]}' is no longer a command: {REMOVED[words[0]]}")
    parser = _parser()
    words = [_find_config(word) for word in _joined(words)]
    for word in words:
        if word.startswith("--config="):
            check_yaml(Path(word.removeprefix("--config=")))
    parsed = parser.parse_args(words)
    command, values = COMMANDS[parsed.command], parser.instantiate(parsed)[parsed.command]
    names = [field.name for field in fields(command.settings)]
    settings = command.settings(**{name: values[name] for name in names})
    path = str(values.config[-1]) if values.config else None
    if isinstance(settings, Config):
        NORMS.check(settings.norm)
        check_data(settings.data)
        parse_attacks(settings.attacks)
        if settings.name is None:
            settings = replace(settings, name=Path(path).stem if path else "default")
    if isinstance(settings, Campaign):
        ready_plans(settings)
    if isinstance(settings, SweepSettings):
        grids(settings)
    return command, settings, path


def read_config(config: str, changes: dict[str, Any]) -> Config:
    """Returns the settings of a config file, by path or name, with changes; imports no torch.

    Raises:
        ArgumentError, ValueError: On anything unknown, of a wrong type, or out of range.
    """
    words = [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in changes.items()
    ]
    _, settings, _ = parse(["train", f"--config={config}", *words])
    assert isinstance(settings, Config)
    return settings


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of the table of exit statuses."""


# The types of the settings that are dataclasses themselves.
_NAMED_TYPES = ("robustnorm.settings.config.BranchAttack", "robustnorm.settings.campaign.Plan")


@cache  # a campaign reads many configs
def _parser() -> ArgumentParser:
    # A value may name a subclass of its type by its module, which would be imported to look at it.
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(_NAMED_TYPES))
    register_type(Fraction, serializer=str, deserializer=parse_fraction)
    parser = ArgumentParser(
        prog="robustnorm",
        description="Adversarial training and evaluation of normalization layers.",
        epilog="exit statuses:\n"
        + "\n".join(f"  {status.value:<4}{status.meaning}" for status in Status),
        formatter_class=_HelpFormatter,
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
        by_place = {
            field.name: field.metadata["by_place"]
            for field in fields(command.settings)
            if "by_place" in field.metadata
        }
        options.add_class_arguments(command.settings, as_positional=True, skip=set(by_place))
        for field_name, text in by_place.items():
            options.add_argument(field_name, nargs="*", type=str, help=text)
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


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _fail(message: str, status: Status = Status.USAGE) -> int:
    sys.stderr.write(f"robustnorm: {message}\n")
    return status
