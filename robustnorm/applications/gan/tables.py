"""Table 1 beside the paper's, further measures and paired differences, made from records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from robustnorm.applications.gan.record import GanRecord, pairs
from robustnorm.evaluation.statistics import Interval, student
from robustnorm.reporting.render import Cell, Table, bracketed
from robustnorm.system.errors import UsageError

NETWORKS = {"sngan": "SNGAN", "biggan": "BigGAN", "autogan": "AutoGAN-top1"}
NORMS = {"ccbn": "CCBN", "sabn": "SaBN"}
# Gong et al., Table 1, CIFAR-10: the best IS and FID during training.
PAPER = {
    ("sngan", "ccbn"): (8.76, 10.18),
    ("sngan", "sabn"): (8.89, 8.97),
    ("biggan", "ccbn"): (8.91, 8.57),
    ("biggan", "sabn"): (9.01, 8.03),
    ("autogan", "ccbn"): (8.43, 10.51),
    ("autogan", "sabn"): (8.72, 9.11),
}
PAIRED_NOTE = (
    "SaBN minus CCBN, paired by seed: both runs see the same images, latent vectors and labels, "
    "but start from different weights. Intervals: 95 %, Student's over seeds, not adjusted for the "
    "number of comparisons."
)


def model_name(network: str, norm: str) -> str:
    """Returns the name of a row."""
    return f"{NETWORKS[network]} ({NORMS[norm]})"


def measure_names(record: GanRecord) -> tuple[str, str]:
    """Returns the names of distance and score: FID and IS only for Inception features."""
    if record.features["network"].startswith("Inception"):
        return "FID", "IS"
    net = f"C{len(record.dataset['classes'])}net"
    return f"FID-{net}", f"IS-{net}"


def group_runs(records: Sequence[GanRecord]) -> dict[tuple[str, str], list[GanRecord]]:
    """Groups records by network and norm, in the paper's order, sorted by seed.

    Raises:
        UsageError: When there are none, or they differ in more than network, norm and seed.
    """
    if not records:
        raise UsageError(
            "no network has been trained yet; run robustnorm table1 without --train false"
        )
    first = records[0]
    for record in records:
        if record.network not in NETWORKS or record.norm not in NORMS:
            raise UsageError(
                f"there is a record of {record.network} with {record.norm}, which Table 1 does not "
                "have; remove it"
            )
    may_differ = ("network", "norm", "seed")
    for record in records[1:]:
        differing = [
            name
            for name, value in record.config.items()
            if name not in may_differ and value != first.config.get(name)
        ]
        differing += [
            name
            for name in ("dataset", "features")
            if getattr(record, name)["sha256"] != getattr(first, name)["sha256"]
        ]
        if differing:
            raise UsageError(
                "runs of one table may differ only in network, norm and seed, but "
                f"{record.network}-{record.norm}-seed{record.seed} differs in "
                f"{', '.join(differing)}; give it another --name, or remove its record"
            )
    for network in NETWORKS:
        compared = [r.compared for r in records if r.network == network and r.gradients]
        if any(comparisons != compared[0] for comparisons in compared):
            raise UsageError(
                "runs of one table must compare gradients at the same steps and stages, but those "
                f"of {network} do not; remove the records that differ"
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
    """Returns Table 1, further measures, and, if there are pairs, the paired differences.

    Raises:
        UsageError: As ``group_runs``.
    """
    grouped = group_runs(records)
    setting = setting_note(grouped)
    return [_table1(grouped, setting), _further(grouped, setting), *_differences(records, setting)]


def setting_note(grouped: dict[tuple[str, str], list[GanRecord]]) -> str:
    """Describes training, data and measurements."""
    record = next(iter(grouped.values()))[0]
    config, features = record.config, record.features
    seeds = ", ".join(f"{model_name(*key)} {len(found)}" for key, found in grouped.items())
    net = features["network"]
    if "accuracy" in features:
        epochs = features["epochs"]
        net += (
            f" of width {features['width']}, trained here ({epochs} epoch{'s' * (epochs > 1)}): "
            f"{100 * features['accuracy']:.1f} % test accuracy"
        )
    return (
        f"{record.dataset['name']}, {record.dataset['train_images']:,} training images of "
        f"{config['image_size']}x{config['image_size']}; {config['steps']:,} steps of the "
        f"generator, {config['discriminator_steps']} of the discriminator before each, widths "
        f"{config['width']} and {config['discriminator_width']}. Measured on n = "
        f"{record.at('last')['n']:,} images of the running mean (weight {config['average']:g}), "
        f"with balanced labels in random order, through a {net} (SHA-256 "
        f"{features['sha256'][:8]}). Seeds: {seeds}."
    )


def summary(records: Sequence[GanRecord]) -> str:
    """States for each GAN whether SaBN is better than CCBN, as in the paper."""
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
            f"{name}: {distance} of SaBN minus that of CCBN {mean(values):+z.2f} "
            f"{bracketed(limits)}, {verdict} ({len(values)} seeds)"
        )
    if not sentences:
        return "No GAN was trained with both norms and at least two seeds, so there is no result."
    return "At the last step: " + "; ".join(sentences) + "."


def _table1(grouped: dict[tuple[str, str], list[GanRecord]], setting: str) -> Table:
    first = next(iter(grouped.values()))[0]
    names = measure_names(first)
    rows: list[tuple[Cell, ...]] = []
    for key, found in grouped.items():
        cells: list[Cell] = []
        for measure in ("distance", "score"):
            last = [record.at("last")[measure] for record in found]
            best = [record.at("best")[measure] for record in found]
            cells += [f"{mean(last):.2f}", bracketed(student(last)), f"{mean(best):.2f}"]
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
            f"{names[0]} and {names[1]} use the features of a small classifier trained here on "
            "the same images. They are not FID and IS and can only be compared with each other; "
            "differences from the paper's columns would mean nothing and are not shown."
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
            "Means over seeds; intervals: 95 %, Student's over seeds. Last: after the last step. "
            f"Best: at the measured step with the run's lowest {names[0]}, as the paper and its "
            "release choose; choosing by the reported number flatters every row.",
            "Paper: Gong et al., Table 1, CIFAR-10 at 32x32 and full width, best step of a "
            "training of at least 50,000 steps, one number per model.",
            f"Test images: n = {real['n']:,} of the data set, a bound for a generator measured on "
            "as many images; the distance of fewer images is larger.",
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
    devices = dict.fromkeys(record.device for found in grouped.values() for record in found)
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
            "Label accuracy: how often the classifier predicts the class for which an image was "
            f"generated; {100 / len(first.dataset['classes']):.3g} % for a generator that ignores "
            "the class. Precision and recall: Kynkäänniemi et al., third nearest neighbours. "
            f"Minutes: training steps of a run, on {' or '.join(devices)}, beside other work.",
        ],
    )


def _differences(records: Sequence[GanRecord], setting: str) -> list[Table]:
    distance, score = measure_names(records[0])
    # Name, factor and the sign of a better value.
    wanted = {"distance": (distance, 1, -1), "score": (score, 1, 1)}
    if records[0].test_images["label_accuracy"] is not None:
        wanted["label_accuracy"] = ("Label accuracy in points", 100, 1)
    rows: list[tuple[Cell, ...]] = []
    for network, name in NETWORKS.items():
        found = pairs(records, network)
        if not found:
            continue
        for measure, (title, scale, sign) in wanted.items():
            for when in ("last", "best"):
                values = [scale * (b.at(when)[measure] - a.at(when)[measure]) for a, b in found]
                better = sum(sign * value > 0 for value in values)
                paper = _paper_difference(network, measure)
                rows.append(
                    (
                        name,
                        f"{title}, {when}",
                        f"{mean(values):+z.3f}",
                        bracketed(student(values), 3),
                        f"{better} of {len(values)}",
                        paper,
                    )
                )
    table = Table(
        "differences",
        "SaBN minus CCBN, paired by seed",
        ("GAN", "Measure", "Difference", "95 % interval", "SaBN better", "Paper (FID, IS)"),
        rows,
        [setting, PAIRED_NOTE],
    )
    return [table] if rows else []


def _paper_difference(network: str, measure: str) -> str | None:
    if measure not in ("score", "distance"):
        return None
    column = ("score", "distance").index(measure)
    return f"{PAPER[network, 'sabn'][column] - PAPER[network, 'ccbn'][column]:+z.2f}"
