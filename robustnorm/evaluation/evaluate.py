"""Standard and robust accuracy of each branch: one verdict per test image, branch and attack."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from attacks import pgd
from attacks.threat_model import THREAT_MODELS
from robustnorm.data.batches import to_float
from robustnorm.evaluation.records import SINGLE, Verdict, pack, unpack
from robustnorm.routing import bind, branches_of

# Images are attacked in chunks of this size, the last one padded, so that a verdict does not
# depend on how many images are asked for.
CHUNK = 100


class Key(NamedTuple):
    """Which verdict: names as in ``Verdict``."""

    attack: str
    rule: str
    attack_branch: str
    score_branch: str


class Outcome(NamedTuple):
    """Verdict and cross-entropy (nats) of each image of a chunk, both (N,)."""

    correct: Tensor
    loss: Tensor


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: Sequence[int] = (10, 20),
    threat_model: str = "linf",
    seed: int = 0,
    image_ids: Tensor | None = None,
    journal: Path | None = None,
    fingerprint: str = "",
    progress: str | None = None,
) -> list[Verdict]:
    """Attacks each branch of ``model`` with PGD and scores the images through every branch.

    One trajectory of max(steps) PGD steps from a uniform random start serves every entry of
    ``steps``. The start of an image follows from (seed, image id) alone, and images are attacked in
    chunks of fixed size, so that a verdict does not depend on the images around it.

    Args:
        model: In evaluation mode; images in [0, 1] to logits. Left as it was.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Attack radius on the [0, 1] scale.
        step_size: Change of a pixel in one step.
        steps: Numbers of steps after which verdicts are taken.
        threat_model: ``"linf"`` or ``"l2"``.
        seed: Of the random starts.
        image_ids: int64 (N,), the images' places in their data set; 0..N-1 by default.
        journal: A file that keeps finished chunks, so that a killed evaluation goes on where it
            was. Deleted by whoever has saved the result.
        fingerprint: Of all that the verdicts depend on; a journal with another one is discarded.
        progress: Text of a progress bar; none by default.

    Returns:
        For each branch A (``"single"`` on a network without branches): attack ``"none"`` through A;
        ``"pgd-k"`` against A scored by A, rules ``"final"`` (the iterate after k steps) and
        ``"any"`` (no image or iterate up to k was misclassified); and the last iterate scored by
        each other branch, rule ``"final"``.

    Raises:
        ValueError: When a module of ``model`` is in train mode, or images and labels do not fit.

    References:
        Madry et al., arXiv:1706.06083; Gong et al., arXiv:2102.11382, Tables 3 and 4.

    Examples:
        >>> from robustnorm import resnet18
        >>> model = resnet18(norm="auxbn", width=4, num_classes=3).eval()
        >>> images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
        >>> verdicts = evaluate(model, images, labels, steps=(2,))
        >>> len(verdicts), verdicts[0].attack, verdicts[0].score_branch, verdicts[0].correct.shape
        (8, 'none', 'clean', (5,))
    """
    if any(module.training for module in model.modules()):
        raise ValueError("evaluate needs the model in evaluation mode: call model.eval() first")
    if len(images) != len(labels) or not len(images) or not steps or min(steps) < 1:
        raise ValueError(
            f"evaluate needs as many images as labels, at least one, and steps of at least 1, got "
            f"{len(images)} images, {len(labels)} labels, steps {tuple(steps)}"
        )
    ids = torch.arange(len(images)) if image_ids is None else image_ids.cpu()
    done = _read_journal(journal, fingerprint)
    collected: dict[Key, list[np.ndarray]] = {}
    chunks = range(0, len(images), CHUNK)
    with tqdm(
        total=len(images),
        desc=progress,
        unit="img",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for number, first in enumerate(chunks):
            size = min(CHUNK, len(images) - first)
            if number in done:
                verdicts = done[number]
            else:
                part = slice(first, first + size)
                outcomes = attack_chunk(
                    model,
                    images[part],
                    labels[part],
                    ids[part],
                    epsilon=epsilon,
                    step_size=step_size,
                    steps=steps,
                    threat_model=threat_model,
                    seed=seed,
                )
                verdicts = {key: o.correct.cpu().numpy() for key, o in outcomes.items()}
                _append_journal(journal, fingerprint, number, verdicts)
            for key, correct in verdicts.items():
                collected.setdefault(key, []).append(correct)
            bar.update(size)
    return [Verdict(*key, correct=np.concatenate(parts)) for key, parts in collected.items()]


def attack_chunk(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: Sequence[int],
    threat_model: str = "linf",
    seed: int = 0,
) -> dict[Key, Outcome]:
    """Returns verdict and loss of at most ``CHUNK`` images for each key; arguments as ``evaluate``.

    The loss of rule ``"any"`` is that of the last iterate.
    """
    size = len(images)
    # Repeats the last image up to the chunk's size: the padding's verdicts are cut off below.
    padded = torch.arange(CHUNK).clamp_max(size - 1)
    parameter = next(model.parameters(), images)
    ids, labels = image_ids[padded], labels[padded.to(labels.device)].to(parameter.device)
    images = to_float(images[padded.to(images.device)].to(parameter.device))
    start = _random_start(images, ids, epsilon, threat_model, seed)
    branches = branches_of(model) or (SINGLE,)
    scorers = {branch: bind(model, branch) for branch in branches}
    outcomes: dict[Key, Outcome] = {}
    for attacker, target in scorers.items():
        with torch.no_grad():
            clean = _outcome(target(images), labels)
        outcomes[Key("none", "final", attacker, attacker)] = clean
        unbroken = clean.correct

        def on_iterate(step: int, _: Tensor, logits: Tensor, attacker: str = attacker) -> None:
            nonlocal unbroken
            outcome = _outcome(logits, labels)
            unbroken = unbroken & outcome.correct
            if step in steps:
                attack = f"pgd-{step}"
                outcomes[Key(attack, "final", attacker, attacker)] = outcome
                outcomes[Key(attack, "any", attacker, attacker)] = Outcome(unbroken, outcome.loss)

        adv_images = pgd(
            target,
            images,
            labels,
            epsilon=epsilon,
            step_size=step_size,
            steps=max(steps),
            threat_model=threat_model,
            start=start,
            on_iterate=on_iterate,
        )
        for scorer, other in scorers.items():
            if scorer != attacker:
                with torch.no_grad():
                    outcome = _outcome(other(adv_images), labels)
                outcomes[Key(f"pgd-{max(steps)}", "final", attacker, scorer)] = outcome
    return {key: Outcome(o.correct[:size], o.loss[:size]) for key, o in outcomes.items()}


def _outcome(logits: Tensor, labels: Tensor) -> Outcome:
    loss = F.cross_entropy(logits.detach().float(), labels, reduction="none")
    return Outcome(logits.argmax(1) == labels, loss)


def _random_start(
    images: Tensor, image_ids: Tensor, epsilon: float, threat_model: str, seed: int
) -> Tensor:
    """Draws each image's start from a generator of its own, on the CPU: the same on any device."""
    ball = THREAT_MODELS[threat_model]
    starts = []
    for image, image_id in zip(images.cpu(), image_ids.tolist(), strict=True):
        state = np.random.SeedSequence((seed, image_id)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(state))
        starts.append(ball.random_start(image[None], epsilon, generator))
    return torch.cat(starts).to(images.device)


def _read_journal(path: Path | None, fingerprint: str) -> dict[int, dict[Key, np.ndarray]]:
    if path is None or not path.exists():
        return {}
    done: dict[int, dict[Key, np.ndarray]] = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the kill came while this line was written
            break
        if entry["fingerprint"] != fingerprint:
            path.unlink()
            return {}
        done[entry["chunk"]] = {
            Key(*key): unpack(bits, entry["size"]) for key, bits in entry["verdicts"]
        }
    return done


def _append_journal(
    path: Path | None, fingerprint: str, chunk: int, verdicts: dict[Key, np.ndarray]
) -> None:
    if path is None:
        return
    entry = {
        "fingerprint": fingerprint,
        "chunk": chunk,
        "size": len(next(iter(verdicts.values()))),
        "verdicts": [[key, pack(correct)] for key, correct in verdicts.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
