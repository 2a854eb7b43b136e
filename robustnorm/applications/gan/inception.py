"""The Inception network of FID and IS, using torch-fidelity and weights supplied by the user."""

from __future__ import annotations

import hashlib
import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustnorm.applications.gan.features import FeatureOutput
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.extras import extra

# First digits of the weights' sha256, which are part of the file name.
SHA256 = "6726825d"
_BATCH = 50
_MISSING = "operator torchvision::nms does not exist"


class InceptionFeatures:
    """Inception's pooled features and its logits without bias: FID and IS as published.

    Args:
        path: ``weights-inception-2015-12-05-6726825d.pth`` from torch-fidelity's releases.
        device: Device to use.

    Raises:
        UsageError: When the file cannot be read.
        RefusedFileError: When it is not that file.
        ImportError: When torch-fidelity is not installed.
    """

    name = "Inception"
    classes = False

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read ({error.strerror}); set --inception_weights to the weights "
                "that torch-fidelity publishes with its releases"
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if not digest.startswith(SHA256):
            raise RefusedFileError(
                f"{path} has the SHA-256 {digest[:8]}..., but the weights of FID and IS have "
                f"{SHA256}...; use those that torch-fidelity publishes with its releases"
            )
        try:
            torch.load(
                path, weights_only=True, map_location="meta"
            )  # torch-fidelity checks nothing
        except (pickle.UnpicklingError, RuntimeError) as error:
            raise RefusedFileError(
                f"{path} contains more than weights; nothing was loaded"
            ) from error
        self._network = _extractor()(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        ).to(device)
        self._device = device
        self.description: dict[str, Any] = {"network": "Inception 2015-12-05", "sha256": digest}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> FeatureOutput:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        parts = [self._network(part.to(self._device)) for part in torch.split(images, _BATCH)]
        features, logits = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
        return FeatureOutput(features, logits)


@cache
def _extractor() -> Any:
    """Returns torch-fidelity's network; its package imports torchvision."""
    with extra("fidelity", "FID and IS need torch-fidelity"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except RuntimeError as error:
            if _MISSING not in str(error):
                raise
            # A torchvision built for CUDA lacks two of its operators if torch is built for the CPU
            # only. They are not used here.
            for name in [name for name in sys.modules if name.split(".")[0] in _HALF_IMPORTED]:
                del sys.modules[name]
            library: Any = torch.library
            _LIBRARIES.append(library.Library("torchvision", "DEF"))
            for operator in ("nms", "qnms"):
                arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                _LIBRARIES[0].define(operator + arguments)
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    return FeatureExtractorInceptionV3


_HALF_IMPORTED = ("torchvision", "torch_fidelity")
# Definitions last only as long as this list refers to them.
_LIBRARIES: list[Any] = []
