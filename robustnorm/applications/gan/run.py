"""Trains and measures one GAN, identified by network, norm and seed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.applications.gan.gradients import Reading, class_gradients
from robustnorm.applications.gan.measures import Measures, generate
from robustnorm.applications.gan.networks import build_networks
from robustnorm.applications.gan.record import ClassGradients, GanRecord
from robustnorm.applications.gan.state import State
from robustnorm.applications.gan.train import train, window_means
from robustnorm.data.dataset import Dataset
from robustnorm.runs.checkpoint import find_checkpoint, load_checkpoint, restore, save_checkpoint
from robustnorm.runs.described import describe_dataset
from robustnorm.settings.gan import GanSettings
from robustnorm.system.device import device_name
from robustnorm.system.errors import UsageError
from robustnorm.system.locks import exclusive
from robustnorm.system.stopping import ShouldStop, Stopped

log = logging.getLogger("robustnorm")

# Entries of a checkpoint's manifest that the record keeps.
_RECORDED = (
    *("config", "dataset", "features", "test_images", "measured", "best", "losses"),
    *("seconds", "device", "versions"),
)
# Rows of a grid of images.
_ROWS = 6


class GanRun(NamedTuple):
    """One row of the table, with one seed."""

    network: str
    norm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder and record."""
        return f"{self.network}-{self.norm}-seed{self.seed}"


class Finished(NamedTuple):
    """A trained run: its record, and images of its running mean, uint8 (_ROWS, K, C, H, W).

    The images of a row share a latent vector, those of a column share a class.
    """

    record: GanRecord
    images: Tensor


def folder_of(config: GanSettings, run: GanRun) -> Path:
    """Returns the folder of a run's checkpoints."""
    return Path(config.output) / config.name / run.name


def train_gan(
    config: GanSettings,
    run: GanRun,
    dataset: Dataset,
    measures: Callable[[], Measures],
    device: torch.device,
    should_stop: ShouldStop,
) -> Finished:
    """Trains a run, or continues it, and measures it every ``config.eval_every`` steps.

    Args:
        config: The settings.
        run: Network, norm and seed.
        dataset: At ``config.image_size``.
        measures: Returns the measures; called only if something must be measured.
        device: Training device.
        should_stop: Called after every step.

    Raises:
        UsageError: When the folder holds a run with other settings, data or features, or the losses
            are not finite.
        Stopped: When ``should_stop`` asks for it; the results so far are saved.
    """
    folder = folder_of(config, run)
    with exclusive(folder):
        state, content = _start(config, run, dataset, device, folder)
        if content["step"] < config.steps:
            features = measures().features.description
            if content.setdefault("features", features) != features:
                raise UsageError(
                    f"{folder} was measured through another network ({content['features']}); use "
                    "that network again, or remove that folder"
                )
            content["test_images"] = measures().of_test_images()
            _train(config, run, dataset, measures, device, should_stop, folder, state, content)
        if "gradients" not in content:
            found = _gradients(config, run, dataset, device, folder)
            content["gradients"] = [gradients.to_dict() for gradients in found]
            save_checkpoint(folder, "last", state, content)
    return Finished(
        _record(content, load_checkpoint(folder, "last").sha256),
        _grid(state.average, len(dataset.classes), config.latent_dim),
    )


def _start(
    config: GanSettings, run: GanRun, dataset: Dataset, device: torch.device, folder: Path
) -> tuple[State, dict[str, Any]]:
    """Returns the saved state, or the initial one, and the other content of its manifest."""
    data = describe_dataset(dataset, len(dataset.train))
    settings = config.to_dict() | run._asdict()
    generator, discriminator = _networks(config, run, dataset)
    state = State(generator.to(device), discriminator.to(device), config)
    content: dict[str, Any] = {
        "config": settings,
        "dataset": data,
        "step": 0,
        "seconds": 0.0,
        "measured": [],
        "device": device_name(device),
        "versions": {package: version(package) for package in ("robustnorm", "torch", "numpy")},
    }
    checkpoint = find_checkpoint(folder, "last")
    if checkpoint is None:
        return state, content
    manifest = checkpoint.manifest
    odd = [name for name in settings if manifest["config"].get(name) != settings[name]]
    if odd or manifest["dataset"]["sha256"] != dataset.sha256:
        what = ", ".join(f"{name} {manifest['config'].get(name)}" for name in odd) or "data"
        raise UsageError(
            f"{folder} holds a run with other settings ({what} there); continue it with those, "
            "choose another --name, or remove that folder"
        )
    restore(checkpoint, state)
    kept = (*content, "features", "test_images", "losses", "best", "gradients")
    return state, {name: manifest[name] for name in kept if name in manifest}


