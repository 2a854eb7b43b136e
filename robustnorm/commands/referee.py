"""Compares ``worst`` with AutoAttack, its referee, image by image on trained networks."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustnorm.attacks import autoattack
from robustnorm.attacks.passes import Counted, Passes
from robustnorm.attacks.pyautoattack import installed
from robustnorm.data.dataset import subset
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.chunks import CHUNK, classify_all, rows_on_device
from robustnorm.evaluation.search import Branch, Search, branches, generator_of
from robustnorm.evaluation.statistics import wilson
from robustnorm.models.faithful import Standin
from robustnorm.records.bits import deflate_bits, inflate_bits
from robustnorm.records.digests import digest_of_network
from robustnorm.records.journal import Key
from robustnorm.records.record import SINGLE, fingerprint
from robustnorm.reporting.render import Cell, Table, to_markdown, to_text
from robustnorm.runs import Run
from robustnorm.runs.described import load_data
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.config import Config
from robustnorm.system.device import made_by, resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.stopping import ShouldStop, Stopped, interrupted, never
from robustnorm.system.untrusted import parse_json
from robustnorm.work.evaluate import fitting_runs

log = logging.getLogger("robustnorm")

# Default number of test images; AutoAttack takes half a minute for them on digits.
_IMAGES = 100
_ATTACKS = ("worst", "autoattack")


def referee(config: Config, *, should_stop: ShouldStop = never) -> str:
    """Attacks every branch of the fitting runs with both attacks; returns and writes the table.

    Each result is kept in a file of its own, so that the same command continues an interrupted
    comparison and another one replaces none.

    Args:
        config: The settings; norm and seed are ignored. ``test_limit`` is 100 by default.
        should_stop: Called before each branch.

    Raises:
        ImportError: When AutoAttack is not installed.
        UsageError: When no checkpoint fits, one was trained on other data, or a network has fewer
            classes than AutoAttack needs.
        Stopped: When a signal arrives; the next call continues.
    """
    installed()
    runs = fitting_runs(config)
    if not runs:
        raise UsageError("the referee needs trained runs, but none fits this config; train first")
    dataset, device = load_data(config), resolve_device(config.device)
    ids, test = subset(dataset.test, config.test_limit or _IMAGES)
    search, folder = Search.of(config), config.reports_folder
    for run in runs:
        run.check_data(dataset)
        _check_classes(run)
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        model = run.network(device)
        identity = {
            "weights": digest_of_network(model),
            "dataset": dataset.sha256,
            "image_ids": ids.tolist(),
            "precision": config.eval_precision,
            "by": made_by(device),
        }
        for branch in branches(model, config.eval_precision):
            if interrupted(should_stop):
                raise Stopped(f"{len(rows)} branches are compared")
            ball = search.for_branch(branch.name)
            wanted = fingerprint(
                identity | {"ball": (ball.threat_model, ball.epsilon), "seed": ball.seed}
            )
            path = folder / "referee" / f"{run.folder.name}-{branch.name}-{wanted}.json"
            found = _read(path, wanted)
            if found is None:
                log.info("comparing on %s, %s", run.folder.name, branch.name)
                batch = rows_on_device(
                    branch.score, test.images, test.labels, torch.arange(len(ids))
                )
                found = _compare(branch, *batch, ids, search) | {"fingerprint": wanted}
                write_atomically(path, json.dumps(seal(found)).encode())
            rows.append(_row(run, branch.name, found, len(ids)))
    table = Table(
        "referee",
        "The attack worst beside AutoAttack",
        (
            *("Run", "RA, worst %", "RA, AutoAttack %", "95 % interval", "Same verdict"),
            *("Only worst breaks", "Only AutoAttack breaks"),
            *("Time, s", "AutoAttack's", "Ratio", "Passes", "AutoAttack's", "Ratio"),
        ),
        rows,
        [
            f"n = {len(ids)} of {len(dataset.test)} test images of {dataset.name}; "
            f"{_attack(search)}. Verdicts by the network itself in float32.",
            f"Checkpoint '{config.checkpoint}': "
            + ", ".join(f"{run.folder.name} of epoch {run.epoch}" for run in runs)
            + ".",
            "AutoAttack: the standard ensemble by its authors' code on the network, all images at "
            "once. worst: as an evaluation runs it, on a folded copy "
            f"({config.eval_precision}), at most {CHUNK} images at a time.",
            "95 % interval: Wilson, of AutoAttack. Same verdict: images on which both agree. Time: "
            "by the clock, one after the other on the same device. Passes: of the network, forward "
            "and back, in images.",
        ],
    )
    write_atomically(folder / "referee.md", to_markdown(table).encode())
    log.info("wrote %s", folder / "referee.md")
    return to_text([table])


def _check_classes(run: Run) -> None:
    """Raises a UsageError when a network has fewer classes than AutoAttack needs."""
    (attack,) = parse_attacks(["autoattack"])
    classes = len(run.dataset["classes"])
    if classes < attack.least_classes:
        raise UsageError(
            f"the referee, AutoAttack, needs at least {attack.least_classes} classes, but "
            f"{run.folder} has {classes}; evaluate it with robustnorm eval --attacks apgd-ce,square"
        )


def _compare(
    branch: Branch, images: Tensor, labels: Tensor, ids: Tensor, search: Search
) -> dict[str, Any]:
    """Returns the verdicts, the seconds and the passes of both attacks."""
    branch_search = search.for_branch(branch.name)
    if isinstance(branch.standin, Standin):
        branch.standin.choose(images[: CHUNK // 2])  # on as many images as an evaluation does

    def worst() -> tuple[Tensor, Passes]:
        key, passes = Key("worst", "final", branch.name, branch.name), dict[Key, Passes]()
        found = attack_chunk(
            [branch], images, labels, ids, search,
            attack=parse_attacks(["worst"])[0], batch_size=CHUNK, passes=passes,
        )  # fmt: skip
        return found[key].correct, passes[key]

    def peer() -> tuple[Tensor, Passes]:
        counted = Counted(branch.score)
        adv_images = autoattack(
            counted, images, labels, epsilon=branch_search.epsilon,
            threat_model=branch_search.threat_model,
            generator=generator_of(branch_search.seed, int(ids[0])),
        )  # fmt: skip
        return classify_all(branch.score, adv_images, labels, ids).correct, counted.passes

    attacks: dict[str, Callable[[], tuple[Tensor, Passes]]] = dict(
        zip(_ATTACKS, (worst, peer), strict=True)
    )
    results: dict[str, Any] = {}
    for name, attack in attacks.items():
        clock = time.perf_counter()
        correct, passes = attack()
        results[name] = {
            "correct": deflate_bits(correct.cpu().numpy()),
            "seconds": round(time.perf_counter() - clock, 2),
            "passes": sum(passes),
        }
    return results


def _row(run: Run, branch: str, found: dict[str, Any], n: int) -> tuple[Cell, ...]:
    ours, theirs = (inflate_bits(found[name]["correct"], n) for name in _ATTACKS)
    cells: list[Cell] = []
    for what in ("seconds", "passes"):
        mine, peer = (found[name][what] for name in _ATTACKS)
        cells += [f"{mine:,}", f"{peer:,}", f"{peer / max(mine, 1e-9):.1f}"]
    name = run.folder.name if branch == SINGLE else f"{run.folder.name} ({branch})"
    return (
        name,
        float(ours.mean()),
        float(theirs.mean()),
        wilson(int(theirs.sum()), n),
        f"{int((ours == theirs).sum())} of {n}",
        str(int((theirs & ~ours).sum())),
        str(int((ours & ~theirs).sum())),
        *cells,
    )


def _read(path: Path, wanted: str) -> dict[str, Any] | None:
    """Returns the earlier result for the same network, images, attack, versions and device."""
    if not path.exists():
        return None
    try:
        found, _ = unseal(parse_json(path.read_bytes()), required=True)
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s) and is made again", path, error)
        return None
    if found.get("fingerprint") != wanted:
        log.warning("%s is the result of another comparison and is made again", path)
        return None
    return found


def _attack(search: Search) -> str:
    attacks = [f"{search.threat_model.capitalize()}, epsilon {search.epsilon:.4g}"]
    attacks += [
        f"branch {name}: {attack.threat_model.capitalize()}, epsilon {attack.epsilon}"
        for name, attack in search.branch_attacks.items()
    ]
    return "; ".join(attacks)
