"""Compares the gradients of a network's branches, and of the classes in each branch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.data.batches import to_float
from robustnorm.evaluation.chunks import CHUNK, rows_of
from robustnorm.evaluation.diversity import StageDiversity
from robustnorm.evaluation.search import Branch, Search, climb
from robustnorm.norms.routing import bind, branches_of
from robustnorm.studies.gradients import Group, check_model, gradient_diversity


class Diagnosis(NamedTuple):
    """The comparison of the branches and, for each branch, the comparison of the classes."""

    branches: list[StageDiversity]
    classes: dict[str, list[StageDiversity]]


def diagnose(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    search: Search,
    batches: int = 10,
    image_ids: Tensor | None = None,
    progress: str | None = None,
) -> Diagnosis:
    """Compares the gradients of the branches and, in each branch, those of the classes.

    The branch "clean" gets the images themselves; every other branch gets the adversarial images
    that PGD makes from them through that branch. In a network without branches both kinds ("clean"
    and "adv", unless the search names others) go through the same layers. Each batch contains the
    same number of images of each class.

    Args:
        model: In evaluation mode, on the device to use. Left unchanged.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        num_classes: Number of classes; those from 0 to num_classes - 1 are compared.
        search: The attack of each branch, with ``max(search.steps)`` steps; its seed also
            determines the batches.
        batches: Number of batches into which the images are divided.
        image_ids: int64 (N,), indices of the images in their data set; 0..N-1 by default.
        progress: Text of a progress bar; none by default.

    Raises:
        ValueError: As ``gradient_diversity``, and when a class has fewer images than there are
            batches.

    Examples:
        >>> from robustnorm import resnet18
        >>> model = resnet18(norm="saauxbn", width=4, num_classes=2).eval()
        >>> images, labels = torch.rand(8, 3, 8, 8), torch.tensor([0, 1] * 4)
        >>> search = Search(epsilon=8 / 255, step_size=2 / 255, steps=(2,))
        >>> found = diagnose(model, images, labels, num_classes=2, search=search, batches=2)
        >>> list(found.classes), found.branches[0].stage
        (['clean', 'adv'], 'conv1')
    """
    check_model(model)
    divided = _divide(labels.cpu(), num_classes, batches, search.seed)
    ids = rows_of(len(images)) if image_ids is None else image_ids.cpu()
    names = branches_of(model) or ("clean", *(search.branch_attacks or ("adv",)))
    # Each image is attacked once per branch except "clean", and enters two gradients per branch.
    work = len(images) * (3 * len(names) - names.count("clean"))
    with tqdm(
        total=work, desc=progress, unit="img", disable=None if progress else True, leave=False
    ) as bar:
        inputs = {
            name: images
            if name == "clean"
            else _attack(model, name, images, labels, ids, search, bar)
            for name in names
        }

        def group(name: str, rows: Tensor) -> Group:
            bar.update(len(rows))
            return Group(name, inputs[name][rows], labels[rows])

        return Diagnosis(
            gradient_diversity(
                model, ([group(name, torch.cat(rows)) for name in names] for rows in divided)
            ),
            {
                name: gradient_diversity(
                    model, ([group(name, of_class) for of_class in rows] for rows in divided)
                )
                for name in names
            },
        )


def _divide(labels: Tensor, num_classes: int, batches: int, seed: int) -> list[list[Tensor]]:
    """Divides the images into random batches; returns each batch's rows, one tensor per class."""
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for label in range(num_classes):
        rows = (labels == label).nonzero().flatten()
        if len(rows) < batches:
            raise ValueError(
                f"each of {batches} batches needs an image of every class, but class {label} has "
                f"{len(rows)}; use more images or fewer batches"
            )
        order = torch.randperm(len(rows), generator=generator, device="cpu")
        shares.append(rows[order].tensor_split(batches))
    return [list(batch) for batch in zip(*shares, strict=True)]


def _attack(
    model: nn.Module,
    branch: str,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    search: Search,
    bar: tqdm[Any],
) -> Tensor:
    """Returns the adversarial images of a branch, on the device of the images."""
    device, network = next(model.parameters()).device, bind(model, branch)
    adv_images = []
    for rows in torch.split(rows_of(len(images)), CHUNK):
        chunk, classes = to_float(images[rows].to(device)), labels[rows].to(device)
        attacked = climb(Branch(branch, network, network), chunk, classes, ids[rows], search)
        adv_images.append(attacked.to(images.device))
        bar.update(len(rows))
    return torch.cat(adv_images)
