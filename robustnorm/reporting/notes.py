"""What stands under the tables: how the numbers were measured, and what they cannot tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from robustnorm.evaluation.records import Record
from robustnorm.evaluation.statistics import mcnemar
from robustnorm.reporting.models import ATTACKS, NAMES, Model
from robustnorm.reporting.paper import SETTING


def setting_notes(models: list[Model]) -> list[str]:
    """Returns what was trained, attacked and counted, the images first."""
    records = [record for model in models for record in model.records]
    first = records[0]
    data, protocol = first.dataset, first.protocol
    several = len(records) > len(models)
    threat_model = protocol["threat_model"].capitalize()
    notes = [
        f"n = {first.n:,} of {data['test_images']:,} test images of {data['name']}. Intervals: "
        "Wilson, 95 %, over the choice of test images, "
        + ("at the mean over seeds." if several else "for this one seed."),
        f"Training: {_each(models, _training)}; seed "
        f"{_each(models, lambda record: str(record.seed))}; protocol '{protocol['name']}'. "
        f"Checkpoint {_each(models, _checkpoint)}.",
        f"Attack: PGD, {threat_model}, epsilon {protocol['epsilon']}, step "
        f"{protocol['step_size']}, uniform random start, through the branch that scores; verdict "
        "at the last iterate ('any': no image or iterate up to it was misclassified).",
        _search_note(records),
    ]
    if first.has("autoattack"):
        notes.append(
            "AutoAttack: the standard ensemble (apgd-ce, apgd-t, fab-t, square) by its authors' "
            "code, on the branch that scores."
        )
    differing = _differing(first)
    if differing:
        notes.append(
            f"Not the paper's experiment: {'; '.join(differing)}. A difference to its "
            "numbers compares different experiments."
        )
    return notes


def _search_note(records: list[Record]) -> str:
    verdicts = [verdict for record in records for verdict in record.verdicts]
    odd, total = sum(v.disagreements for v in verdicts), sum(v.correct.size for v in verdicts)
    return (
        f"Gradients from a copy of each branch ({records[0].protocol['search']}), every verdict by "
        f"the network itself in {records[0].protocol['precision']}; the copy judged otherwise on "
        f"{odd:,} of {total:,}."
    )


def _training(record: Record) -> str:
    config, images = record.config, record.dataset["train_images"]
    epochs, paper = record.checkpoint["epochs"], SETTING["epochs"]
    shortened = f" (shortened: the paper trains {paper})" if epochs < paper else ""
    return (
        f"{epochs} epoch{'s' * (epochs > 1)}{shortened}, {images:,} images, "
        f"{config['network']} of width {config['width']}, {config['precision']}"
    )


def _checkpoint(record: Record) -> str:
    return f"'{record.checkpoint['tag']}' of epoch {record.checkpoint['epoch']}"


def _each(models: list[Model], describe: Callable[[Record], str]) -> str:
    """Returns what holds for all records once, else model by model."""
    texts = {
        model.name: ", ".join(dict.fromkeys(describe(record) for record in model.records))
        for model in models
    }
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


def _differing(record: Record) -> list[str]:
    ours = {
        "data": record.dataset["name"],
        "training images": record.dataset["train_images"],
        "network": record.config["network"],
        "width": record.config["width"],
        "epochs": record.checkpoint["epochs"],
        "epsilon": record.protocol["epsilon"],
        "step size": record.protocol["step_size"],
        "training attack steps": record.config["train_steps"],
    }
    return [
        f"{name} {ours[name]} (paper: {theirs})"
        for name, theirs in SETTING.items()
        if ours[name] != theirs
    ]


def missing_notes(missing: list[str], train_command: str) -> list[str]:
    """Returns the commands that train what is missing."""
    return [
        f"{NAMES[norm]} is not trained yet: {train_command.format(norm=norm)}" for norm in missing
    ]


def test_note(branch: str, evaluation: str, models: list[Model]) -> str:
    """Returns which models the test images do not tell apart, by the first seed of each."""
    alike = []
    for one, other in itertools.combinations(models, 2):
        verdicts = [
            model.verdicts(ATTACKS[evaluation], "final", *[model.branch(branch)] * 2)[0].correct
            for model in (one, other)
        ]
        p = mcnemar(*verdicts)
        if p >= 0.05:
            alike.append(f"{one.name} and {other.name} (p = {p:.2f})")
    test = f"exact McNemar test on {evaluation}, first seed of each, 5 % level, unadjusted"
    if len(models) < 2:
        return f"One model only: nothing to compare ({test})."
    return f"Not distinguishable ({test}): {'; '.join(alike) or 'no pair'}."
