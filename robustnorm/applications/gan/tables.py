"""Table 1 beside the paper's, its paired differences, and Figure 2's numbers, from records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from robustnorm.applications.gan.record import GanRecord, pairs
from robustnorm.evaluation.statistics import Interval, student
from robustnorm.reporting.render import Cell, Table
from robustnorm.system.errors import UsageError

NETWORKS = {"sngan": "SNGAN", "biggan": "BigGAN", "autogan": "AutoGAN-top1"}
NORMS = {"ccbn": "CCBN", "sabn": "SaBN"}
# Gong et al., Table 1, CIFAR-10: the best IS and FID over a training.
PAPER = {
    ("sngan", "ccbn"): (8.76, 10.18),
    ("sngan", "sabn"): (8.89, 8.97),
    ("biggan", "ccbn"): (8.91, 8.57),
    ("biggan", "sabn"): (9.01, 8.03),
    ("autogan", "ccbn"): (8.43, 10.51),
    ("autogan", "sabn"): (8.72, 9.11),
}
# A stage's numbers, as Figure 2 and its tables show them.
SPREAD, RELATIVE, COSINE = "Std of norms", "Std over mean", "Mean cosine"
QUANTITIES: dict[str, Callable[[Any], float]] = {
    RELATIVE: lambda stage: stage.std_of_norms / stage.mean_norm,
    SPREAD: lambda stage: stage.std_of_norms,
    COSINE: lambda stage: stage.mean_cosine,
}

_PAIRED_NOTE = (
    "SaBN minus CCBN, runs of one seed against each other: they see the same images, latent "
    "vectors and labels, from other initial weights. Intervals: 95 %, Student's over seeds, not "
    "adjusted for the number of comparisons."
)


def model_name(network: str, norm: str) -> str:
    """Returns the name of a row."""
    return f"{NETWORKS[network]} ({NORMS[norm]})"


def measure_names(record: GanRecord) -> tuple[str, str]:
    """Returns what distance and score are called: FID and IS through Inception alone."""
    if record.features["network"].startswith("Inception"):
        return "FID", "IS"
    net = f"C{len(record.dataset['classes'])}net"
    return f"FID-{net}", f"IS-{net}"


def group(records: Sequence[GanRecord]) -> dict[tuple[str, str], list[GanRecord]]:
    """Returns the records by network and norm, in the paper's order, by seed.

    Raises:
        UsageError: When there is none, or they differ in more than network, norm and seed.
    """
    if not records:
        raise UsageError("no network is trained yet; run robustnorm table1 without --train false")
    first = records[0]
    own = ("network", "norm", "seed")
    for record in records[1:]:
        odd = [
            name
            for name, value in record.config.items()
            if name not in own and value != first.config.get(name)
        ]
        odd += [
            name
            for name in ("dataset", "features")
            if getattr(record, name)["sha256"] != getattr(first, name)["sha256"]
        ]
        if odd:
            raise UsageError(
                f"runs of one table differ in network, norm and seed alone, {record.network}-"
                f"{record.norm}-seed{record.seed} differs in {', '.join(odd)}; give it another "
                "--name, or remove its record"
            )
    grouped = {
        (network, norm): sorted(
            (r for r in records if (r.network, r.norm) == (network, norm)), key=lambda r: r.seed
        )
        for network in NETWORKS
        for norm in NORMS
    }
    return {key: members for key, members in grouped.items() if members}


def tables(records: Sequence[GanRecord]) -> list[Table]:
    """Returns Table 1, further measures, paired differences and the gradients' comparison.

    Raises:
        UsageError: As ``group``.
    """
    grouped = group(records)
    setting = setting_note(grouped)
    made = [_table1(grouped, setting), _further(grouped, setting), _differences(records, setting)]
    if records[0].gradients:
        made += [_places(records, setting), _gradients(records, setting)]
    return [table for table in made if table.rows]  # without a pair of runs some have none


def setting_note(grouped: dict[tuple[str, str], list[GanRecord]]) -> str:
    """Returns what was trained, on what, and how it was measured."""
    record = next(iter(grouped.values()))[0]
    config, features = record.config, record.features
    seeds = ", ".join(f"{model_name(*key)} {len(found)}" for key, found in grouped.items())
    net = features["network"]
    if "accuracy" in features:
        net += (
            f" of width {features['width']}, trained here ({features['epochs']} epochs): "
            f"{100 * features['accuracy']:.1f} % test accuracy"
        )
    return (
        f"{record.dataset['name']}, {record.dataset['train_images']:,} training images of "
        f"{config['image_size']}x{config['image_size']}; {config['steps']:,} steps of the "
        f"generator, {config['discriminator_steps']} of the discriminator before each, widths "
        f"{config['width']} and {config['discriminator_width']}. Measured: n = "
        f"{record.at('last')['n']:,} images of the running mean (weight {config['average']:g}), "
        f"labels balanced and in random order, through a {net} (sha256 {features['sha256'][:8]}). "
        f"Seeds: {seeds}."
    )


def reading(records: Sequence[GanRecord]) -> str:
    """Returns a sentence for each GAN: whether SaBN is better than CCBN, as the paper has it."""
    distance, _ = measure_names(records[0])
    sentences = []
    for network, name in NETWORKS.items():
        found = pairs(records, network)
        values = [b.at("last")["distance"] - a.at("last")["distance"] for a, b in found]
        limits = student(values)
        if limits is None:
            continue
        verdict = "not distinguishable"
        if limits.low > 0 or limits.high < 0:
            verdict = "SaBN is better" if limits.high < 0 else "CCBN is better"
        sentences.append(
            f"{name}: SaBN minus CCBN in {distance} {mean(values):+.2f} {_limits(limits)}, "
            f"{verdict} ({len(values)} seeds)"
        )
    if not sentences:
        return "No GAN was trained with both norms and two seeds or more: nothing can be said."
    return "At the last step. " + "; ".join(sentences) + "."


def _table1(grouped: dict[tuple[str, str], list[GanRecord]], setting: str) -> Table:
    first = next(iter(grouped.values()))[0]
    names = measure_names(first)
    rows: list[tuple[Cell, ...]] = []
    for key, found in grouped.items():
        cells: list[Cell] = []
        for measure in ("distance", "score"):
            last = [record.at("last")[measure] for record in found]
            best = [record.at("best")[measure] for record in found]
            cells += [f"{mean(last):.2f}", _limits(student(last)), f"{mean(best):.2f}"]
        score, distance = PAPER[key]
        paper = (f"{distance:.2f}", f"{score:.2f}")
        rows.append((model_name(*key), str(len(found)), *cells, *paper))
    real = first.test_images
    here = [f"{real['distance']:.3f}", None, None, f"{real['score']:.2f}", None, None]
    rows.append(("test images", None, *here, None, None))
    surrogate = (
        []
        if names[0] == "FID"
        else [
            f"{names[0]} and {names[1]} look through a small classifier that was trained here on "
            "the same images. They are not FID and IS and can be compared only with each other: a "
            "difference from the paper's columns would mean nothing, so none is printed."
        ]
    )
    return Table(
        "table1",
        "Table 1: SNGAN, BigGAN and AutoGAN-top1 with CCBN and SaBN",
        (
            "Model",
            "Seeds",
            f"{names[0]}, last",
            "95 % interval",
            f"{names[0]}, best",
            f"{names[1]}, last",
            "95 % interval of it",
            f"{names[1]}, best",
            "Paper FID",
            "Paper IS",
        ),
        rows,
        [
            setting,
            *surrogate,
            f"Means over seeds; intervals: 95 %, Student's over seeds. Last: after the last step. "
            f"Best: at the step, of those measured, with the lowest {names[0]} of the run, as the "
            "paper and its release choose; a choice by what is reported flatters every row.",
            "Paper: Gong et al., Table 1, CIFAR-10 at 32x32 and full width, best over a training "
            "of 50,000 steps or more, one number a model.",
            "Test images: the data's own, an upper bound for every generator.",
        ],
    )


def _further(grouped: dict[tuple[str, str], list[GanRecord]], setting: str) -> Table:
    first = next(iter(grouped.values()))[0]
    measures = {"precision": "Precision %", "recall": "Recall %"}
    if first.test_images["label_accuracy"] is not None:
        measures = {"label_accuracy": "Label accuracy %"} | measures
    rows: list[tuple[Cell, ...]] = []
    for key, found in grouped.items():
        cells: list[Cell] = []
        for measure in measures:
            values = [record.at("last")[measure] for record in found]
            limits = student(values)
            inside = limits and Interval(max(0.0, limits.low), min(1.0, limits.high))
            cells += [mean(values), inside]
        seconds = mean(record.seconds for record in found)
        rows.append((model_name(*key), str(len(found)), *cells, f"{seconds / 60:.1f}"))
    real: list[Cell] = []
    for measure in measures:
        real += [first.test_images[measure], None]
    rows.append(("test images", None, *real, None))
    return Table(
        "further",
        "Further measures at the last step",
        (
            "Model",
            "Seeds",
            *(
                column
                for name in measures.values()
                for column in (name, f"95 % interval of {name.removesuffix(' %').lower()}")
            ),
            "Minutes",
        ),
        rows,
        [
            setting,
            f"Label accuracy: of the classifier on generated images, against the classes that they "
            f"were made for; {100 / len(first.dataset['classes']):.0f} % ignores the class. "
            "Precision and recall: Kynkäänniemi et al., third nearest neighbours. Minutes: of the "
            f"steps of a run, on {first.device}, beside other work.",
        ],
    )


def _differences(records: Sequence[GanRecord], setting: str) -> Table:
    distance, score = measure_names(records[0])
    wanted = {"distance": (distance, -1), "score": (score, 1)}
    if records[0].test_images["label_accuracy"] is not None:
        wanted["label_accuracy"] = ("Label accuracy", 1)
    rows: list[tuple[Cell, ...]] = []
    for network, name in NETWORKS.items():
        found = pairs(records, network)
        if not found:
            continue
        for measure, (title, sign) in wanted.items():
            for when in ("last", "best"):
                values = [b.at(when)[measure] - a.at(when)[measure] for a, b in found]
                better = sum(sign * value > 0 for value in values)
                paper = _paper_difference(network, measure)
                rows.append(
                    (
                        name,
                        f"{title}, {when}",
                        f"{mean(values):+.3f}",
                        _limits(student(values), 3),
                        f"{better} of {len(values)}",
                        paper,
                    )
                )
    return Table(
        "differences",
        "SaBN minus CCBN, paired by seed",
        ("GAN", "Measure", "Difference", "95 % interval", "SaBN better", "Paper (FID, IS)"),
        rows,
        [setting, _PAIRED_NOTE],
    )


def _paper_difference(network: str, measure: str) -> str | None:
    if measure not in ("score", "distance"):
        return None
    place = ("score", "distance").index(measure)
    return f"{PAPER[network, 'sabn'][place] - PAPER[network, 'ccbn'][place]:+.2f}"


def stage_differences(
    found: Sequence[tuple[GanRecord, GanRecord]], place: int, stage: int, quantity: str
) -> tuple[list[float], list[float]]:
    """Returns a quantity of a stage with CCBN and with SaBN, for each pair of runs.

    Args:
        found: From ``pairs``.
        place: Index into ``GanRecord.gradients``.
        stage: Index of the stage.
        quantity: A key of ``QUANTITIES``.
    """
    value = QUANTITIES[quantity]
    ccbn, sabn = (
        [value(record.gradients[place].stages[stage]) for record in side]
        for side in zip(*found, strict=True)
    )
    return ccbn, sabn


def _places(records: Sequence[GanRecord], setting: str) -> Table:
    """Returns in how many stages SaBN's number is the lower one, for each step and reading."""
    rows: list[tuple[Cell, ...]] = []
    for network, name in NETWORKS.items():
        found = pairs(records, network)
        for place, gradients in enumerate(found[0][0].gradients if found else ()):
            cells: list[Cell] = []
            for quantity in QUANTITIES:
                lower = surely = higher = 0
                for stage in range(len(gradients.stages)):
                    ccbn, sabn = stage_differences(found, place, stage, quantity)
                    values = [b - a for a, b in zip(ccbn, sabn, strict=True)]
                    limits = student(values)
                    lower += mean(values) < 0
                    surely += limits is not None and limits.high < 0
                    higher += limits is not None and limits.low > 0
                cells += [f"{lower} of {len(gradients.stages)}", f"{surely} / {higher}"]
            rows.append((name, gradients.reading, str(gradients.step), str(len(found)), *cells))
    return Table(
        "places",
        "Stages of the generator in which SaBN's number is the lower one",
        (
            "GAN",
            "Reading",
            "Step",
            "Seeds",
            *(
                column
                for quantity in QUANTITIES
                for column in (quantity, f"sure, {quantity.lower()}")
            ),
        ),
        rows,
        [
            setting,
            "A stage counts as lower by the mean over pairs of runs of one seed. Sure: stages with "
            "SaBN lower / higher whose 95 % interval (Student's over seeds, not adjusted) leaves "
            "out 0; one in twenty does so by chance, and the stages of a run are not independent.",
            _GRADIENT_NOTE,
        ],
    )


