"""Trains and measures the GANs of Table 1, and prints it."""

from __future__ import annotations

import itertools
import json
import logging
from functools import cache
from pathlib import Path

from robustnorm.applications.gan.features import trained_classifier
from robustnorm.applications.gan.measures import Measures, shrunk
from robustnorm.applications.gan.run import Run, train_gan
from robustnorm.data import load_dataset
from robustnorm.runs.run import resolve_device
from robustnorm.settings.gan import GanConfig
from robustnorm.system.files import write_atomically
from robustnorm.system.stopping import ShouldStop, never

log = logging.getLogger("robustnorm")


def table1(
    config: GanConfig, config_path: str | None = None, should_stop: ShouldStop = never
) -> str | None:
    """Trains and measures each network, norm and seed that has no record yet."""
    folder = Path(config.reports) / config.name / "records"
    folder.mkdir(parents=True, exist_ok=True)
    device = resolve_device(config.device)
    dataset = shrunk(
        load_dataset(config.data, root=Path(config.data_root), download=config.download),
        config.image_size,
    )

    @cache
    def measures() -> Measures:
        features = trained_classifier(
            dataset, config, device, Path(config.output) / config.name / "classifier"
        )
        return Measures(features, dataset, images=config.eval_images, latent_dim=config.latent_dim)

    for network, seed, norm in itertools.product(config.networks, config.seeds, config.norms):
        run = Run(network, norm, seed)
        path = folder / f"{run.name}.json"
        if path.exists():
            continue
        record = train_gan(config, run, dataset, measures, device, should_stop)
        write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
        log.info("wrote %s", path)
    return None
