"""Notes below the tables: how the numbers were measured, and which differences may be chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from robustnorm.models.naming import in_words, is_registered
from robustnorm.records.record import Record
from robustnorm.reporting.model_records import NAMES, ModelRecords
from robustnorm.reporting.paper import SETTING

GROUP_NOTE = (
    "Group: rows of one evaluation that share a letter are not distinguishable at the 5 % level "
    "(exact McNemar test on the same images, Holm's adjustment for the pairs of the evaluation, "
    "first seed of each)."
)

MARGIN_NOTE = (
    "Margin: median over the clean images of the label's logit less the largest other one. PGD on "
    "the cross-entropy depends on this scale: between models whose margins differ, small "
    "differences in RA may come from it."
)


def setting_notes(models: Sequence[ModelRecords], *, paper: bool = True) -> list[str]:
    """Describes images, training and attack, the images first.

    Args:
        models: With verdicts on the same images.
        paper: Also name what differs from the paper's experiment.
    """
    records = [record for model in models for record in model.records]
    first = records[0]
    data, protocol = first.dataset, first.protocol
    several = len(records) > len(models)
    notes = [
        f"n = {first.n:,} of {data['test_images']:,} test images of {data['name']}. Intervals: "
        "Wilson, 95 %, over the choice of test images, "
        + ("at the mean over seeds." if several else f"for {_sample(first)}."),
        f"Training: {_each(models, _training)}; seed "
        f"{_each(models, _seed)}; protocol {_each(models, _protocol)}. "
        f"Checkpoint {_each(models, _checkpoint)}.",
        f"Attack: PGD, {_attacks(protocol)}, uniform random start, through the branch that scores; "
        "verdict at the last iterate ('any': no image or iterate up to it was misclassified).",
        _search_note(records),
    ]
    if first.has("worst"):
        notes.append(
            "Worst case, Worst %: images that withstand all that was run: PGD at every iterate, "
            "and the attack worst, gradient attacks in turn on those that still withstand."
        )
    if first.has("autoattack"):
        notes.append(
            "AutoAttack: the standard ensemble (apgd-ce, apgd-t, fab-t, square) by its authors' "
            "code, on the branch that scores."
        )
    if paper and any(_differing(record) for record in records):
        differing = _each(models, lambda record: "; ".join(_differing(record)) or "the paper's")
        notes.append(
            f"Not the paper's experiment: {differing}. A difference from its numbers compares "
            "different experiments."
        )
    return notes


def _attacks(protocol: dict[str, Any]) -> str:
    def describe(attack: dict[str, str]) -> str:
        return (
            f"{attack['threat_model'].capitalize()}, epsilon {attack['epsilon']}, step "
            f"{attack['step_size']}"
        )

    own = [f"{branch}: {describe(a)}" for branch, a in protocol.get("branches", {}).items()]
    return "; ".join([describe(protocol), *(f"branch {attack}" for attack in own)])


def _search_note(records: list[Record]) -> str:
    verdicts = [verdict for record in records for verdict in record.verdicts]
    odd, total = sum(v.disagreements for v in verdicts), sum(v.correct.size for v in verdicts)
    themselves, nothing = (
        ", ".join(sorted({v.attack_branch for v in verdicts if v.searched == what}))
        for what in ("network", "nothing")
    )
    attacked = (
        f" Of {themselves} no copy has the network's logits and gradients: the network itself was "
        "attacked."
        if themselves
        else ""
    )
    if nothing:
        attacked += (
            f" The logits of {nothing} have no gradient in the images: PGD leaves them at their "
            "random start and measures no robustness; the attack worst searches without gradients."
        )
    return (
        f"Gradients from a copy of each branch ({records[0].protocol['search']}), every verdict by "
        f"the network itself in {records[0].protocol['precision']}; the copy disagreed on "
        f"{odd:,} of {total:,}.{attacked}"
    )


def _training(record: Record) -> str:
    if record.given:
        return f"{record.given} given in Python, its training is not known"
    if record.imported:
        return (
            f"weights imported from {record.imported}, their training is not known; "
            f"{_network(record)}"
        )
    config, images = record.config, record.dataset["train_images"]
    epochs, paper = record.checkpoint["epochs"], SETTING["epochs"]
    shortened = f" (shortened: the paper trains {paper})" if epochs < paper else ""
    return (
        f"{epochs} epoch{'s' * (epochs > 1)}{shortened}, {images:,} images, "
        f"{_network(record)}, {config['precision']}"
    )


def _network(record: Record) -> str:
    """Names the network with what determines it: its width, or its own arguments and source."""
    config, source = record.config, record.checkpoint.get("network_source", {})
    given = [f"{key}={value}" for key, value in config.get("network_args", {}).items()]
    told = f"{config['network']}({', '.join(given)})" if given else str(config["network"])
    if is_registered(config["network"]):
        return f"{told} of width {config['width']}"
    return f"{told} ({in_words(source)})" if source else told


def _sample(record: Record) -> str:
    return "this one seed" if record.is_ours else "these very weights"


def _seed(record: Record) -> str:
    return str(record.seed) if record.is_ours else "not known"


def _protocol(record: Record) -> str:
    return repr(record.protocol["name"]) if record.is_ours else "not known"


def _checkpoint(record: Record) -> str:
    if record.imported:
        return "as imported"
    if record.given:
        return "as given"
    return f"'{record.checkpoint['tag']}' of epoch {record.checkpoint['epoch']}"


def _each(models: Sequence[ModelRecords], describe: Callable[[Record], str]) -> str:
    """Returns what describes all records once, otherwise model by model."""
    texts = {
        model.name: ", ".join(dict.fromkeys(describe(record) for record in model.records))
        for model in models
    }
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


def _differing(record: Record) -> list[str]:
    if record.imported:
        return ["weights imported, training not known"]
    if record.given:
        return ["network given in Python, training not known"]
    ours = {
        "data": record.dataset["name"],
        "training images": record.dataset["train_images"],
        "network": record.config["network"],
        **({"width": record.config["width"]} if is_registered(record.config["network"]) else {}),
        "epochs": record.checkpoint["epochs"],
        "epsilon": record.protocol["epsilon"],
        "step size": record.protocol["step_size"],
        "training attack steps": record.config["train_steps"],
    }
    return [
        f"{name} {ours[name]} (paper: {theirs})"
        for name, theirs in SETTING.items()
        if name in ours and ours[name] != theirs
    ]


def missing_notes(missing: list[str], train_command: str) -> list[str]:
    """Returns the commands that train the missing norms."""
    return [
        f"{NAMES[norm]} is not trained yet: {train_command.format(norm=norm)}" for norm in missing
    ]
