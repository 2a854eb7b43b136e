"""Networks of any origin in one table: our runs, imported weights, and networks from Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import isclose

from robustnorm.evaluation.checks import verdict_of
from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import TRANSFER, Record, RecordError
from robustnorm.reporting.comparisons import group_note, groups, paired_tests
from robustnorm.reporting.model_records import (
    ANY,
    WORST,
    ModelRecords,
    beyond_pgd,
    evaluation_of,
)
from robustnorm.reporting.notes import MARGIN_NOTE, setting_notes
from robustnorm.reporting.render import Cell, Table


def name_models(records: Sequence[Record], sources: Sequence[str]) -> list[ModelRecords]:
    """Returns a model for each record, with the shortest name that no other model has.

    If their attacks differ, only those that all records have count in the worst case.

    Args:
        records: Each becomes a model of its own, even if only the seeds differ.
        sources: Where each record comes from; part of the name where nothing else differs.

    Raises:
        RecordError: When images or attacks differ between the records.
    """
    base_names = [
        record.imported or ModelRecords(record.norm, record.adversarial, []).name
        for record in records
    ]
    remarks = [
        [
            (),
            (record.name,),
            (record.name, f"seed {record.seed}"),
            (record.name, f"seed {record.seed}", str(record.checkpoint["tag"])),
            (source,),
        ]
        for record, source in zip(records, sources, strict=True)
    ]
    candidates = [
        [", ".join([name, *remark]) for name, remark in zip(base_names, level, strict=True)]
        for level in zip(*remarks, strict=True)
    ]
    names = next((n for n in candidates if len(set(n)) == len(n)), candidates[-1])
    run = [frozenset(verdict.attack for verdict in record.verdicts) for record in records]
    shared = None
    if len(set(run)) > 1:  # images made against other runs may be others in each record
        common = frozenset.intersection(*run)
        shared = frozenset(attack for attack in common if not attack.startswith(TRANSFER))
    models = [
        ModelRecords(record.norm, record.adversarial, [record], title=name, attacks=shared)
        for record, name in zip(records, names, strict=True)
    ]
    _check_same(models)
    return models


def _check_same(models: Sequence[ModelRecords]) -> None:
    first, record = models[0], models[0].records[0]
    for model, other in ((model, model.records[0]) for model in models[1:]):
        if _images(record) != _images(other):
            raise RecordError(
                "a comparison needs verdicts on the same images, got "
                f"{_described(record)} for {first.name} and {_described(other)} for {model.name}; "
                "evaluate both with the same --data and --test_limit"
            )
        branches = dict.fromkeys([*record.answers, *other.answers])
        if not all(_same_attack(record.attack_on(b), other.attack_on(b)) for b in branches):
            raise RecordError(
                "a comparison needs the same attack settings, got "
                f"{_attack_text(record)} for {first.name} and {_attack_text(other)} for "
                f"{model.name}; evaluate both with the same --threat_model, --epsilon and "
                "--step_size"
            )


def _images(record: Record) -> tuple[object, ...]:
    return record.dataset["sha256"], record.image_ids, record.labels


def _described(record: Record) -> str:
    return f"{record.n:,} images of {record.dataset['name']} ({record.dataset['sha256'][:12]})"


def _same_attack(one: dict[str, str], other: dict[str, str]) -> bool:
    sizes = [
        isclose(Fraction(one[size]), Fraction(other[size]), rel_tol=1e-6)
        for size in ("epsilon", "step_size")
    ]
    return one["threat_model"] == other["threat_model"] and all(sizes)


def _attack_text(record: Record) -> str:
    return "; ".join(
        f"{branch}{': ' * bool(branch)}{attack['threat_model'].capitalize()}, epsilon "
        f"{attack['epsilon']}, step size {attack['step_size']}"
        for branch, attack in ({"": record.protocol} | record.protocol.get("branches", {})).items()
    )


def evaluations(models: Sequence[ModelRecords]) -> list[str]:
    """Returns the evaluations that every branch of every model has, the worst case last."""
    branches = [(m.records[0], branch) for m in models for branch in m.records[0].branches]
    evaluated = [
        [
            evaluation_of(v.attack, v.rule)
            for v in record.verdicts
            if v.attack_branch == v.score_branch == branch and not v.attack.startswith(TRANSFER)
        ]
        for record, branch in branches
    ]
    shared = [n for n in dict.fromkeys(evaluated[0]) if all(n in names for names in evaluated)]
    worst = all(beyond_pgd(model.counted) for model in models)
    # The attack worst only attacks what others have left: it counts in the worst case.
    return [name for name in shared if name != "RA, worst"] + [WORST] * worst


def under_attack(models: Sequence[ModelRecords]) -> list[str]:
    """Returns PGD with the most steps and, if all records have further attacks, the worst case.

    The last of them decides which model is the most robust.

    Raises:
        RecordError: When the records have no PGD attack in common.
    """
    found = evaluations(models)
    pgd = [name for name in found if re.match(r"RA, PGD-\d+", name)]
    final = [name for name in pgd if not name.endswith(ANY)] or pgd
    if not final:
        raise RecordError(
            "a comparison needs PGD with the same number of steps on every network, got "
            + "; ".join(f"{m.name}: {', '.join(evaluations([m]))}" for m in models)
        )
    most = max(final, key=lambda name: int(re.findall(r"\d+", name)[0]))
    return [most, *[WORST] * (WORST in found)]


def accuracy_table(models: Sequence[ModelRecords]) -> Table:
    """Returns a row for each evaluation, model and branch; the branch is attacked and scores."""
    branches = [(model, branch) for model in models for branch in model.records[0].branches]
    n = models[0].records[0].n
    several = len(branches) > 1
    rows: list[tuple[Cell, ...]] = []
    for evaluation in evaluations(models):
        verdicts = [model.correct(evaluation, branch)[0] for model, branch in branches]
        marks = groups(evaluation, branches)
        for (model, branch), correct, mark in zip(branches, verdicts, marks, strict=True):
            accuracy = float(correct.mean())
            cells: tuple[Cell, ...] = (
                *(evaluation, model.label(branch), accuracy, wilson(accuracy * n, n)),
                *[mark] * several,
                None if evaluation == "SA" else model.margin(branch),
            )
            rows.append(cells)
    return Table(
        "comparison" if len(models) > 1 else "accuracy",
        "Standard and robust accuracy",
        (
            *("Evaluation", "Model", "Accuracy %", "95 % interval"),
            *["Group"] * several,
            "Margin",
        ),
        rows,
        [*setting_notes(models, paper=False), MARGIN_NOTE, *[group_note(models)] * several],
    )


def significance(models: Sequence[ModelRecords]) -> Table:
    """Returns the paired tests between models and between the branches of each model."""
    table = paired_tests(models, under_attack(models), together=True)
    if any(len(model.records[0].branches) > 1 for model in models):
        return table
    rows = [
        (str(family).removesuffix(", adversarial branch"), *rest)
        for family, *rest in table.rows
        if family != "SA, clean branch"  # the same as that of the adversarial branch
    ]
    return replace(table, rows=rows)


def check_table(models: Sequence[ModelRecords]) -> Table:
    """Returns for each model and branch what the checks of its evaluation found."""
    rows: list[tuple[Cell, ...]] = []
    for model in models:
        record = model.records[0]
        for branch in record.branches:
            checks = [check for check in record.checks if check.answer == branch]
            failed = [f"{c.name}: {c.verdict}" for c in checks if c.verdict != "reliable"]
            verdict = verdict_of(checks, branch) if checks else "not run"
            rows.append((model.label(branch), str(len(checks)), verdict, "; ".join(failed) or None))
    return Table(
        "checks",
        "Checks of the evaluations",
        ("Model", "Checks", "Worst verdict", "Not reliable"),
        rows,
        ["Each check looks for a way in which robust accuracies could be too high."],
    )


def verdict_table(models: Sequence[ModelRecords]) -> Table:
    """Returns a row for each verdict of each model, in the record's order."""
    rows: list[tuple[Cell, ...]] = [
        (
            model.name,
            verdict.attack,
            verdict.rule,
            verdict.attack_branch,
            verdict.score_branch,
            verdict.accuracy,
            wilson(int(verdict.correct.sum()), len(verdict.correct)),
        )
        for model in models
        for verdict in model.records[0].verdicts
    ]
    return Table(
        "verdicts",
        "Every attack, through every branch",
        (
            *("Model", "Attack", "Rule", "Attacked branch", "Scoring branch"),
            *("Accuracy %", "95 % interval"),
        ),
        rows,
        [
            "Rule final: the image that the attack returned; any: neither the clean image nor any "
            'iterate was misclassified. "single": the network has no branches.'
        ],
    )