_GRADIENT_NOTE = (
    "Gradients of the generator's loss in its convolutions (the paper: those right before a norm) "
    "and its first linear layer, class against class, for the same latent vectors (Gong et al., "
    "Eq. 4 and 5, Figure 2). Eq. 4 can be read in two ways. Single samples: of one image, the "
    "generator's norms with running statistics. Class batches: of a batch of one class, the norms "
    "with that batch's own. Std over mean: the standard deviation of the norms over their mean, "
    "which does not depend on how large a checkpoint's gradients are; the paper shows the standard "
    "deviation alone."
)


def _gradients(records: Sequence[GanRecord], setting: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for network, name in NETWORKS.items():
        found = pairs(records, network)
        for place, gradients in enumerate(found[0][0].gradients if found else ()):
            for number, stage in enumerate(gradients.stages):
                cells: list[Cell] = []
                for quantity in QUANTITIES:
                    ccbn, sabn = stage_differences(found, place, number, quantity)
                    values = [b - a for a, b in zip(ccbn, sabn, strict=True)]
                    cells += [f"{mean(ccbn):.3f}", f"{mean(sabn):.3f}", _limits(student(values), 3)]
                where = f"{gradients.reading}, step {gradients.step}"
                rows.append((name, where, stage.stage, *cells))
    return Table(
        "gradients",
        "Gradients of the classes, stage by stage",
        (
            "GAN",
            "Reading and step",
            "Stage",
            *(
                f"{quantity}, {column}"
                for quantity in QUANTITIES
                for column in ("CCBN", "SaBN", "interval of SaBN minus CCBN")
            ),
        ),
        rows,
        [setting, _GRADIENT_NOTE, _PAIRED_NOTE],
    )


def _limits(limits: Interval | None, digits: int = 2) -> str | None:
    return limits and f"[{limits.low:.{digits}f}, {limits.high:.{digits}f}]"
