"""Tables 3 and 4 of the Sandwich Batch Normalization paper, and the branch matrix, from records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from robustnorm.evaluation.records import SINGLE, Record, RecordError, Verdict
from robustnorm.evaluation.statistics import mcnemar, wilson
from robustnorm.files import write_atomically
from robustnorm.reporting.paper import PAPER, SETTING
from robustnorm.reporting.render import Cell, Table, to_csv, to_latex, to_markdown

_NAMES = {
    "bn": "BN",
    "modenorm": "ModeNorm",
    "auxbn": "AuxBN",
    "saauxbn": "SaAuxBN",
    "auxstatbn": "AuxStatBN",
    "ccbn": "CCBN",
    "sabn": "SaBN",
}
_ATTACKS = {"SA": "none", "RA, PGD-10": "pgd-10", "RA, PGD-20": "pgd-20"}
_LAST = "pgd-20"


@dataclass(frozen=True)
class _Model:
    """The records of one norm and one way of training, a record a seed."""

    norm: str
    adversarial: bool
    records: list[Record]

    @property
    def name(self) -> str:
        name = _NAMES.get(self.norm, self.norm)
        return name if self.adversarial else f"{name}, plain (control)"

    def branch(self, wanted: str) -> str:
        return wanted if wanted in self.records[0].branches else SINGLE

    def label(self, wanted: str) -> str:
        branch = self.branch(wanted)
        return self.name if branch == SINGLE else f"{self.name} ({branch})"

    def verdicts(self, attack: str, rule: str, attacker: str, scorer: str) -> list[Verdict]:
        return [record.find(attack, rule, attacker, scorer) for record in self.records]


def tables(
    records: Sequence[Record], *, train_command: str = "make train NORM={norm}"
) -> list[Table]:
    """Returns Table 3, Table 4 and the branch matrix.

    Args:
        records: Of one data set, one set of test images and one protocol.
        train_command: What trains a norm that has no record, with ``{norm}`` in its place.

    Raises:
        RecordError: When there is no record, or records are not of the same evaluation.
    """
    _check_comparable(records)
    models = _group(records)
    trained = {model.norm for model in models if model.adversarial}
    missing = [norm for norm in PAPER["clean", "SA"] if norm not in trained]
    notes = [*_setting_notes(models), *_missing_notes(missing, train_command)]
    return [
        _paper_table("table3", "Table 3: standard accuracy, clean branch", "clean", models, notes),
        _paper_table(
            "table4",
            "Table 4: standard and robust accuracy, adversarial branch",
            "adv",
            models,
            notes,
        ),
        _matrix(models, notes[0]),
    ]


def write_tables(
    records: Sequence[Record], folder: Path, *, train_command: str = "make train NORM={norm}"
) -> list[Path]:
    """Writes tables.md, tables.tex and a CSV file for each table; returns their paths."""
    made = tables(records, train_command=train_command)
    contents = {
        "tables.md": "\n".join(map(to_markdown, made)),
        "tables.tex": "\n".join(map(to_latex, made)),
    } | {f"{table.name}.csv": to_csv(table) for table in made}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in contents]


def _paper_table(
    name: str, title: str, branch: str, models: list[_Model], notes: list[str]
) -> Table:
    evaluations = [evaluation for wanted, evaluation in PAPER if wanted == branch]
    several = any(len(model.records) > 1 for model in models)
    rows = [
        row
        for evaluation in evaluations
        for row in _rows(branch, evaluation, models, several=several)
    ]
    columns: tuple[str, ...] = (
        "Evaluation",
        "Model",
        "Ours %",
        "95 % interval",
        "Paper %",
        "Difference",
    )
    columns += ("Any %",) * (len(evaluations) > 1) + ("SD over seeds",) * several
    if len(evaluations) == 1:
        rows = [row[:6] + row[7:] for row in rows]
    tested = evaluations[-1]
    return Table(name, title, columns, rows, [*notes, _test_note(branch, tested, models)])


def _rows(
    branch: str, evaluation: str, models: list[_Model], *, several: bool
) -> list[tuple[Cell, ...]]:
    """Returns the rows of one evaluation: the paper's norms first, trained or not."""
    attack = _ATTACKS[evaluation]
    paper = PAPER[branch, evaluation]
    rows: dict[str, tuple[Cell, ...]] = {
        norm: (evaluation, _NAMES[norm], None, None, f"{value:.2f}", None, None) + (None,) * several
        for norm, value in paper.items()
    }
    for model in models:
        place = model.branch(branch)
        accuracies = [v.accuracy for v in model.verdicts(attack, "final", place, place)]
        ours, n = mean(accuracies), model.records[0].n
        published = paper.get(model.norm) if model.adversarial else None
        any_iterate = (
            None
            if attack == "none"
            else mean(v.accuracy for v in model.verdicts(attack, "any", place, place))
        )
        deviation = (stdev(accuracies) if len(accuracies) > 1 else None,) * several
        rows[model.norm if model.adversarial else f"{model.norm} control"] = (
            evaluation,
            model.label(branch),
            ours,
            wilson(ours * n, n),
            None if published is None else f"{published:.2f}",
            None if published is None else f"{100 * ours - published:+.2f}",
            any_iterate,
            *deviation,
        )
    return list(rows.values())


