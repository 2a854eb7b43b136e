"""The command line: parses settings before torch is loaded, then runs the command."""

from __future__ import annotations

import errno
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml

from robustnorm.models import NETWORKS
from robustnorm.settings.campaign import CampaignSettings, campaign_plans
from robustnorm.settings.config import Config
from robustnorm.settings.diagnose import DiagnoseSettings
from robustnorm.settings.export import ExportSettings
from robustnorm.settings.gan import GanSettings
from robustnorm.settings.help import help_of
from robustnorm.settings.import_weights import EvalSettings, ImportSettings
from robustnorm.settings.nas import SearchSettings, Table2Settings
from robustnorm.settings.parsing import read_words, typed_networks
from robustnorm.settings.results import (
    CompareSettings,
    ReportSettings,
    StudySettings,
    VerifySettings,
)
from robustnorm.settings.style import StyleSettings, StylizeSettings
from robustnorm.settings.sweep import SweepSettings, sweep_plans
from robustnorm.settings.values import shown as in_one_line
from robustnorm.system.errors import CheckFailed, Status, UsageError, UserError
from robustnorm.system.escaping import for_terminal
from robustnorm.system.registry import did_you_mean
from robustnorm.system.stopping import SignalStop, Stopped


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        help: What the command does.
        settings: The dataclass of its options. A field without a default is positional; one with
            "positional" in its metadata, which is its help, takes all remaining words.
        run: "module:function", imported when the command runs. Takes the settings, and returns the
            text to print or None. May also take ``config_path``, the path of the config file, and
            ``should_stop``, which reports a signal; without it, a signal ends the command at once.
    """

    help: str
    settings: type[Any]
    run: str


COMMANDS = {
    "train": Command(
        "Train one norm with AdvProp, or continue its interrupted run.",
        Config,
        "robustnorm.work.train:train_run",
    ),
    "eval": Command(
        "Evaluate every checkpoint that fits the config, or --weights from other code; print and "
        "write Tables 3 and 4.",
        EvalSettings,
        "robustnorm.commands.evaluate:evaluate",
    ),
    "verify": Command(
        "Check a record again: hashes, clean verdicts, and each adversarial image that was kept.",
        VerifySettings,
        "robustnorm.commands.verify:verify_record",
    ),
    "reproduce": Command(
        "Train bn, modenorm, auxbn, saauxbn and a control on clean images, then evaluate.",
        Config,
        "robustnorm.commands.reproduce:reproduce",
    ),
    "report": Command(
        "Write an HTML page with figures from result records.",
        ReportSettings,
        "robustnorm.work.report:report",
    ),
    "compare": Command(
        "Compare runs or result records of any networks, in one table and page with paired tests.",
        CompareSettings,
        "robustnorm.commands.compare:compare_runs",
    ),
    "campaign": Command(
        "Train and evaluate the plans of a campaign, in slices of time.",
        CampaignSettings,
        "robustnorm.work.campaign:run_campaign",
    ),
    "demo": Command(
        "Train and compare the norms on scikit-learn's digits, in minutes and without a download.",
        Config,
        "robustnorm.commands.demo:demo",
    ),
    "diagnose": Command(
        "Compare the gradients of branches and classes of one or more runs, stage by stage.",
        DiagnoseSettings,
        "robustnorm.commands.diagnose:diagnose_runs",
    ),
    "ablate": Command(
        "Train and evaluate all six norms of {shared, split} statistics x {shared, split, "
        "sandwich} affine.",
        Config,
        "robustnorm.commands.ablate:ablate",
    ),
    "study": Command(
        "Study every checkpoint that fits the config: swapped branches, re-estimated statistics, "
        "gates.",
        StudySettings,
        "robustnorm.commands.study:study_runs",
    ),
    "referee": Command(
        "Compare the attack worst with AutoAttack on every checkpoint that fits the config, by "
        "default on 100 test images.",
        Config,
        "robustnorm.commands.referee:referee",
    ),
    "import": Command(
        "Import weights that other code trained, as a run to evaluate.",
        ImportSettings,
        "robustnorm.commands.import_weights:import_run",
    ),
    "sweep": Command(
        "Train and evaluate norms x seeds x configs as jobs: in processes, on Ray or on Slurm.",
        SweepSettings,
        "robustnorm.work.sweep:sweep",
    ),
    "figure7": Command(
        "Train style transfer with AdaIN, ILM+IN and SaAdaIN; write Figures 7 and 8 and a table.",
        StyleSettings,
        "robustnorm.commands.figure7:figure7",
    ),
    "stylize": Command(
        "Apply the style of one picture to another with a network that figure7 trained.",
        StylizeSettings,
        "robustnorm.commands.stylize:stylize",
    ),
    "search": Command(
        "Search for a cell in NAS-Bench-201 with DARTS and one norm; print the cell's accuracies.",
        SearchSettings,
        "robustnorm.commands.search:search_cell",
    ),
    "table1": Command(
        "Train SNGAN, AutoGAN and BigGAN with ccbn and sabn; write Table 1, Figures 2 and 3.",
        GanSettings,
        "robustnorm.commands.table1:table1",
    ),
    "table2": Command(
        "Search with bn, affine, ccbn and sabn under each seed; print and write Table 2.",
        Table2Settings,
        "robustnorm.commands.search:table2",
    ),
    "export": Command(
        "Export one branch of a trained run to a file for other tools, and check the file.",
        ExportSettings,
        "robustnorm.commands.export:export_run",
    ),
}

# Removed commands, and what replaces them.
REMOVED = dict.fromkeys(
    ("pack", "unpack"), "move runs with tar, split and sha256sum as docs/moving-runs.md shows"
) | {"replay": "a training that diverges names the layer where it starts; run its command again"}


_ABOUT = """usage: robustnorm COMMAND [--config FILE] [--SETTING VALUE ...]

