"""First-order DARTS: alternating steps on the weights and on alpha, until ``stop_step``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from robustnorm.applications.nas.cell import sample_operations
from robustnorm.applications.nas.images import (
    SearchImages,
    batches_from,
    divide,
    path_generator,
    reduced,
)
from robustnorm.applications.nas.record import Entry, SearchRecord, find_record, record_path
from robustnorm.applications.nas.supernet import Supernet
from robustnorm.data import load_dataset
from robustnorm.data.dataset import Dataset
from robustnorm.runs.checkpoint import (
    find_checkpoint,
    restore,
    save_checkpoint,
)
from robustnorm.runs.described import to_channels_last
from robustnorm.settings.base import names
from robustnorm.settings.nas import SearchFiles, SearchSettings
from robustnorm.system.device import device_name, resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.system.locks import exclusive
from robustnorm.system.source import source_commit
from robustnorm.system.stopping import ShouldStop, Stopped, never

log = logging.getLogger("robustnorm")

_ADAM_BETAS = (0.5, 0.999)


def search_folder(settings: SearchSettings) -> Path:
    """Returns the folder of a search's checkpoints."""
    return Path(settings.output) / str(settings.name) / settings.run


def run_search(settings: SearchSettings, *, should_stop: ShouldStop = never) -> SearchRecord:
    """Runs a search, or continues it, and writes its record; an existing record is returned.

    Args:
        settings: The settings, with a name.
        should_stop: Called between two steps.

    Raises:
        UsageError: When the folder holds a search with other settings or data, or the losses are no
            longer finite.
        DataError, CheckpointError: When the data or the checkpoint are unusable.
        Stopped: When ``should_stop`` asks for it; the state is saved, and the next call continues.
    """
    found = find_record(settings)
    if found is not None:
        check_same_data([found], settings)
        return found
    device = resolve_device(settings.device)
    with exclusive(search_folder(settings)):
        dataset = _load(settings)
        run = DartsSearch(settings, dataset, device)
        run.resume()
        run.take_steps(should_stop)
        record = run.record()
        record.save(record_path(settings))
    log.info("wrote %s", record_path(settings))
    return record


def check_same_data(
    records: Sequence[SearchRecord], settings: SearchSettings, *, again: bool = False
) -> None:
    """Raises a UsageError when a record is of a search on other data than the settings name.

    Args:
        records: The records.
        settings: Name the data.
        again: Also read data that the record's search named in the same way.
    """
    if not any(again or record.search.data != settings.data for record in records):
        return
    dataset = _load(settings)
    for record in records:
        if record.dataset["sha256"] != dataset.sha256:
            raise UsageError(
                f"the record of {record.search.run} is of {record.dataset['name']} "
                f"({record.dataset['sha256'][:12]}), but --data gives {dataset.name} "
                f"({dataset.sha256[:12]}); set it to the same data, or choose another --name"
            )


def _load(settings: SearchSettings) -> Dataset:
    dataset = load_dataset(
        settings.data, root=Path(settings.data_root), download=settings.download, stream=False
    )
    return reduced(dataset, settings.image_size)