def _networks(config: GanSettings, run: GanRun, dataset: Dataset) -> tuple[nn.Module, nn.Module]:
    return build_networks(
        config,
        *run,
        num_classes=len(dataset.classes),
        channels=dataset.train.images.shape[1],
    )


def _train(
    config: GanSettings,
    run: GanRun,
    dataset: Dataset,
    measures: Callable[[], Measures],
    device: torch.device,
    should_stop: ShouldStop,
    folder: Path,
    state: State,
    content: dict[str, Any],
) -> None:
    """Trains to the end; updates and saves state and content."""
    first, saved = content["step"], time.monotonic()
    steps = train(
        state,
        dataset.train.to(device),
        config,
        seed=run.seed,
        num_classes=len(dataset.classes),
        first=first,
    )
    began = time.monotonic()
    with tqdm(
        total=config.steps, initial=first, desc=run.name, unit="step", disable=None, leave=False
    ) as bar:
        for step in steps:
            bar.update()
            now = time.monotonic()
            content["seconds"] += now - began
            content["step"] = step
            content["losses"] = window_means(state.losses.cpu(), step)
            measured = step % config.eval_every == 0 or step == config.steps
            if measured:
                _measure(run, folder, state, measures(), content)
            # Saved before "last" moves on, so that a kill cannot lose it.
            if step in config.keep_steps:
                networks = {"generator": state.generator, "discriminator": state.discriminator}
                save_checkpoint(folder, f"step{step}", nn.ModuleDict(networks), content)
            stop = should_stop(0.0) and step < config.steps
            if measured or stop or now - saved > 60 * config.save_minutes:
                save_checkpoint(folder, "last", state, content)
                saved = time.monotonic()
            if stop:
                raise Stopped(f"{run.name} stopped after step {step} of {config.steps}")
            began = time.monotonic()


def _measure(
    run: GanRun, folder: Path, state: State, measures: Measures, content: dict[str, Any]
) -> None:
    """Measures the running mean, and saves it if its distance is the lowest so far."""
    entry = {"step": content["step"]} | measures.of_generator(state.average)
    content["measured"].append(entry)
    best = min(content["measured"], key=lambda other: other["distance"])
    content["best"] = best["step"]
    if best is entry:
        save_checkpoint(folder, "best", state.average, content)
    log.info(
        "%s: step %d, distance %.3f, score %.3f, losses %.3f and %.3f",
        run.name, entry["step"], entry["distance"], entry["score"],
        *state.losses[:, entry["step"] - 1].tolist(),
    )  # fmt: skip


def _gradients(
    config: GanSettings, run: GanRun, dataset: Dataset, device: torch.device, folder: Path
) -> list[ClassGradients]:
    """Compares the classes' gradients at the kept steps, for both readings of Eq. 4.

    If gradients cannot be compared, as when those of a collapsed generator are zero, the run has no
    comparisons; its measures are worth keeping.
    """
    shapes: dict[Reading, tuple[int, ...]] = {
        "single samples": (config.gradient_latents,),
        "class batches": (config.gradient_batches, config.batch_size),
    }
    found = []
    for step in sorted(config.keep_steps):
        generator, discriminator = _networks(config, run, dataset)
        pair = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        restore(load_checkpoint(folder, f"step{step}"), pair)
        pair.to(device)
        random = torch.Generator().manual_seed(0)
        for reading, shape in shapes.items():
            latents = torch.randn(*shape, config.latent_dim, generator=random)
            try:
                stages = class_gradients(
                    generator,
                    discriminator,
                    latents,
                    num_classes=len(dataset.classes),
                    reading=reading,
                )
            except ValueError as error:
                log.warning(
                    "%s is left out of Figure 2: at step %d (%s) %s", run.name, step, reading, error
                )
                return []
            found.append(ClassGradients(step, reading, stages))
    return found


def _grid(generator: nn.Module, num_classes: int, latent_dim: int) -> Tensor:
    latents = torch.randn(_ROWS, latent_dim, generator=torch.Generator().manual_seed(1))
    images = generate(
        generator,
        latents.repeat_interleave(num_classes, 0),
        torch.arange(num_classes).repeat(_ROWS),
    )
    return images.view(_ROWS, num_classes, *images.shape[1:])


def _record(content: dict[str, Any], sha256: str) -> GanRecord:
    """Returns the record of a finished run."""
    given: dict[str, Any] = {name: content[name] for name in _RECORDED}
    gradients = [ClassGradients.from_dict(entry) for entry in content["gradients"]]
    return GanRecord(**given, gradients=gradients, sha256=sha256)
