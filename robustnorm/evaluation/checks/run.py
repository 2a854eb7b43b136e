"""Runs every check on every branch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.attacks.contract import unchanged
from robustnorm.attacks.pyautoattack import installed
from robustnorm.attacks.torchattacks import find_class
from robustnorm.data.batches import to_float
from robustnorm.evaluation.checks.binarization import binarize
from robustnorm.evaluation.checks.judge import judge
from robustnorm.evaluation.checks.measure import (
    TIERS,
    TierName,
    count_attacks,
    measure,
    prepare,
    radius_text,
)
from robustnorm.evaluation.chunks import CHUNK, rows_of
from robustnorm.evaluation.search import Precision, Search, branches
from robustnorm.models.serving import RULES
from robustnorm.records.parts import Check, CurvePoint
from robustnorm.system.stopping import ShouldStop, Stopped, interrupted, never


def run_checks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    image_ids: Tensor,
    search: Search,
    tier: TierName,
    serving: bool = False,
    precision: Precision = "fp32",
    compile: bool = False,
    recorded: Mapping[str, float] = MappingProxyType({}),
    progress: str | None = None,
    should_stop: ShouldStop = never,
) -> tuple[list[Check], list[CurvePoint]]:
    """Checks whether a PGD evaluation of each branch can be trusted.

    Defences have appeared robust because an attack found no gradient, stopped too early, or
    attacked a different network from the one that scored it. Each check detects one such fault.
    The checks use ``branches`` and ``attack_chunk``, which also give the reported verdicts.

    Args:
        model: In evaluation mode; images in [0, 1] to logits. Left unchanged.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        image_ids: int64 (N,), indices of the images in their data set.
        search: The attack whose results are reported. Its largest number of steps is checked, with
            each branch's own threat model and radius.
        tier: ``"quick"``: at most 100 images and a few attacks on each; ``"full"``: at most 1,000
            images, the whole curve, and Square with AutoAttack's 5,000 queries.
        serving: Also check each serving rule.
        precision: Precision of the gradients, as in the evaluation.
        compile: Whether the copies that give the gradients are compiled, as in the evaluation.
        recorded: Standard accuracies recorded in training, by branch; not compared by default.
        progress: Text of a progress bar; none by default.
        should_stop: Called after each attack; only a signal stops the checks.

    Returns:
        The checks, named as in ``CHECKS``, and the accuracy as a function of the attack's radius.
        Checks that do not apply are omitted: those that need several branches on a network with
        one, and the binarization test on serving rules and on networks without a final linear
        layer.

    Raises:
        ImportError: When the library that provides Square is not installed.
        Stopped: When a signal arrives.
        ValueError: On an unknown tier, no images, or a radius of 0.

    References:
        Carlini et al., On Evaluating Adversarial Robustness, arXiv:1902.06705; Athalye et al.,
        Obfuscated Gradients Give a False Sense of Security, ICML 2018, arXiv:1802.00420; Croce et
        al., RobustBench, arXiv:2010.09670; Zimmermann et al., arXiv:2206.13991.
    """
    if tier not in TIERS:
        raise ValueError(f"tier must be one of {', '.join(TIERS)}, got {tier!r}")
    if not len(images) or search.epsilon <= 0:
        raise ValueError(
            "checks need images and an attack radius above 0, got "
            f"{len(images)} images and epsilon {search.epsilon}"
        )
    size = TIERS[tier]
    check_installed(tier)
    attacked = [
        prepare(branch) for branch in branches(model, precision, serving=serving, compile=compile)
    ]
    n = min(len(images), size.images)
    rows = rows_of(n) * len(images) // n  # spread evenly: images may be sorted by class
    device = next(model.parameters(), images).device
    images = to_float(images[rows.to(images.device)].to(device))
    labels, ids = labels[rows.to(labels.device)].to(device), image_ids.cpu()[rows]
    with unchanged(model), torch.no_grad():
        classes = attacked[0][0].score(images[:2]).shape[1]
    names, steps = [branch.name for branch, _ in attacked], max(search.steps)
    search = search._replace(steps=(steps,))
    generator = torch.Generator().manual_seed(search.seed)
    parts = torch.split(rows_of(n), CHUNK)
    few = slice(size.readouts)
    checks: list[Check] = []
    curve: list[CurvePoint] = []
    with (
        unchanged(model),
        tqdm(
            total=len(parts) * count_attacks(size, search, names) + len(names),
            desc=progress,
            unit="attack",
            disable=None if progress else True,
            leave=False,
        ) as bar,
    ):

        def on_attack() -> None:
            bar.update()
            if interrupted(should_stop):
                raise Stopped("stopped during the checks of an evaluation")

        chunks = [
            measure(attacked, images[p], labels[p], ids[p], search, size, generator, on_attack)
            for p in parts
        ]
        for name in names:
            seen = [chunk[name] for chunk in chunks]
            evidence = {key: torch.cat([part[key] for part in seen]).cpu() for key in seen[0]}
            binarized, settings = None, search.for_branch(name)
            if name not in RULES:
                binarized = binarize(model, name, images[few], ids[few], settings, size, generator)
            on_attack()
            findings = judge(
                evidence,
                binarized,
                steps,
                classes,
                size,
                recorded=recorded.get(name),
                precision=precision,
            )
            checks += [Check(check, name, *finding) for check, finding in findings.items()]
            curve += [
                CurvePoint(
                    name,
                    radius_text(entry, settings),
                    int(evidence[f"radius {entry}"].sum()),
                    n,
                )
                for entry in size.radii
            ]
    return checks, curve


def check_installed(tier: TierName) -> None:
    """Raises an ImportError when the library that provides a tier's Square is not installed."""
    if TIERS[tier].queries is None:
        installed()
    else:
        find_class("Square")