class DartsSearch:
    """The state of a search, and its steps.

    Args:
        settings: The settings.
        dataset: At the image size of the search.
        device: Device to use.
    """

    def __init__(self, settings: SearchSettings, dataset: Dataset, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.folder = search_folder(settings)
        images = divide(dataset, settings)
        self.images = SearchImages(
            images.weights.to(device), images.alpha.to(device), images.augmentation
        )
        self.dataset: dict[str, Any] = {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "classes": len(dataset.classes),
            "image_size": list(dataset.train.images.shape[2:]),
            "weight_images": len(images.weights),
            "alpha_images": len(images.alpha),
        }
        self.network = Supernet(
            num_classes=len(dataset.classes),
            channels=settings.channels,
            cells=settings.cells,
            norm=settings.norm,
            paths=settings.paths,
            in_channels=dataset.train.images.shape[1],
            mean=dataset.mean,
            std=dataset.std,
            seed=settings.seed,
        ).to(device)
        to_channels_last(self.network)
        self.weight_optimizer = torch.optim.SGD(
            self.network.weights(),
            settings.learning_rate,
            momentum=settings.momentum,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        self.alpha_optimizer = torch.optim.Adam(
            [self.network.alpha],
            settings.alpha_learning_rate,
            betas=_ADAM_BETAS,
            weight_decay=settings.alpha_weight_decay,
        )
        self.step = 0
        self.seconds = 0.0
        self.history: list[Entry] = []
        # Sums of the losses on weights and on alpha since the last entry of the history.
        self.losses = torch.zeros(2, dtype=torch.float64, device=device)
        self._add_entry()

    def take_steps(self, should_stop: ShouldStop = never) -> None:
        """Takes all remaining steps.

        Raises:
            Stopped: When ``should_stop`` asks for it, after saving.
            UsageError: When a loss is not finite.
        """
        settings, images = self.settings, self.images
        batches = [
            batches_from(split, settings, images.augmentation, part, self.step)
            for part, split in enumerate((images.weights, images.alpha))
        ]
        self.network.train()
        begun = saved = time.monotonic()
        before = self.seconds
        with tqdm(
            initial=self.step,
            total=settings.stop_step,
            desc=f"searching {settings.run}",
            unit="step",
            disable=None,
        ) as bar:
            while self.step < settings.stop_step:
                for part, take in enumerate((self.step_weights, self.step_alpha)):
                    batch = next(batches[part])
                    generator = path_generator(self.step, settings.seed, part)
                    try:
                        sampled = sample_operations(
                            self.network.alpha, self.network.mixed_cells, generator
                        )
                    except FloatingPointError as error:
                        raise self._diverged() from error
                    self.losses[part] += take(batch.images, batch.labels, sampled)
                self.step += 1
                bar.update()
                self.seconds = before + time.monotonic() - begun
                at_end = self.step == settings.stop_step
                if at_end or self.step % settings.record_every == 0:
                    self._add_entry()
                stop = should_stop(0.0)
                if stop or at_end or time.monotonic() - saved > 60 * settings.save_minutes:
                    self.save()
                    saved = time.monotonic()
                if stop and not at_end:
                    raise Stopped(
                        f"{settings.run}: {self.step} of {settings.stop_step} steps are done"
                    )

    def step_weights(
        self, images: Tensor, labels: Tensor, sampled: Sequence[Sequence[int]]
    ) -> Tensor:
        """Takes a step on the weights; returns the loss."""
        settings = self.settings
        learning_rate = cosine(
            self.step, settings.steps, settings.learning_rate, settings.final_learning_rate
        )
        for group in self.weight_optimizer.param_groups:
            group["lr"] = learning_rate
        self.network.zero_grad()
        loss = F.cross_entropy(self.network(images, sampled), labels)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clipping)
        self.weight_optimizer.step()
        return loss.detach()

    def step_alpha(
        self, images: Tensor, labels: Tensor, sampled: Sequence[Sequence[int]]
    ) -> Tensor:
        """Takes a step on alpha; returns the loss."""
        alpha = self.network.alpha
        loss = F.cross_entropy(self.network(images, sampled), labels)
        # Without the gradients of the weights, which would be a third of the work.
        (alpha.grad,) = torch.autograd.grad(loss, [alpha])
        self.alpha_optimizer.step()
        return loss.detach()

    def record(self) -> SearchRecord:
        """Returns the record of a finished search."""
        return SearchRecord(
            settings=self.settings.to_dict(),
            dataset=self.dataset,
            history=self.history,
            seconds=self.seconds,
            device=device_name(self.device),
            versions={name: version(name) for name in ("robustnorm", "torch", "numpy")}
            | source_commit(),
        )

    def save(self) -> None:
        """Saves the state atomically."""
        manifest = {
            "config": self.settings.to_dict(),
            "dataset": self.dataset,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses.tolist(),
            "history": [entry._asdict() for entry in self.history],
        }
        state = _State(self.network, self.alpha_optimizer)
        save_checkpoint(self.folder, "last", state, manifest, self.weight_optimizer)

    def resume(self) -> None:
        """Restores the last saved state, if any.

        Raises:
            UsageError: When it has other settings or data.
            CheckpointError: When it is damaged.
        """
        checkpoint = find_checkpoint(self.folder, "last")
        if checkpoint is None:
            return
        manifest = checkpoint.manifest
        saved = SearchSettings.from_dict(manifest["config"])
        differences = self.settings.differences(saved, names(SearchFiles))
        if differences:
            raise UsageError(
                f"{self.folder} holds a search with other settings ({differences}); continue it "
                "with those, choose another --name, or remove that folder"
            )
        if manifest["dataset"]["sha256"] != self.dataset["sha256"]:
            raise UsageError(
                f"{self.folder} holds a search on {manifest['dataset']['name']}, but these data "
                f"are {self.dataset['name']} with other content; set --data to the same data, or "
                "choose another --name"
            )
        state = _State(self.network, self.alpha_optimizer)
        restore(checkpoint, state, self.weight_optimizer)
        state.restore_adam(self.alpha_optimizer, manifest["step"])
        self.step, self.seconds = manifest["step"], manifest["seconds"]
        self.losses.copy_(torch.tensor(manifest["losses"], dtype=torch.float64))
        self.history = [Entry(**entry) for entry in manifest["history"]]

    def _diverged(self) -> UsageError:
        return UsageError(
            f"{self.settings.run}: loss or alpha is no longer finite near step {self.step}; lower "
            f"--learning_rate or --alpha_learning_rate, under another --name"
        )

    def _add_entry(self) -> None:
        """Adds alpha and the mean losses to the history."""
        since = self.step - self.history[-1].step if self.history else 0
        means = [loss / since if since else None for loss in self.losses.tolist()]
        if not all(mean is None or math.isfinite(mean) for mean in means):
            raise self._diverged()
        # Nine digits distinguish all float32 values.
        alpha = [[float(f"{value:.9g}") for value in row] for row in self.network.alpha.tolist()]
        self.history.append(Entry(self.step, alpha, *means))
        self.losses.zero_()


class _State(nn.Module):
    """Supernet and Adam's averages as one module for checkpoints."""

    exp_avg: Tensor
    exp_avg_sq: Tensor

    def __init__(self, network: Supernet, optimizer: torch.optim.Adam) -> None:
        super().__init__()
        self.network = network
        state = optimizer.state.get(network.alpha, {})
        for name in ("exp_avg", "exp_avg_sq"):
            value = state.get(name, torch.zeros_like(network.alpha))
            self.register_buffer(name, value.clone())

    def restore_adam(self, optimizer: torch.optim.Adam, steps: int) -> None:
        """Restores the averages and the number of steps in the optimizer."""
        if steps:
            optimizer.state[self.network.alpha] = {
                "step": torch.tensor(float(steps)),
                "exp_avg": self.exp_avg,
                "exp_avg_sq": self.exp_avg_sq,
            }


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Returns the learning rate of a step on half a cosine from ``first`` to ``last``.

    Examples:
        >>> [round(cosine(step, 100, 3.0, 1.0), 3) for step in (0, 50, 100)]
        [3.0, 2.0, 1.0]
    """
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2
