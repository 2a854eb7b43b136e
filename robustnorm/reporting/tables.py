"""Tables 3 and 4 of the Sandwich Batch Normalization paper, branch matrix, deployment, transfer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import SINGLE, TRANSFER, Record
from robustnorm.reporting.comparisons import group_note, groups
from robustnorm.reporting.model_records import (
    EVALUATIONS,
    NAMES,
    PGD_20,
    WORST,
    ModelRecords,
    check_comparable,
    further_evaluations,
    group,
    has_transfers,
    named_attacks,
)
from robustnorm.reporting.notes import MARGIN_NOTE, missing_notes, setting_notes
from robustnorm.reporting.paper import PAPER
from robustnorm.reporting.render import Cell, Table, save_tables


def tables(
    records: Sequence[Record], *, train_command: str = "make train NORM={norm}"
) -> list[Table]:
    """Returns Table 3, Table 4, the branch matrix and, if evaluated, deployment and transfer.

    Args:
        records: Records of one data set, set of test images and protocol.
        train_command: Command that trains a missing norm, with a placeholder ``{norm}``.

    Raises:
        RecordError: When there is no record, or the records are not of one evaluation.
    """
    check_comparable(records)
    models = group(records)
    trained = {model.norm for model in models if model.repeats_paper}
    wanted = PAPER["clean", "SA"] if any(record.is_ours for record in records) else {}
    missing = [norm for norm in wanted if norm not in trained]
    notes = [*setting_notes(models), *missing_notes(missing, train_command)]
    made = [
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
    if any(record.branches != record.answers for record in records):
        made.append(_deployment(models, notes[0]))
    if any(map(has_transfers, records)):
        made.append(_transfer(models, notes[0]))
    return made


def train_in(campaign: str) -> str:
    """Returns how a missing norm is trained in a campaign, given the campaign's command."""
    return f"{campaign}, with {{norm}} among the norms of its plan"


def write_tables(
    records: Sequence[Record], folder: Path, *, train_command: str = "make train NORM={norm}"
) -> list[Path]:
    """Writes tables.md, tables.tex and a CSV file for each table; returns their paths."""
    made = tables(records, train_command=train_command)
    return save_tables(made, folder, "tables", optional=("deployment", "transfer"))


def _paper_table(
    name: str, title: str, branch: str, models: list[ModelRecords], notes: list[str]
) -> Table:
    evaluations = [evaluation for wanted, evaluation in PAPER if wanted == branch]
    if branch == "adv":
        evaluations += further_evaluations(models[0].records[0])
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
        "Group",
        "Paper %",
        "Difference",
    )
    robust = len(evaluations) > 1
    columns += ("Any %", "Worst %", "Margin") * robust + ("SD over seeds",) * several
    if not robust:
        rows = [row[:7] + row[10:] for row in rows]
    notes = [*notes, *[MARGIN_NOTE] * robust, group_note(models)]
    if robust and len({m.ball(WORST, name) for m in models for name in m.branches(branch)}) > 1:
        notes.append("Rows attacked in different threat models or radii are not compared.")
    return Table(name, title, columns, rows, notes)


def _rows(
    branch: str, evaluation: str, models: list[ModelRecords], *, several: bool
) -> list[tuple[Cell, ...]]:
    """Returns the rows of one evaluation: the paper's norms first, even those not trained."""
    has_ours = any(record.is_ours for model in models for record in model.records)
    paper = PAPER.get((branch, evaluation), {}) if has_ours else {}
    shown = [(model, name) for model in models for name in model.branches(branch)]
    found = [model.correct(evaluation, name) for model, name in shown]  # by row, then by seed
    marks = groups(evaluation, shown)
    made: list[tuple[Cell, ...]] = []
    for (model, name), correct, mark in zip(shown, found, marks, strict=True):
        accuracies = [float(bits.mean()) for bits in correct]
        ours, n = mean(accuracies), model.records[0].n
        comparable = model.repeats_paper and name in (branch, SINGLE)
        published = paper.get(model.norm) if comparable else None
        attack = EVALUATIONS.get(evaluation, "")
        any_iterate = (
            mean(v.accuracy for v in model.verdicts(attack, "any", name, name))
            if attack.startswith("pgd")
            else None
        )
        made.append(
            (
                evaluation,
                model.label(name),
                ours,
                wilson(ours * n, n),
                mark,
                None if published is None else f"{published:.2f}",
                None if published is None else f"{100 * ours - published:+z.2f}",
                any_iterate,
                model.worst(name) if evaluation not in ("SA", WORST) else None,
                None if evaluation == "SA" else model.margin(name),
                *(stdev(accuracies) if len(accuracies) > 1 else None,) * several,
            )
        )
    norms = [model.norm if model.repeats_paper else None for model, _ in shown]
    rows: list[tuple[Cell, ...]] = []
    for norm, value in paper.items():
        untrained = (evaluation, NAMES[norm], None, None, None, f"{value:.2f}", *[None] * 4)
        rows += [row for row, trained in zip(made, norms, strict=True) if trained == norm] or [
            untrained + (None,) * several
        ]
    return rows + [row for row, trained in zip(made, norms, strict=True) if trained not in paper]