def _matrix(models: list[_Model], note: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for model in models:
        n = model.records[0].n
        branches = model.records[0].branches
        pairs = [("none", branch, branch) for branch in branches] + [
            (_LAST, attacker, scorer) for attacker in branches for scorer in branches
        ]
        for attack, attacker, scorer in pairs:
            accuracy = mean(v.accuracy for v in model.verdicts(attack, "final", attacker, scorer))
            seen = "no attack" if attack == "none" else attacker
            rows.append((model.name, seen, scorer, accuracy, wilson(accuracy * n, n)))
    return Table(
        "branch-matrix",
        "Branch matrix: PGD-20 through each branch, scored through each branch",
        ("Model", "Attacked branch", "Scoring branch", "Accuracy %", "95 % interval"),
        rows,
        [
            note,
            "No attack: standard accuracy. Otherwise the last iterate of PGD-20 against the "
            'attacked branch. "single": the network has no branches.',
        ],
    )


def _group(records: Sequence[Record]) -> list[_Model]:
    """Returns the models: the paper's norms in its order, other norms, then controls."""
    order = list(_NAMES)
    groups: dict[tuple[str, bool], list[Record]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        groups.setdefault((record.norm, record.adversarial), []).append(record)
    return sorted(
        (_Model(norm, adversarial, members) for (norm, adversarial), members in groups.items()),
        key=lambda model: (
            not model.adversarial,
            order.index(model.norm) if model.norm in order else len(order),
            model.norm,
        ),
    )


def _check_comparable(records: Sequence[Record]) -> None:
    if not records:
        raise RecordError("tables need at least one result record; run an evaluation first")
    first = records[0]
    for record in records[1:]:
        for what, mine, other in (
            ("test images", first.image_ids, record.image_ids),
            ("data", first.dataset["sha256"], record.dataset["sha256"]),
            ("protocols", first.protocol_hash, record.protocol_hash),
        ):
            if mine != other:
                raise RecordError(
                    f"one table needs one evaluation, got different {what} for {first.norm} seed "
                    f"{first.seed} and {record.norm} seed {record.seed}; evaluate them together"
                )


def _setting_notes(models: list[_Model]) -> list[str]:
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
    differing = _differing(first)
    if differing:
        notes.append(
            f"Not the paper's experiment: {'; '.join(differing)}. The difference column compares "
            "different experiments."
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


def _each(models: list[_Model], describe: Callable[[Record], str]) -> str:
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


def _missing_notes(missing: list[str], train_command: str) -> list[str]:
    return [
        f"{_NAMES[norm]} is not trained yet: {train_command.format(norm=norm)}" for norm in missing
    ]


def _test_note(branch: str, evaluation: str, models: list[_Model]) -> str:
    """Returns which models the test images do not tell apart, by the first seed of each."""
    alike = []
    for one, other in itertools.combinations(models, 2):
        verdicts = [
            model.verdicts(_ATTACKS[evaluation], "final", *[model.branch(branch)] * 2)[0].correct
            for model in (one, other)
        ]
        p = mcnemar(*verdicts)
        if p >= 0.05:
            alike.append(f"{one.name} and {other.name} (p = {p:.2f})")
    test = f"exact McNemar test on {evaluation}, first seed of each, 5 % level, unadjusted"
    if len(models) < 2:
        return f"One model only: nothing to compare ({test})."
    return f"Not distinguishable ({test}): {'; '.join(alike) or 'no pair'}."
