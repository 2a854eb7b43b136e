"""Evaluates a network from Python; the results can be printed, saved and shown on a page."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustnorm.attacks.contract import unchanged, undisturbed
from robustnorm.attacks.inputs import admit_images, admit_labels
from robustnorm.data.dataset import Dataset
from robustnorm.data.stored import is_stored
from robustnorm.evaluation.chunks import CHUNK, rows_of, rows_on_device
from robustnorm.evaluation.errors import EvaluationError
from robustnorm.evaluation.evaluate import Rules
from robustnorm.evaluation.evaluate import evaluate as verdicts_of
from robustnorm.evaluation.margins import median_margins
from robustnorm.evaluation.search import Precision, Search, scorers
from robustnorm.records.digests import digest_of_images, digest_of_network
from robustnorm.records.images import hashes
from robustnorm.records.record import Record, fingerprint
from robustnorm.records.validation import check_text
from robustnorm.reporting.results import Results
from robustnorm.settings.groups import BranchAttack
from robustnorm.system.device import device_name
from robustnorm.system.names import check_name
from robustnorm.system.source import source_commit, versions


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    name: str | None = None,
    data: str | Dataset = "unnamed data",
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: Sequence[int] = (10, 20),
    threat_model: str = "linf",
    branch_attacks: Mapping[str, BranchAttack] | None = None,
    rules: Rules = "all",
    precision: Precision = "fp32",
    serving: bool = False,
    attacks: Sequence[str] = (),
    seed: int = 0,
    image_ids: Tensor | None = None,
    keep: str | Path | None = None,
    **others: Any,
) -> Results:
    """Attacks each branch of ``model`` with PGD; returns a verdict per image, attack and branch.

    The result is a sequence of ``Verdict``. It prints as a table, and has ``to_dataframe()``,
    ``save(path)`` for a result record, and ``report(path)`` for an HTML page. The docstring of
    ``robustnorm.evaluation.evaluate.evaluate``, which computes the verdicts, describes how images
    are attacked and scored.

    Args:
        model: In evaluation mode; images in [0, 1] to logits. Left unchanged.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: (N,), integers; (N, 1) and one-hot rows are also accepted.
        name: Name of the network in tables; by default that of its class.
        data: Name of the data set in tables; or the data set itself, from
            ``robustnorm.data.load_dataset``, if these are its test images. The results can then be
            compared with those of the commands.
        epsilon: Attack radius on the [0, 1] scale.
        step_size: Size of one step on that scale; for Linf, the change of a pixel.
        steps: Numbers of steps after which verdicts are taken.
        threat_model: ``"linf"`` or ``"l2"``.
        branch_attacks: Threat model, radius and step size of the branches that are attacked
            differently, by name.
        rules: ``"all"``, or ``"any"`` for the verdicts of that rule alone, in a fraction of the
            time.
        precision: Precision of the gradients, ``"fp32"`` or ``"bf16"``; verdicts are in fp32.
        serving: Also attack and score each serving rule over all branches.
        attacks: Names of further attacks on each branch, such as ``"worst"``,
            ``"pgd-50x5-margin"`` or ``"autoattack"``.
        seed: Seed of the random starts.
        image_ids: int64 (N,), indices of the images in their data set; 0..N-1 by default.
        keep: Folder for the adversarial images, which ``Results.verify`` can then check.
        **others: ``journal``, ``fingerprint``, ``compile``, ``progress`` and ``should_stop`` of
            ``robustnorm.evaluation.evaluate.evaluate``. A ``journal`` is a file from which a killed
            evaluation continues; delete it once the results are saved.

    Raises:
        ValueError: Before any attack, when network, images, labels or settings are unsuitable;
            during an attack, when a logit or a gradient is not finite.
        ImportError: When the package of an attack is not installed.
        Stopped: When ``should_stop`` asks for it.

    Examples:
        >>> from robustnorm import resnet18
        >>> model = resnet18(norm="auxbn", width=4, num_classes=3).eval()
        >>> images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
        >>> results = evaluate(model, images, labels, steps=(2,), name="mine", data="noise")
        >>> len(results), results[0].attack, results[0].score_branch, results[0].correct.shape
        (8, 'none', 'clean', (5,))
        >>> print(str(results).splitlines()[0])
        mine on noise
    """
    begin = time.perf_counter()
    keep = None if keep is None else Path(keep)
    name = type(model).__name__ if name is None else name
    try:
        check_name("name", name)
        check_text(data)  # before minutes of attacks: not every text fits into a record
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    if isinstance(data, Dataset):
        _check_part_of(data, images, labels, image_ids)
    verdicts = verdicts_of(
        model,
        images,
        labels,
        Search(epsilon, step_size, tuple(steps), threat_model, seed, branch_attacks or {}),
        rules=rules,
        precision=precision,
        serving=serving,
        attacks=attacks,
        image_ids=image_ids,
        keep=keep,
        **others,
    )
    images = images if is_stored(images) else admit_images(images, integers=True)
    labels = admit_labels(labels, images)
    ids = list(range(len(images))) if image_ids is None else [*map(int, image_ids)]
    protocol = {
        "name": "not known",
        **_ball(BranchAttack(threat_model, epsilon, step_size)),  # type: ignore[arg-type]
        "branches": {branch: _ball(attack) for branch, attack in (branch_attacks or {}).items()},
        "steps": max(steps),
        "random_start": True,
        "seed": seed,
        "chunk": CHUNK,
        "precision": "fp32",
        "search": f"folded, {precision}",
        "serving": serving,
        "attacks": list(attacks),
        "transfer": False,
        "checks": "none",
    }
    record = Record(
        name=name,
        norm=name,
        seed=0,
        adversarial=True,
        checkpoint={
            "tag": "given",
            "epoch": 0,
            "epochs": 0,
            "sha256": digest_of_network(model),
            "given": type(model).__name__,
        },
        config={},
        config_hash=fingerprint({}),
        history=[],
        dataset=_describe(data, model, images, labels, ids),
        image_ids=ids,
        labels=labels.tolist(),
        protocol=protocol,
        protocol_hash=fingerprint(protocol),
        verdicts=verdicts,
        checks=[],
        curve=[],
        examples=[],
        versions=versions() | {"python": platform.python_version()} | source_commit(),
        device=device_name(next(model.parameters(), labels).device),
        wall_seconds=round(time.perf_counter() - begin, 2),
        images={} if keep is None else {"folder": keep.name, "files": hashes(keep)},
        margins=median_margins(model, images, labels, serving=serving),
    )
    return Results(record, keep)


def _describe(
    data: str | Dataset, model: nn.Module, images: Tensor, labels: Tensor, ids: list[int]
) -> dict[str, Any]:
    """Returns the record's description of the data."""
    digest = digest_of_images(images, labels)
    if isinstance(data, Dataset):
        return {
            "name": data.name,
            "sha256": data.sha256,
            "classes": list(data.classes),
            "train_images": len(data.train),
            "test_images": len(data.test),
            "images": digest,
        }
    score = next(iter(scorers(model).values()))
    with undisturbed(), unchanged(model), torch.no_grad():
        some, _ = rows_on_device(score, images, labels, rows_of(min(2, len(images))))
        classes = score(some).shape[1]
    return {
        "name": data,
        "sha256": digest,
        "classes": [str(label) for label in range(classes)],
        "train_images": 0,
        "test_images": max(ids) + 1,  # at least
        "images": digest,
    }