Adversarial training and evaluation of normalization layers.

commands (robustnorm COMMAND --help shows the settings):
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        arguments: Words after the program's name; ``sys.argv``'s by default.

    Returns:
        A ``robustnorm.system.errors.Status``.
    """
    stop, status = SignalStop(), Status.DONE
    with stop.installed():
        try:
            try:
                text = _run(sys.argv[1:] if arguments is None else arguments, stop)
            except CheckFailed as failed:
                text, status = str(failed), failed.status
            if text is not None:
                print(for_terminal(text), flush=True)
        except (Exception, KeyboardInterrupt) as error:
            status = _fail(*_explain(KeyboardInterrupt() if stop.interrupted else error))
    # The sender of the signal expects this status, even if the work was finished after it.
    return Status.PREEMPTED if stop.received and status == Status.DONE else status


def _run(words: Sequence[str], stop: SignalStop) -> str | None:
    """Runs a command; returns the text to print."""
    Path.cwd()  # raises if the folder was removed; torch's libraries would report this obscurely
    with NETWORKS.typed(*typed_networks(words)):
        return _run_typed(words, stop)


def _run_typed(words: Sequence[str], stop: SignalStop) -> str | None:
    command, settings, path = parse(words)
    if os.environ.get("WORLD_SIZE", "1") != "1" and command is not COMMANDS["train"]:
        raise UsageError("only 'train' can use torchrun's processes; run this command without it")

    from robustnorm.system.allocator import keep_freed_memory

    log, handler = logging.getLogger("robustnorm"), logging.StreamHandler()
    log.setLevel(logging.INFO)
    handler.setFormatter(_Plain())
    log.addHandler(handler)
    keep_freed_memory()
    module, _, name = command.run.partition(":")
    try:
        function = getattr(import_module(module), name)
        taken = signature(function).parameters
        offered = {"config_path": path, "should_stop": stop}
        text: str | None = function(settings, **{k: v for k, v in offered.items() if k in taken})
    finally:
        log.removeHandler(handler)
    return text


class _Plain(logging.Formatter):
    """Formats lines of the log; escapes what text from files could do to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def parse(arguments: Sequence[str]) -> tuple[Command, Any, str | None]:
    """Returns the command, its settings and the config file's path; does not import torch.

    Raises:
        UserError: When a word is unknown, or a value has the wrong type or is out of range.
        SystemExit: After printing the help, the version or the settings, when asked to.
    """
    name, *words = list(arguments) or ["--help"]
    if name == "help":
        name, *words = [*words, "--help"]
    if {"-v", "--version"} & {name, *words}:
        _show(f"robustnorm {version('robustnorm')}")
    if name in ("-h", "--help"):
        _show(_overview())
    if name in REMOVED:
        raise UsageError(f"'{name}' is no longer a command: {REMOVED[name]}")
    if name.startswith("-"):
        raise UsageError("a command comes first, such as: robustnorm train --epochs 3")
    if name not in COMMANDS:
        raise UsageError(
            f"unknown command '{name}'{did_you_mean(name, COMMANDS)} For a list: robustnorm help"
        )
    command = COMMANDS[name]
    if {"-h", "--help"} & set(words):
        _show(help_of(name, command.help, command.settings))
    if name == "demo" and not any(word.startswith("--config") for word in words):
        words.insert(0, "--config=digits")
    try:
        print_config = issubclass(command.settings, Config) and "--print_config" in words
        if print_config:
            words.remove("--print_config")
        settings, path = read_words(command.settings, words)
        if isinstance(settings, CampaignSettings):
            campaign_plans(settings)
        if isinstance(settings, SweepSettings):
            sweep_plans(settings)
    except UserError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    if print_config:
        _show(yaml.safe_dump(Config.of(settings).to_dict(), sort_keys=False).rstrip())
    return command, settings, path


