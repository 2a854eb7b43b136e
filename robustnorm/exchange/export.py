"""Exporting one branch of a network to a file for other tools, verified by loading it again."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.attacks.logits import find_logits
from robustnorm.exchange.foreign import read_weights
from robustnorm.models import NETWORKS
from robustnorm.models.building import NetworkError, build_network
from robustnorm.models.folding import fold, folded_state
from robustnorm.models.weights import check_weights, without_shared_memory
from robustnorm.norms.routing import bind
from robustnorm.system.errors import RefusedFileError, UserError
from robustnorm.system.extras import extra
from robustnorm.system.files import disk_errors, move, write_atomically
from robustnorm.system.memory import is_out_of_memory
from robustnorm.system.sealed import DamagedError, seal, unseal
from robustnorm.system.structure import check_structure
from robustnorm.system.tensor_hash import hash_tensors
from robustnorm.system.untrusted import parse_json

# Largest accepted difference of a logit between network and file: fusing rounds in float32.
TOLERANCE = 1e-4
_CHUNK = 100

Network = Callable[[Tensor], Tensor]


class ExportError(UserError):
    """A network cannot be exported, or its export predicts otherwise; no file is left behind."""


@dataclass(frozen=True)
class Description:
    """Metadata of a file of weights.

    Args:
        config: JSON values: "network", "arguments" and "network_args" of
            ``robustnorm.models.building.build_network``, and anything else worth keeping.
        card: Text of the README.md in the Hugging Face layout.
    """

    config: dict[str, Any]
    card: str = ""


class Format(NamedTuple):
    """A file's suffix ("" for a folder) and the function that makes its content.

    The content is made in memory, since the libraries' writers crash when the disk is full, or
    leave half a file. It maps names in the folder to bytes; a single file has the name "".
    """

    suffix: str
    make: Callable[[nn.Module, str, Tensor, Description], dict[str, bytes]]


def export(
    model: nn.Module,
    branch: str,
    path: Path,
    *,
    to: str,
    images: Tensor,
    description: Description | None = None,
) -> float:
    """Writes one branch of ``model`` to ``path``, loads it again and compares the two.

    "torch-export" and "onnx" hold a program: the branch folded and fused, in float32, for any batch
    size and images of the same size as ``images``. "safetensors" and "huggingface" hold the weights
    of the folded branch and ``description``, from which ``load_exported`` builds the network.

    Args:
        model: In evaluation mode, on the CPU; any module tree for the two programs.
        branch: A branch of ``model``; any name for a network without branches.
        path: The file to write; for "huggingface" the folder.
        to: A key of ``FORMATS``.
        images: Float (N, C, H, W) in [0, 1] to compare on; the first one also as a batch of one.
        description: Describes the folded network; required for the two formats of weights.

    Returns:
        The largest difference of a logit.

    Raises:
        RoutingError: When a routed layer lacks the branch.
        ValueError: When ``to`` is unknown, ``path`` has the wrong suffix, or a required description
            is missing.
        ImportError: When the format's library is missing, with what to install.
        ExportError: When a logit differs by more than ``TOLERANCE`` or a prediction differs;
            ``path`` is then as it was before.
        DiskError: When the disk is full or read-only.

    Examples:
        >>> import tempfile
        >>> from robustnorm import resnet18
        >>> model, images = resnet18("auxbn", width=4).eval(), torch.rand(3, 3, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "adv.pt2"
        ...     difference = export(model, "adv", path, to="torch-export", images=images)
        ...     logits = load_exported(path)(images)
        >>> difference < TOLERANCE, logits.shape
        (True, torch.Size([3, 10]))
    """
    if to not in FORMATS:
        raise ValueError(f"unknown format '{to}'; known: {', '.join(FORMATS)}")
    if description is None and to in ("safetensors", "huggingface"):
        raise ValueError(f"'{to}' holds only weights and needs a description of their network")
    if FORMATS[to].suffix not in ("", path.suffix):
        raise ValueError(f"a '{to}' file must end in {FORMATS[to].suffix}, got {path}")
    content = FORMATS[to].make(model, branch, images, description or Description({}))
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        for name, data in content.items():
            write_atomically(temporary / name, data)
        difference = largest_difference(bind(model, branch), load_exported(temporary), images)
        with disk_errors(path, 0):
            if "" not in content:
                path.mkdir(exist_ok=True)
            for name in content:
                move(temporary / name, path / name)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()
    return difference


def load_exported(path: Path, *, network: str = "") -> Network:
    """Loads a file written by ``export``: images (N, C, H, W) in [0, 1] to logits, on the CPU.

    Args:
        path: A .pt2, .onnx or .safetensors file, or a folder of the Hugging Face layout.
        network: The file's network if it is a function in a module, such as ``mypkg.nets:wrn``;
            the module is imported only if its name is given here.

    Raises:
        RefusedFileError: On weights without a valid description of their network, or that do not
            fit it.
        UsageError: When their network is in a module and was not given, or cannot be built.
    """
    with NETWORKS.typed(network):
        return _load(path)


def _load(path: Path) -> Network:
    if path.is_dir() or path.suffix == ".safetensors":
        return _read_weights(path)
    if path.suffix == ".onnx":
        return _read_onnx(path)
    program: Network = torch.export.load(path).module()
    return program


@torch.no_grad()
def largest_difference(network: Network, exported: Network, images: Tensor) -> float:
    """Returns the largest difference of a logit between two networks.

    Args:
        network: The reference.
        exported: The network to check.
        images: Float (N, C, H, W); the first one is also compared as a batch of one.

    Raises:
        ExportError: When a logit differs by more than ``TOLERANCE`` or is not a number, or a
            prediction differs.
    """
    largest, changed = 0.0, 0
    chunks = [chunk for chunk in (images[:1], *torch.split(images[1:], _CHUNK)) if len(chunk)]
    for chunk in tqdm(chunks, desc="comparing", unit="batch", disable=None, leave=False):
        logits, others = (find_logits(each(chunk), len(chunk)) for each in (network, exported))
        # max() of a list would skip NaN.
        largest = torch.stack([torch.tensor(largest), (logits - others).abs().max()]).max().item()
        changed += int((logits.argmax(1) != others.argmax(1)).sum())
    if changed or not largest <= TOLERANCE:
        raise ExportError(
            f"the exported file does not agree with the network: a logit differs by {largest:.1e} "
            f"(at most {TOLERANCE:.0e} is allowed), and {changed} of {len(images)} predictions "
            "differ; the file was removed"
        )
    return largest


def _make_program(
    model: nn.Module, branch: str, images: Tensor, description: Description
) -> dict[str, bytes]:
    network = _program(model, branch, images)
    with torch.no_grad(), _export_errors("torch-export"):
        # Two images: with one, the export would fix the batch size.
        program = torch.export.export(
            network,
            (_two(images),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    file = io.BytesIO()
    torch.export.save(program, file)
    return {"": file.getvalue()}


def _make_onnx(
    model: nn.Module, branch: str, images: Tensor, description: Description
) -> dict[str, bytes]:
    _onnxruntime()  # raises before an export that may take minutes
    network = _program(model, branch, images)
    with torch.no_grad(), warnings.catch_warnings(), _export_errors("onnx"):
        # Raised by torch.onnx itself.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        program: Any = torch.onnx.export(
            network,
            (_two(images),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            verbose=False,
        )
    return {"": program.model_proto.SerializeToString()}


class _Logits(nn.Module):
    """Returns only the logits from a network's tuple, dictionary or object."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return find_logits(self.network(images), images.shape[0])


@torch.no_grad()
def _program(model: nn.Module, branch: str, images: Tensor) -> nn.Module:
    """Returns the branch folded and fused: images to logits, and nothing else."""
    network = fold(model, branch, fuse=True)
    return network if isinstance(network(_two(images)), Tensor) else _Logits(network).eval()


@contextmanager
def _export_errors(to: str) -> Iterator[None]:
    try:
        yield
    # torch may raise anything on a forward that it cannot trace.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ExportError(
            f"torch cannot trace the network's forward for '{to}' ({reason.strip()[:200]}); give "
            "--to safetensors, which holds the weights, or change that forward"
        ) from error


