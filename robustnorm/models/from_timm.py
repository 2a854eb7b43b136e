"""Networks of the package timm, newly initialized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from robustnorm.system.errors import UsageError
from robustnorm.system.registry import did_you_mean

# These load weights from files or the internet, unchecked; ``robustnorm import`` checks them.
_WEIGHTS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")
_REFUSED = (*_WEIGHTS, "cache_dir", "features_only")


def timm_factory(name: str) -> Callable[..., nn.Module]:
    """Returns a factory of timm's network of that name.

    Args:
        name: As in ``timm.list_models()``; not one of a model hub or a folder.

    Raises:
        UsageError: On an unknown name, or when timm cannot be imported.
    """
    try:
        import timm
    except Exception as error:  # torchvision, which timm imports, raises RuntimeError
        raise UsageError(
            f"network timm:{name}: timm cannot be imported ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); it needs a torchvision built for this torch: "
            "install torch and torchvision from the same source"
        ) from error
    if not timm.is_model(name):
        raise UsageError(
            f"timm {timm.__version__} has no network '{name}'"
            f"{did_you_mean(name, timm.list_models())} timm.list_models() lists all names"
        )

    def factory(num_classes: int, in_channels: int, **arguments: Any) -> nn.Module:
        for refused in _REFUSED:
            if refused in arguments:
                raise UsageError(
                    f"network_args of timm:{name} cannot have {refused}: a run starts from new "
                    "weights; 'robustnorm import FILE' makes a run of existing ones"
                )
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments
        )
        return network

    return factory