def _check_part_of(data: Dataset, images: Tensor, labels: Tensor, image_ids: Tensor | None) -> None:
    """Raises an EvaluationError unless the images are test images of the data set."""
    labels = admit_labels(labels, images)
    ids = rows_of(len(images)) if image_ids is None else torch.as_tensor(image_ids).cpu()
    inside = 0 < len(ids) == len(images) and int(ids.max()) < len(data.test)
    if inside and torch.equal(data.test.labels[ids].cpu(), labels.cpu()):
        test = data.test.take(ids)
        if images is data.test.images or digest_of_images(images, labels) == digest_of_images(
            test.images, test.labels
        ):
            return
    raise EvaluationError(
        f"images and labels are not test images of {data.name}: pass its test.images and "
        "test.labels, with image_ids for a subset, or pass only a name as data"
    )


def _ball(attack: BranchAttack) -> dict[str, str]:
    return {
        "threat_model": attack.threat_model,
        "epsilon": fraction_text(attack.epsilon),
        "step_size": fraction_text(attack.step_size),
    }


def fraction_text(size: float | Fraction) -> str:
    """Returns a radius as a fraction if it is a simple one, else in decimal digits.

    Examples:
        >>> fraction_text(8 / 255), fraction_text(0.0123456789)
        ('8/255', '0.0123456789')
    """
    near = Fraction(size).limit_denominator(1024)
    return str(near) if float(near) == float(size) else repr(float(size))