def _overview() -> str:
    commands = [
        textwrap.fill(f"  {name:<12}{command.help}", 100, subsequent_indent=" " * 14)
        for name, command in COMMANDS.items()
    ]
    statuses = [f"  {status.value:<4}{status.meaning}" for status in Status]
    return _ABOUT + "\n".join([*commands, "", "exit statuses:", *statuses])


def _show(text: str) -> None:
    print(text, flush=True)
    raise SystemExit(Status.DONE)


def _explain(error: BaseException) -> tuple[str, Status]:
    """Returns the message and the exit status; raises unexpected errors again."""
    match error:
        case UserError():
            return str(error), error.status
        case Stopped():
            return f"{error}; the same command continues", Status.PREEMPTED
        case KeyboardInterrupt():
            text = "interrupted; saved work is kept, and the same command continues from there"
            return text, Status.INTERRUPTED
        case BrokenPipeError():
            _forget(sys.stdout)
            return "the output pipe was closed; the same command prints it again", Status.CLOSED
        case OSError():
            path = "the working folder" if error.filename is None else in_one_line(error.filename)
            if error.errno == errno.ENAMETOOLONG:
                return f"{path} is too long for the name of a file; shorten it", Status.USAGE
            question = f"does {path} still exist, and do you have permission to read and write it?"
            return f"{error.strerror or error}: {question}", Status.DISK
        case ImportError():
            return str(error), Status.USAGE
        case MemoryError() | RuntimeError() if _is_out_of_memory(error):
            reason = str(error).partition("\n")[0] or type(error).__name__
            remedy = "free memory, or use a --device with more; the same command continues"
            return f"out of memory ({reason}): {remedy}", Status.MEMORY
    raise error


def _is_out_of_memory(error: BaseException) -> bool:
    from robustnorm.system.memory import is_out_of_memory  # also knows torch's errors

    return is_out_of_memory(error)


def _forget(stream: TextIO) -> None:
    """Discards the unwritten output of a closed pipe, which Python would try to write at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str, status: Status) -> Status:
    try:
        sys.stderr.write(f"robustnorm: {for_terminal(message)}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        _forget(sys.stderr)
    return status