def _read_onnx(path: Path) -> Network:
    session = _onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _onnxruntime() -> Any:
    with extra("export", "ONNX needs onnx, onnxscript and onnxruntime"):
        import onnx  # noqa: F401 (used by torch.onnx)
        import onnxruntime
        import onnxscript  # noqa: F401 (used by torch.onnx)
    return onnxruntime


def _make_safetensors(
    model: nn.Module, branch: str, images: Tensor, description: Description
) -> dict[str, bytes]:
    state = without_shared_memory(folded_state(fold(model, branch)))
    config = json.dumps(seal(description.config))
    metadata = {"format": "pt", "config": config, "sha256": hash_tensors(state)}
    return {"": save(state, metadata=metadata)}


def _make_huggingface(
    model: nn.Module, branch: str, images: Tensor, description: Description
) -> dict[str, bytes]:
    return {
        "README.md": description.card.encode(),
        "config.json": (json.dumps(seal(description.config), indent=2) + "\n").encode(),
        "model.safetensors": _make_safetensors(model, branch, images, description)[""],
    }


def _read_weights(path: Path) -> nn.Module:
    """Builds the network that a file or folder describes, and loads its weights."""
    file = path / "model.safetensors" if path.is_dir() else path
    weights = read_weights(file)
    try:
        config, _ = unseal(parse_json(_description(path)))
        with safe_open(file, framework="pt") as opened:
            written = (opened.metadata() or {}).get("sha256")
        if written not in (None, hash_tensors(weights)):  # older files have none
            raise DamagedError("its weights do not match their hash")
        check_structure(config, {"network": str, "arguments": {"*": object}, "*": object})
        name, args = NETWORKS.check(config["network"]), config.get("network_args", {})
        build = partial(build_network, name, config["arguments"], args)
        with torch.device("meta"):  # allocates nothing before the shapes are known to fit
            check_weights(weights, build(), str(file))
    except NetworkError as error:  # other code may need values to build its network
        if name in NETWORKS:
            raise RefusedFileError(f"{path} describes no network ({error})") from error
    except (UserError, ImportError):
        raise
    # A network's factory may raise anything on unsuitable arguments.
    except Exception as error:
        raise RefusedFileError(
            f"{path} does not describe a network of this package ({error}); export it again"
        ) from error
    network = build()
    check_weights(weights, network, str(file))
    network.load_state_dict(weights)
    return network.eval()


def _description(path: Path) -> str:
    if path.is_dir():
        return (path / "config.json").read_text()
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {})["config"])


def _two(images: Tensor) -> Tensor:
    return images[:1].expand(2, -1, -1, -1).contiguous()


FORMATS = {
    "torch-export": Format(".pt2", _make_program),
    "onnx": Format(".onnx", _make_onnx),
    "safetensors": Format(".safetensors", _make_safetensors),
    "huggingface": Format("", _make_huggingface),
}