def _matrix(models: list[ModelRecords], note: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for model in models:
        n = model.records[0].n
        branches = model.records[0].branches
        pairs = [("none", branch, branch) for branch in branches] + [
            (PGD_20, attacker, scorer) for attacker in branches for scorer in branches
        ]
        for attack, attacker, scorer in pairs:
            accuracy = mean(v.accuracy for v in model.verdicts(attack, "final", attacker, scorer))
            row = "no attack" if attack == "none" else attacker
            worst = model.worst(scorer) if row == scorer else None
            rows.append((model.name, row, scorer, accuracy, wilson(accuracy * n, n), worst))
    return Table(
        "branch-matrix",
        "Branch matrix: PGD-20 through each branch, scored through each branch",
        ("Model", "Attacked branch", "Scoring branch", "Accuracy %", "95 % interval", "Worst %"),
        rows,
        [
            note,
            "No attack: standard accuracy. Otherwise the last iterate of PGD-20 against the "
            'attacked branch. "single": the network has no branches.',
        ],
    )


def _deployment(models: list[ModelRecords], note: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    named = named_attacks(models[0].records[0])
    for model in models:
        n, answers = model.records[0].n, model.records[0].answers
        for answer in answers:
            rule = f"always {answer}" if answer in model.records[0].branches else answer
            standard = mean(v.accuracy for v in model.verdicts("none", "final", answer, answer))
            robust = mean(float(r.worst_case(answer).mean()) for r in model.records)
            rows.append(
                (
                    model.name,
                    "-" if answer == SINGLE else rule,
                    standard,
                    wilson(standard * n, n),
                    robust,
                    wilson(robust * n, n),
                )
            )
    return Table(
        "deployment",
        "Deployment: one rule for every image",
        ("Model", "Serving rule", "SA %", "95 % interval", "Deployed RA %", "95 % interval"),
        rows,
        [
            note,
            "A deployed network does not know whether an image was attacked, so it cannot have the "
            "clean branch's SA and the adversarial branch's RA at once: each rule has both numbers "
            "of its row.",
            "Deployed RA: images that withstand every attack that was run: PGD-20 differentiated "
            "through the rule itself (every iterate), PGD-20 on each branch and on each other rule "
            "(last iterate)"
            + "".join(f", {name} on the rule" for name in named)
            + ", images made against other runs" * has_transfers(models[0].records[0])
            + ", as far as they are in the rule's own threat model and radius"
            * bool(models[0].records[0].protocol.get("branches"))
            + ".",
        ],
    )


def _transfer(models: list[ModelRecords], note: str) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            model.name,
            str(record.seed) if record.is_ours else None,
            "-" if verdict.score_branch == SINGLE else verdict.score_branch,
            verdict.attack.removeprefix(TRANSFER),
            "-" if verdict.attack_branch == SINGLE else verdict.attack_branch,
            verdict.accuracy,
            wilson(verdict.accuracy * record.n, record.n),
        )
        for model in models
        for record in model.records
        for verdict in record.verdicts
        if verdict.attack.startswith(TRANSFER)
    ]
    return Table(
        "transfer",
        "Transfer: adversarial images made against other runs",
        (
            *("Model", "Seed", "Scoring branch", "Made against", "Attacked branch"),
            *("Accuracy %", "95 % interval"),
        ),
        rows,
        [
            note,
            'The images are the last iterates of PGD-20 on a branch of the run in "Made against".',
        ],
    )
