"""Sentences that sum up a report, computed from the same verdicts as its tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from robustnorm.evaluation.statistics import wilson
from robustnorm.reporting.comparisons import Comparison, Side, families, sample
from robustnorm.reporting.model_records import ANY, WORST, ModelRecords, has_worst
from robustnorm.reporting.render import Cell, Table, bracketed


def summary(
    models: Sequence[ModelRecords], evaluation: str | None = None, *, together: bool = False
) -> str:
    """Names the most robust model, and those over which its lead may be chance.

    Branches attacked in different threat models or radii are not compared: each ball has a
    sentence.

    Args:
        models: Models with verdicts on the same images.
        evaluation: The evaluation that decides; by default the worst case if every record has it,
            else PGD-20.
        together: As in ``families``.
    """
    evaluation = evaluation or (WORST if has_worst(models) else "RA, PGD-20")
    by_ball: dict[object, list[Side]] = {}
    for model in models:
        for branch in model.branches("adv"):
            by_ball.setdefault(model.ball(evaluation, branch), []).append((model, branch))
    tests = families(models, [evaluation], together=together)
    deciding = tests.get(f"{evaluation}, adversarial branch", [])
    sampled, (_, seeds) = "", sample(models)
    if seeds:
        sampled = f"over {len(seeds)} seeds and the test images"
    elif any(len(model.records) > 1 for model in models):
        sampled = "on the test images of the first seed"
    return " ".join(
        _most_robust(of, evaluation, deciding, sampled, several=len(by_ball) > 1)
        for of in by_ball.values()
    )


def _most_robust(
    sides: Sequence[Side],
    evaluation: str,
    tests: Sequence[Comparison],
    sampled: str,
    *,
    several: bool,
) -> str:
    """Returns the sentence about the branches that were attacked in one ball, of several or not.

    Args:
        sides: The models, each with a branch.
        evaluation: The evaluation that decides.
        tests: Comparisons of these branches, and of others.
        sampled: On what the models are compared, if one of them has several seeds.
        several: Whether other branches were attacked in another ball.
    """
    attack = (
        "in the worst case"
        if evaluation == WORST
        else f"under {evaluation.removeprefix('RA, ').removesuffix(ANY)}"
    )
    if several:
        attack += _ball(*sides[0])
    accuracies = {model.label(b): _robust(model, evaluation, b) for model, b in sides}
    best = max(accuracies, key=lambda label: accuracies[label])
    n = sides[0][0].records[0].n
    figure = f"{_percent(accuracies[best])} {bracketed(wilson(accuracies[best] * n, n), scale=100)}"
    if len(sides) == 1:
        return f"{best} classifies {figure} of the images correctly {attack}."
    if accuracies[best] == 0:
        return f"No model classifies any image correctly {attack}: {figure}."
    leads = {test.second: test.lead for test in tests if test.first == best}
    leads |= {test.first: -test.lead for test in tests if test.second == best}
    # The best over all its seeds need not lead on those that the tests compare.
    others = [label for label, lead in leads.items() if lead <= 0]
    if sampled and leads:
        verdict = (
            f"; {sampled} its lead over {_listed(others or [*leads])} "
            f"{'does not exceed' if others else 'exceeds'} chance"
        )
    elif others:
        verdict = f"; on the test images it is not distinguishable from {_listed(others)}"
    else:
        verdict = "; its lead over every other model exceeds chance" * bool(leads)
    return f"{best} has the highest robust accuracy {attack}, {figure}{verdict}."


def deployment_summary(table: Table, models: Sequence[ModelRecords]) -> str:
    """Describes the most robust and the most accurate serving rule of the deployment table.

    Rules attacked in different threat models or radii are not compared: each ball has sentences.

    Args:
        table: "deployment" of ``robustnorm.reporting.tables.tables``.
        models: The models that it shows.
    """
    answers = [(model, answer) for model in models for answer in model.records[0].answers]
    by_ball: dict[object, list[tuple[Cell, ...]]] = {}
    named: dict[object, str] = {}
    for row, (model, answer) in zip(table.rows, answers, strict=True):
        ball = model.ball(WORST, answer)
        by_ball.setdefault(ball, []).append(row)
        named[ball] = _ball(model, answer)
    several = len(by_ball) > 1
    return " ".join(_deployed(of, named[ball] * several) for ball, of in by_ball.items())


def _deployed(rows: Sequence[tuple[Cell, ...]], ball: str) -> str:
    """Returns the sentences about the rules that were attacked in one ball, named or ""."""
    robust = max(rows, key=lambda row: _number(row[4]))
    accurate = max(rows, key=lambda row: _number(row[2]))
    sentence = (
        f"If it is not known which images are attacked{ball}, the most robust choice is "
        f"{_rule(robust)}: deployed RA {_percent(robust[4])} at SA {_percent(robust[2])}"
    )
    if accurate is robust:
        return f"{sentence}, which is also the highest SA."
    return (
        f"{sentence}. The highest SA is {_percent(accurate[2])}, with {_rule(accurate)}, whose "
        f"deployed RA is {_percent(accurate[4])}."
    )


def _ball(model: ModelRecords, answer: str) -> str:
    attack = model.records[0].attack_on(answer)
    return f" ({attack['threat_model'].capitalize()}, epsilon {attack['epsilon']})"


def _robust(model: ModelRecords, evaluation: str, branch: str) -> float:
    return mean(float(seed.mean()) for seed in model.correct(evaluation, branch))


def _rule(row: Sequence[object]) -> str:
    return f"{row[0]}" if row[1] == "-" else f"{row[0]}, {row[1]}"


def _number(cell: object) -> float:
    assert isinstance(cell, float)
    return cell


def _percent(cell: object) -> str:
    return f"{100 * _number(cell):.2f} %"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
