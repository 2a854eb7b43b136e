"""The tables of Figure 7 and their summary."""

from __future__ import annotations

from collections.abc import Sequence

from robustnorm.applications.style.results import Difference, Row, paired_differences
from robustnorm.reporting.render import Cell, Table, bracketed, p_value

# Read off the ends of the validation curves that the authors published with their code, for VGG-19,
# MS-COCO and WikiArt after 160,000 steps. The style loss is multiplied by its weight of 10.
PAPER = {"adain": (1.28, 4.1), "ilm": (2.02, 4.7), "saadain": (1.12, 3.8)}
MEASURES = {
    "content": "content, as reported",
    "fixed": "content, fixed target",
    "structure": "structure",
    "style": "style",
}

_LOWER = {-1: "lower than", 0: "not distinguishable from", 1: "higher than"}
_NEARER = {-1: "nearer than", 0: "not distinguishable from", 1: "farther than"}


def tables(rows: Sequence[Row]) -> list[Table]:
    """Returns the losses of Figure 7, the analysis of the content loss, the claims and the tests.

    The last two are omitted if the rows that they compare are missing.

    Args:
        rows: From ``read_records``.
    """
    setting = setting_note(rows)
    tested = paired_differences(rows, list(MEASURES))
    made = [
        _losses(rows, setting),
        _measured(rows, setting),
        _claims(tested, setting),
        _tests(tested, setting),
    ]
    return [table for table in made if table.rows]


def _losses(rows: Sequence[Row], setting: str) -> Table:
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        content, style = PAPER.get(row.row, (None, None))
        cells.append(
            (
                row.name,
                *_value(row, "content"),
                None if content is None else f"{content:.2f}",
                *_value(row, "style"),
                None if style is None else f"{style:.1f}",
            )
        )
    return Table(
        "figure7",
        "Figure 7: validation losses after the last step",
        (
            "Norm",
            "Content",
            "95 % interval",
            "Authors'",
            "Style",
            "95 % interval",
            "Authors', x 10",
        ),
        cells,
        [
            setting,
            "Content and style: unweighted. Authors': read off the ends of the validation curves "
            "published with their code, where the style loss has its weight of 10; VGG-19 up to "
            "relu4_1, MS-COCO and WikiArt, 160,000 steps: a different experiment, so no difference "
            "is given.",
            "95 % interval: Student's, for the mean over seeds. All seeds share the encoder and "
            "the validation pairs; the interval does not cover the choice of these.",
        ],
    )


def _measured(rows: Sequence[Row], setting: str) -> Table:
    cells: list[tuple[Cell, ...]] = [
        (
            row.name,
            f"{row.mean('content'):.3f}",
            *_value(row, "fixed"),
            f"{row.mean('relative'):.3f}",
            *_value(row, "structure"),
            *_value(row, "gamma"),
        )
        for row in rows
    ]
    return Table(
        "measured",
        "What the content loss measures",
        (
            "Norm",
            "Content, as reported",
            "Content, fixed target",
            "95 % interval",
            "Content / target's variance",
            "Structure",
            "95 % interval",
            "Mean γ",
            "95 % interval",
        ),
        cells,
        [
            setting,
            "As reported: the features of the decoder's picture compared with the norm's output, "
            "which the norm's parameters can move. Fixed target: the same features compared with "
            "AdaIN's output, which nothing can move.",
            "Content / target's variance: the reported loss divided by the spatial variance of its "
            "target. A picture with constant features, at the target's mean, has 1.",
            "Structure: the picture's features compared with the content's, both "
            "instance-normalized, so that scale does not matter: 0 if equal, 2 if unrelated.",
            "Mean γ: the weight between the normalization and the style's statistics, averaged "
            "over channels and pairs; 1 for AdaIN. For ILM+IN it is predicted, and near 1.5 at "
            "first.",
        ],
    )


def _claims(tested: Sequence[Difference], setting: str) -> Table:
    cells: list[tuple[Cell, ...]] = []
    for measure in ("content", "style"):
        for other in ("adain", "ilm"):
            difference = _find(tested, measure, "saadain", other)
            if difference is not None:
                verdict, why = claim_verdict(
                    difference, _find(tested, "structure", "saadain", other)
                )
                claim = f"SaAdaIN has a lower {measure} loss than {difference.other.name}"
                cells.append((claim, verdict, _signed(difference), why))
    return Table(
        "claims",
        "The paper's claims, Section 5.2",
        ("Claim", "Here", "Difference and 95 % interval", "Why"),
        cells,
        [
            setting,
            "Holds: the loss is lower and, for content, the structure is also nearer to the "
            "content's. Artefact: the loss is lower, but the structure is not nearer. "
            "Contradicted: the loss is higher. All at the 5 % level after Holm's adjustment.",
        ],
    )


def claim_verdict(loss: Difference, structure: Difference | None) -> tuple[str, str]:
    """Returns the verdict on the claim that a loss is lower, and the reason.

    Args:
        loss: Difference of the loss.
        structure: Difference of the structure, for the content loss.
    """
    if loss.sign == 0:
        return "not distinguishable", f"adjusted p {p_value(loss.adjusted)}"
    if loss.sign > 0:
        return "contradicted", "the loss is higher"
    if loss.measure != "content":
        return "holds", f"adjusted p {p_value(loss.adjusted)}"
    assert structure is not None
    if structure.sign < 0:
        return "holds", "lower, and the structure is nearer to the content's"
    found = "farther from the content's" if structure.sign > 0 else "no nearer to the content's"
    return "artefact", f"lower against its own target; the structure is {found}"


