"""Exports one branch of a trained run for other tools."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustnorm.data import load_dataset
from robustnorm.data.dataset import subset
from robustnorm.exchange.export import FORMATS, Description, export
from robustnorm.norms.routing import branches_of
from robustnorm.records.record import SINGLE, Record
from robustnorm.reporting.card import model_card
from robustnorm.runs import Run
from robustnorm.runs.described import network_arguments
from robustnorm.settings.export import ExportSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.extras import extra
from robustnorm.work.report import records_of


def export_run(settings: ExportSettings) -> str:
    """Exports one branch, checks the file, and uploads it if requested; returns a description.

    Args:
        settings: The settings.

    Raises:
        CheckpointError: When the checkpoint is missing or damaged.
        UsageError: When the branch or the image size is unknown.
        ExportError: When the exported file does not give the network's logits.
        ImportError: When the format's library is not installed.
    """
    upload = _uploader(settings.push) if settings.push else None
    folder = Path(settings.run)
    run = Run.open(folder, settings.checkpoint)
    model = run.network()
    branch = _branch(model, settings.branch)
    images = _images(settings, run)
    path = _path(settings, folder, branch)
    description = _description(settings, run, model, branch)
    difference = export(model, branch, path, to=settings.to, images=images, description=description)
    text = (
        f"{path}: branch '{branch}' of {folder}, checkpoint '{settings.checkpoint}'. Loaded again, "
        f"it gives the same prediction on {len(images)} of {len(images)} images; the largest "
        f"difference of a logit is {difference:.1e}."
    )
    return text if upload is None else f"{text}\n{upload(path)}"


def _branch(model: nn.Module, branch: str | None) -> str:
    known = branches_of(model)
    if not known:
        return SINGLE
    if branch not in known:
        names = ", ".join(known)
        raise UsageError(f"--branch must be a branch of the network ({names}), got {branch}")
    return branch


def _path(settings: ExportSettings, folder: Path, branch: str) -> Path:
    if settings.output is not None:
        suffix = FORMATS[settings.to].suffix
        if not settings.output.endswith(suffix):
            raise UsageError(f"--output must end in {suffix}, got {settings.output}")
        return Path(settings.output)
    name = f"{settings.checkpoint}-{branch}" + (FORMATS[settings.to].suffix or f"-{settings.to}")
    return folder / "export" / name


def _images(settings: ExportSettings, run: Run) -> Tensor:
    """Returns random images for the check, followed by as many test images if data are given."""
    channels, size = run.dataset["channels"], run.dataset.get("image_size")
    test: list[Tensor] = []
    if settings.data is not None:
        dataset = load_dataset(
            settings.data, root=Path(settings.data_root), resize=run.config.resize
        )
        run.check_data(dataset)
        size = list(dataset.test.images.shape[2:])
        _, sample = subset(dataset.test, min(settings.check_images, len(dataset.test)))
        test.append(sample.images[:] / 255)
    elif settings.image_size is not None:
        size = [settings.image_size] * 2
    if size is None:
        raise UsageError(
            f"the checkpoint in {run.folder} does not record its image size; "
            "set --image_size, such as 32, or --data"
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(settings.check_images, channels, *size, generator=generator)
    return torch.cat([noise, *test])


def _description(settings: ExportSettings, run: Run, model: nn.Module, branch: str) -> Description:
    config = run.config
    attack = config.adversarial_branches.get(branch, config.attack)
    arguments = network_arguments(config, run.dataset)
    if branches_of(model):
        arguments["norm"] = "bn"  # the norm of a folded branch
    content = {
        "model_type": "robustnorm",
        "network": config.network,
        "arguments": arguments,
        **({"network_args": config.network_args} if config.network_args else {}),
        "branch": branch,
        "trained_norm": config.norm,
        "adversarial": config.adversarial,
        "classes": run.dataset["classes"],
        "threat_model": attack.threat_model,
        "epsilon": str(attack.epsilon),
        "checkpoint_sha256": run.sha256,
        "robustnorm_version": version("robustnorm"),
    }
    records = map(Record.load, records_of(run, Path(settings.reports)))
    record = max(records, key=lambda each: each.n, default=None)  # on the most images
    return Description(content, model_card(content, run, record))


def _uploader(repository: str) -> Any:
    """Returns a function that uploads a folder to Hugging Face with the user's token."""
    with extra("hub", "uploading needs huggingface_hub"):
        from huggingface_hub import HfApi

    def upload(folder: Path) -> str:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
        return f"uploaded to {repository}"

    return upload
