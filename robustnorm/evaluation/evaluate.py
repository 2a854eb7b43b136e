"""Standard and robust accuracy of each branch: one verdict per test image, branch and attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.attacks.contract import unchanged, undisturbed
from robustnorm.attacks.inputs import admit_images, admit_labels
from robustnorm.attacks.logits import precision_of
from robustnorm.attacks.passes import Passes
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.data.stored import is_stored
from robustnorm.evaluation.attack import attack_chunk, attacks_in_order
from robustnorm.evaluation.batching import images_at_once
from robustnorm.evaluation.chunks import CHUNK, Outcome, rows_of, rows_on_device
from robustnorm.evaluation.errors import EvaluationError
from robustnorm.evaluation.named import is_per_image
from robustnorm.evaluation.probe import (
    check_mode,
    check_network,
    warn_if_no_better_than_chance,
)
from robustnorm.evaluation.search import Branch, Precision, Search, branches
from robustnorm.evaluation.until_broken import any_outcomes
from robustnorm.models.faithful import gradient_source
from robustnorm.models.layout import FRAGILE, is_channels_last, must_be_contiguous
from robustnorm.records.digests import digest_of_images, digest_of_network
from robustnorm.records.images import chunk_file, is_kept, write_chunk
from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.records.record import SINGLE, Verdict
from robustnorm.records.record import fingerprint as fingerprint_of
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.groups import BranchAttack
from robustnorm.system.device import made_by
from robustnorm.system.stopping import ShouldStop, Stopped, never
from robustnorm.system.tensor_hash import hash_tensors

Rules = Literal["all", "any"]
# Images per part. Where new images replace broken ones, long parts keep the batch full for longer.
_PART = {"all": CHUNK, "any": 20 * CHUNK}


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    search: Search,
    *,
    rules: Rules = "all",
    precision: Precision = "fp32",
    serving: bool = False,
    attacks: Sequence[str] = (),
    image_ids: Tensor | None = None,
    keep: str | Path | None = None,
    journal: str | Path | Journal | None = None,
    fingerprint: str | None = None,
    compile: bool = False,
    progress: str | None = None,
    should_stop: ShouldStop = never,
) -> list[Verdict]:
    """Attacks each branch of ``model`` with PGD and scores the images through every branch.

    One trajectory of max(steps) PGD steps from a uniform random start gives the verdicts for every
    entry of ``steps``. The start of an image depends only on (seed, image id, restart), and images
    are attacked in chunks of fixed size, in the order of their ids, so that a verdict does not
    depend on the other images. A GPU attacks as many chunks at once as fit into its memory, unless
    an attack draws random numbers for a whole chunk. Kernels may then round differently than for
    one chunk: a verdict is still the network's, but on an iterate that may differ in its last bits.

    Gradients come from a copy of the branch whose norms are folded into the convolutions; every
    verdict is the prediction of ``model`` itself, in its own precision. Each verdict counts the
    images on which the two disagree. Before the attack, the copy's logits and input gradients are
    compared with the network's on a few images; if they differ, the network itself is attacked, and
    the verdicts and the log say so.

    Args:
        model: In evaluation mode; images in [0, 1] to logits. Left unchanged.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: (N,), integers; (N, 1) and one-hot rows are also accepted.
        search: Settings of the attack; they are checked here.
        rules: ``"any"`` takes only the verdicts of that rule, after max(steps): images leave the
            attack as soon as they are broken, which takes a fraction of the time.
        precision: Precision of the convolutions that give the gradients, ``"fp32"`` or ``"bf16"``.
        serving: Also attack and score each serving rule over all branches (``Served``), as if it
            were a branch: a deployed network does not know which branch an image needs.
        attacks: Names of further attacks on each branch, such as ``"pgd-50x5-margin"`` or
            ``"autoattack"``, or any name in ``robustnorm.attacks.ATTACKS``; see
            ``robustnorm.settings.attack_names.grammar``. AutoAttack takes thousands of forward
            passes for an image that withstands it. Third-party attacks draw random numbers for a
            whole batch, so their verdicts depend on the seed and the chunk.
        image_ids: int64 (N,), indices of the images in their data set; 0..N-1 by default.
        keep: Folder for the adversarial images, see ``robustnorm.records.images``: 4 bytes per
            value for each verdict for which the attacked branch is also the one that scores.
        journal: File of finished parts, from which a killed evaluation continues, or a journal of
            parts finished elsewhere. The caller deletes the file once the result is saved.
        fingerprint: Identifies everything that the verdicts depend on; by default a hash of the
            network's weights, modules and first logits, the images, and all settings. A journal
            with another fingerprint is discarded; one made by other versions or on another device
            is refused.
        compile: Apply torch.compile to the copies that give the gradients, not to the network that
            gives the verdicts. Compiling takes minutes and pays off only for many images.
        progress: Text of a progress bar; none by default.
        should_stop: Called before each part, or group of parts attacked together, with the seconds
            that the previous one took.

    Returns:
        The verdicts for each branch A (``"single"`` on a network without branches): attack
        ``"none"``, the clean images; ``"pgd-k"`` against A scored by A, under the rules ``"final"``
        (the iterate after k steps) and ``"any"`` (neither the clean image nor any iterate up to k
        was misclassified); the last iterate scored by each other branch, rule ``"final"``; and each
        of ``attacks``, rule ``"final"``. With ``rules="any"``, only ``"none"``, ``"pgd-k"`` under
        rule ``"any"`` for the largest k, and ``attacks``.

    Raises:
        Stopped: When ``should_stop`` asks for it; finished parts are in the journal.
        ImportError: When the package of an attack is not installed.
        ValueError: Before any attack: when ``model`` is in train mode, bound to a branch, not
            deterministic, or gives logits that depend on the other images of a batch; when an
            attack is unknown or needs more classes; when images and labels do not match, or a
            radius or step size is out of range; when the network does not return logits; when the
            logits have no gradient and no attack searches without one, as ``"worst"`` does.
            During the attack: when a logit or a gradient is not finite.

    References:
        Madry et al., arXiv:1706.06083; Gong et al., arXiv:2102.11382, Tables 3 and 4.

    Examples:
        >>> from robustnorm import resnet18
        >>> model = resnet18(norm="auxbn", width=4, num_classes=3).eval()
        >>> images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
        >>> verdicts = evaluate(model, images, labels, Search(8 / 255, 2 / 255, (2,)))
        >>> len(verdicts), verdicts[0].attack, verdicts[0].score_branch, verdicts[0].correct.shape
        (8, 'none', 'clean', (5,))
    """
    check_mode(model)
    keep = None if keep is None else Path(keep)
    if not is_stored(images):
        images = admit_images(images, integers=True)
    labels = admit_labels(labels, images)
    if not len(images):
        raise EvaluationError("evaluate needs at least one image, got none")
    if images.dtype == torch.float64 and precision_of(model) != torch.float64:
        images = images.float()
    _check_settings(search, rules, precision, attacks, keep)
    if must_be_contiguous(model, images) and is_channels_last(model):
        raise EvaluationError(FRAGILE + "call model.to(memory_format=torch.contiguous_format)")
    ids = _admit_ids(image_ids, len(images))
    order = ids.argsort()
    named = parse_attacks(attacks)
    try:
        find_threat_model(search.threat_model)
        BranchAttack(**search.options)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    search = search._replace(epsilon=float(search.epsilon), step_size=float(search.step_size))
    with undisturbed(), unchanged(model):
        attacked = branches(model, precision, serving=serving, compile=compile)
        _check_branches(search, attacked)
        classes = check_network(attacked, images, labels, named, ids)

        def attack_parts(
            rows: Tensor,
            at_once: int,
            adv_images: dict[Key, Tensor] | None,
            passes: dict[Key, Passes],
        ) -> dict[Key, Outcome]:
            some = (attacked, images[rows], labels[rows], ids[rows], search)
            outcomes = any_outcomes(*some, at_once=at_once) if rules == "any" else {}
            for attack in attacks_in_order(search, named) if rules == "all" else named:
                outcomes |= attack_chunk(*some, adv_images, attack, passes=passes)
            return outcomes

        by = made_by(next(model.parameters(), order).device)
        if journal is not None and not isinstance(journal, Journal):
            if fingerprint is None:
                settings = (search, rules, precision, serving, [*attacks], compile, ids.tolist())
                fingerprint = _fingerprint(model, attacked, images, labels, settings)
            journal = Journal(Path(journal), fingerprint, by)
        done = journal or Journal(None, "", by)
        if keep is not None and not done.chunks:
            for stale in keep.glob("*.safetensors"):  # of an earlier evaluation
                stale.unlink()
        parts = torch.split(order, CHUNK if named else _PART[rules])
        done.forget_others([len(part) for part in parts])
        pending = [
            number
            for number in range(len(parts))
            if number not in done.chunks
            or (keep is not None and not is_kept(chunk_file(keep, number), done.images[number]))
        ]
        at_once = CHUNK
        # Attacks that draw random numbers for a whole chunk are slow: each chunk is saved at once.
        if pending and all(map(is_per_image, named)):
            at_once = images_at_once(attacked, images, labels, ids, search)
        together = at_once // CHUNK if rules == "all" else 1  # parts
        seconds = 0.0
        with tqdm(
            total=len(images),
            initial=len(images) - sum(len(parts[number]) for number in pending),
            desc=progress,
            unit="img",
            disable=None if progress else True,
            leave=False,
        ) as bar:
            for begin in range(0, len(pending), together):
                if should_stop(seconds):
                    raise Stopped(f"{len(done.chunks)} of {len(parts)} parts are evaluated")
                clock = time.perf_counter()
                numbers = pending[begin : begin + together]
                rows = torch.cat([parts[number] for number in numbers])
                adv_images: dict[Key, Tensor] | None = None if keep is None else {}
                passes: dict[Key, Passes] = {}
                found = {
                    key: ChunkVerdict(o.correct.cpu().numpy(), o.agrees.cpu().numpy())
                    for key, o in attack_parts(rows, at_once, adv_images, passes).items()
                }
                size = len(parts[0])  # of every part but the last, which ends its group
                spans = [slice(size * i, size * (i + 1)) for i in range(len(numbers))]
                sha256 = dict.fromkeys(numbers, "")
                for number, span in zip(numbers, spans, strict=True):
                    if keep is not None and adv_images is not None:
                        kept = {key: adversarial[span] for key, adversarial in adv_images.items()}
                        path = chunk_file(keep, number)
                        sha256[number] = write_chunk(path, ids[parts[number]], kept)
                seconds = time.perf_counter() - clock
                for number, span in zip(numbers, spans, strict=True):
                    part = {
                        key: ChunkVerdict(
                            p.correct[span],
                            p.agrees[span],
                            passes.pop(key, Passes()),
                        )
                        for key, p in found.items()
                    }  # the first part of a group carries the passes of all its parts
                    done.add(number, part, seconds / len(numbers), sha256[number])
                bar.update(len(rows))
        collected = done.collected(len(parts))
        back = order.argsort().numpy()
        searched = {branch.name: gradient_source(branch.standin) for branch in attacked}
        verdicts = [
            Verdict(
                *key,
                correct=np.concatenate([part[key].correct for part in collected])[back],
                disagreements=sum(int((~part[key].agrees).sum()) for part in collected),
                searched=searched[key.attack_branch],
                **Passes.sum(part[key].passes for part in collected)._asdict(),
            )
            for key in collected[0]
        ]
        warn_if_no_better_than_chance(verdicts, classes)
        return verdicts


def _fingerprint(
    model: nn.Module,
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    settings: tuple[object, ...],
) -> str:
    """Returns a hash of everything that the verdicts depend on."""
    some, _ = rows_on_device(attacked[0].score, images, labels, rows_of(len(images))[:2])
    with torch.no_grad():  # what computes them may depend on more than tensors
        logits = {branch.name: branch.score(some) for branch in attacked}
    content = {
        "weights": digest_of_network(model),
        "modules": [(name, type(module).__qualname__) for name, module in model.named_modules()],
        "logits": hash_tensors(logits),
        "images": digest_of_images(images, labels),
        "settings": repr(settings),
    }
    return fingerprint_of(content)


def _check_settings(
    search: Search, rules: str, precision: str, attacks: Sequence[str], keep: Any
) -> None:
    """Raises an EvaluationError on invalid settings."""
    steps, seed = search.steps, search.seed
    if not len(steps) or not all(isinstance(k, int) and k >= 1 for k in steps):
        raise EvaluationError(
            f"steps must be whole numbers of at least 1, such as (10, 20), got {steps}"
        )
    for name, value, known in (
        ("rules", rules, get_args(Rules)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise EvaluationError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if isinstance(attacks, str):
        raise EvaluationError(f"attacks must be a list of names, such as ['{attacks}']")
    if not isinstance(seed, int) or seed < 0:
        raise EvaluationError(f"seed must be a whole number of at least 0, got {seed}")
    if keep is not None and rules == "any":
        raise EvaluationError('images can be kept only with rules="all", got rules="any" and keep')


def _admit_ids(image_ids: Tensor | None, n: int) -> Tensor:
    """Returns the images' ids, int64 (N,), on the CPU."""
    if image_ids is None:
        return rows_of(n)
    ids = torch.as_tensor(image_ids).cpu()
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or ids.shape != (n,) or int(ids.min()) < 0 or len(set(ids.tolist())) < n:
        raise EvaluationError(
            f"image_ids must be {n} different integers of at least 0, got {ids.dtype} of shape "
            f"{tuple(ids.shape)}"
        )
    return ids.long()


def _check_branches(search: Search, attacked: Sequence[Branch]) -> None:
    """Raises an EvaluationError unless the network has every branch in ``branch_attacks``."""
    names = [branch.name for branch in attacked]
    unknown = [name for name in search.branch_attacks if name not in names]
    if unknown and SINGLE not in names:
        raise EvaluationError(
            f"branch_attacks names '{unknown[0]}', but the network's branches are "
            f"{', '.join(names)}"
        )