def _tests(tested: Sequence[Difference], setting: str) -> Table:
    cells: list[tuple[Cell, ...]] = [
        (
            MEASURES[difference.measure].capitalize(),
            f"{difference.row.name} - {difference.other.name}",
            f"{difference.mean:+z.3f}",
            bracketed(difference.interval, 3, signed=True),
            p_value(difference.p),
            p_value(difference.adjusted),
            {-1: "lower", 0: "not distinguishable", 1: "higher"}[difference.sign],
        )
        for difference in tested
    ]
    return Table(
        "paired",
        "Paired tests over seeds",
        ("Measure", "Difference", "Mean", "95 % interval", "p", "Adjusted p", "Verdict"),
        cells,
        [
            setting,
            "With the same seed, both rows start from the same decoder weights and see the same "
            "pictures at every step. p: two-sided paired t-test over seeds, with Holm's adjustment "
            "over all lines; it assumes normal differences, which so few seeds cannot confirm.",
        ],
    )


def setting_note(rows: Sequence[Row]) -> str:
    """Describes data, networks, steps and seeds, for all tables."""
    record = rows[0].records[0]
    config, dataset, encoder = record["config"], record["dataset"], record["encoder"]
    numbers = [len(row.seeds) for row in rows]
    seeds = sorted({min(numbers), max(numbers)})
    content, style = (dataset[part]["name"] for part in ("content", "style"))
    weights = f"{config['content_weight']:g} and {config['style_weight']:g}"
    reached = (
        f" ({100 * encoder['test_accuracy']:.1f} % of its {encoder['test_images']:,} test images)"
        if "test_accuracy" in encoder
        else ""
    )
    return (
        f"n = {config['validation_pairs']} fixed pairs of "
        f"{dataset['validation_content']['name']} and {dataset['validation_style']['name']}; "
        f"trained on {content} and {style}{', recolored at random' if config['recolor'] else ''}; "
        f"{record['step']:,} steps of Adam, batch {config['batch_size']}, "
        f"{config['crop']}x{config['crop']} pixels; encoder: {encoder['name']}{reached} up to "
        f"{encoder['layer']}; weights of the losses {weights}; {config['variance']} variance; "
        f"{' to '.join(map(str, seeds))} seed{'s' * (seeds != [1])}."
    )


def summary(rows: Sequence[Row]) -> str:
    """Interprets the lower loss of Figure 7, as far as the rows allow."""
    sentences = [
        "The content loss of Figure 7 compares the decoder's picture with the norm's output. In "
        "SaAdaIN and ILM+IN that output depends on trainable weights, and in the authors' release "
        "the loss is not detached from them: the optimizer can lower it by keeping more of the "
        "content, or by making the target easier to hit."
    ]
    tested = paired_differences(rows, list(MEASURES))
    content = _find(tested, "content", "saadain", "adain")
    structure = _find(tested, "structure", "saadain", "adain")
    if content is not None and structure is not None:
        adain, moving = content.other, content.row
        sentences.append(
            f"Here SaAdaIN's reported content loss, {_with_interval(moving, 'content')}, is "
            f"{_LOWER[content.sign]} "
            f"AdaIN's, {_with_interval(adain, 'content')}; meanwhile its mean γ went from 1 to "
            f"{moving.mean('gamma'):.2f}, which scales the target's contrast by that factor."
        )
        sentences.append(
            "Regardless of scale, the features of its pictures are "
            f"{_with_interval(moving, 'structure')} away from the content's (0 equal, 2 "
            f"unrelated), {_NEARER[structure.sign]} AdaIN's, {_with_interval(adain, 'structure')}."
        )
        without = _find(tested, "content", "saadain-detached", "adain")
        if without is not None:
            detached = without.row
            sentences.append(
                "With the target detached, so that it cannot be moved, γ ends at "
                f"{detached.mean('gamma'):.2f} and the content loss at "
                f"{_with_interval(detached, 'content')}, {_LOWER[without.sign]} AdaIN's."
            )
        meta = _find(tested, "content", "ilm", "adain")
        if meta is not None:
            sentences.append(
                "ILM+IN, whose code for this network the authors have not published, ends at "
                f"{_with_interval(meta.row, 'content')}, {_LOWER[meta.sign]} AdaIN's; in the "
                "authors' figure it is the highest of the three."
            )
        if adain.mean("relative") > 1:
            sentences.append(
                "All of this is early in training: AdaIN's loss is still "
                f"{adain.mean('relative'):.1f} times its target's variance, more than that of a "
                "picture with constant features."
            )
        verdict, _ = claim_verdict(content, structure)
        sentences.append(
            {
                "artefact": "So here the lower content loss measures how far the target has moved, "
                "not how much of the content is kept.",
                "holds": "So here the lower loss comes with more of the content being kept.",
                "not distinguishable": "So here there is no lower loss to explain.",
                "contradicted": "So the paper's order does not appear here at all.",
            }[verdict]
        )
    name, steps = rows[0].records[0]["encoder"]["name"], rows[0].records[0]["step"]
    sentences.append(
        f"This was measured with the {name} and {steps:,} steps; that the same happens with VGG-19 "
        "and 160,000 steps is a hypothesis, but the release contains the gradient's path into the "
        "target."
    )
    return " ".join(sentences)


def _find(tested: Sequence[Difference], measure: str, row: str, other: str) -> Difference | None:
    return next(
        (d for d in tested if (d.measure, d.row.row, d.other.row) == (measure, row, other)), None
    )


def _value(row: Row, measure: str) -> tuple[str, str | None]:
    return f"{row.mean(measure):.3f}", bracketed(row.interval(measure), 3)


def _with_interval(row: Row, measure: str) -> str:
    value, interval = _value(row, measure)
    return value if interval is None else f"{value} {interval}"


def _signed(difference: Difference) -> str:
    interval = bracketed(difference.interval, 3, signed=True)
    return f"{difference.mean:+z.3f}" + (f" {interval}" if interval else "")
