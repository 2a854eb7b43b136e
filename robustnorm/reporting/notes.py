"""Notes below the tables: how the numbers were measured, and which differences may be chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from robustnorm.models.naming import describe_source, is_registered
from robustnorm.records.record import Record
from robustnorm.reporting.model_records import (
    NAMES,
    ModelRecords,
    beyond_pgd,
    has_transfers,
    named_among,
)
from robustnorm.reporting.paper import SETTING

MARGIN_NOTE = (
    "Margin: median over the clean images of the label's logit minus the largest other logit. PGD "
    "on the cross-entropy depends on this scale: between models whose margins differ, it may "
    "explain small differences in RA."
)


def setting_notes(models: Sequence[ModelRecords], *, paper: bool = True) -> list[str]:
    """Describes the images, then training and attack.

    Args:
        models: Models with verdicts on the same images.
        paper: Also name what differs from the paper's experiment.
    """
    records = [record for model in models for record in model.records]
    first = records[0]
    data, protocol = first.dataset, first.protocol
    several = len(records) > len(models)
    one_seed = "this one seed" if len({record.seed for record in records}) == 1 else "one seed each"
    sample = one_seed if all(record.is_ours for record in records) else "these weights"
    notes = [
        f"n = {first.sample} test images of {data['name']}. Intervals: "
        "Wilson, 95 %, over the choice of test images, "
        + ("at the mean over seeds." if several else f"for {sample}."),
        f"Training: {_each(models, _training)}; seed "
        f"{_each(models, _seed)}; protocol {_each(models, _protocol)}. "
        f"Checkpoint {_each(models, _checkpoint)}.",
        f"Attack: PGD, {attacks_text(protocol)}, uniform random start, through the branch that "
        "scores; verdict at the last iterate ('any': neither the clean image nor any iterate up to "
        "it was misclassified).",
        _search_note(models),
    ]
    counted = named_among(models[0].counted)
    counted = counted if paper or beyond_pgd(models[0].counted) else []
    if "worst" in counted:
        restricted = models[0].attacks is not None
        others = [name for name in counted if name != "worst"]
        others += ["images made against other runs"] * (has_transfers(first) and not restricted)
        run = "that every network was attacked with" if restricted else "that was run"
        notes.append(
            f"Worst case, Worst %: images that withstand everything {run}: every iterate of "
            f"PGD, {''.join(f'{name}, ' for name in others)}and the attack worst, a sequence of "
            "gradient attacks, each on the images that have withstood the previous ones."
        )
    elif counted:
        notes.append(
            "Worst case, Worst %: images that withstand every iterate of PGD and "
            f"{' and '.join(counted)}. The attack worst was not run on all networks."
        )
    if first.has("autoattack"):
        notes.append(
            "AutoAttack: the standard ensemble (apgd-ce, apgd-t, fab-t, square) in its authors' "
            "code, on the branch that scores."
        )
    if paper and any(_differing(record) for record in records):
        differing = _each(models, lambda record: "; ".join(_differing(record)) or "the paper's")
        notes.append(
            f"Not the paper's experiment: {differing}. A comparison with the paper's numbers is "
            "one of different experiments."
        )
    return notes


def attacks_text(protocol: dict[str, Any], epsilon: str = "epsilon") -> str:
    """Describes the ball and the step of a protocol's attack, and those of single branches.

    Args:
        protocol: Of a record.
        epsilon: Name of the radius, before its value.
    """

    def describe(attack: dict[str, str]) -> str:
        return (
            f"{attack['threat_model'].capitalize()}, {epsilon} {attack['epsilon']}, step "
            f"{attack['step_size']}"
        )

    branches = protocol.get("branches", {}).items()
    return "; ".join([describe(protocol), *(f"branch {b}: {describe(a)}" for b, a in branches)])


def _search_note(models: Sequence[ModelRecords]) -> str:
    verdicts = [v for model in models for record in model.records for v in record.verdicts]
    search = _each(models, lambda record: str(record.protocol["search"]))
    precision = _each(models, lambda record: str(record.protocol["precision"]))
    disagreements = sum(v.disagreements for v in verdicts)
    total = sum(v.correct.size for v in verdicts)
    without_copy, without_gradient = (
        ", ".join(sorted({v.attack_branch for v in verdicts if v.searched == source}))
        for source in ("network", "nothing")
    )
    exceptions = (
        f" For {without_copy} no copy has the network's logits and gradients, so the network "
        "itself was attacked."
        if without_copy
        else ""
    )
    if without_gradient:
        exceptions += (
            f" The logits of {without_gradient} have no gradient with respect to the images: PGD "
            "leaves them at their random starts and does not measure robustness; the attack worst "
            "searches without gradients."
        )
    return (
        f"Gradients come from a copy of each branch ({search}), every "
        f"verdict from the network itself in {precision}; the copy "
        f"disagreed on {disagreements:,} of {total:,} verdicts.{exceptions}"
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
    done = len(record.history) or epochs  # one entry per epoch
    unfinished = f"{done} of " * (done < epochs)
    return (
        f"{unfinished}{epochs} epoch{'s' * (epochs > 1)}{shortened}, {images:,} images, "
        f"{_network(record)}, {config['precision']}"
    )


def _network(record: Record) -> str:
    """Names the network with what determines it: its width, or its arguments and its source."""
    config, source = record.config, record.checkpoint.get("network_source", {})
    arguments = [f"{key}={value}" for key, value in config.get("network_args", {}).items()]
    call = f"{config['network']}({', '.join(arguments)})" if arguments else str(config["network"])
    if is_registered(config["network"]):
        return f"{call} of width {config['width']}"
    return f"{call} ({describe_source(source)})" if source else call


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
    """Describes all models at once if they agree, otherwise one by one."""
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
        "threat model": record.protocol["threat_model"].capitalize(),
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
        f"{NAMES[norm]} is not trained yet: {train_command.replace('{norm}', norm)}"
        for norm in missing
    ]
