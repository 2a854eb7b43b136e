"""Settings shared by commands that work on many runs: files and devices, and job engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from robustnorm.settings.base import Settings, names


@dataclass(frozen=True)
class SharedFiles(Settings):
    """Files and devices for several configs.

    Args:
        data: digits, cifar10, or a path; each config's by default.
        data_root: Folder for downloads, unpacked archives and decoded images; each config's by
            default.
        device: cpu, cuda, ...; each config's by default.
        output: Folder of checkpoints; each config's by default.
        reports: Folder of tables and result records; each config's by default.
    """

    data: str | None = None
    data_root: str | None = None
    device: str | None = None
    output: str | None = None
    reports: str | None = None

    @property
    def places(self) -> dict[str, Any]:
        """Changes to apply to each config, which keeps what is not set."""
        values = {name: getattr(self, name) for name in names(SharedFiles)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Engine(Settings):
    """Job engine.

    Args:
        engine: local, this process or several on this machine; ray, the Ray cluster at RAY_ADDRESS
            or a new one on this machine; submitit, Slurm.
        workers: With local, the number of processes, 0 for this one. With submitit, the largest
            number of Slurm jobs. Ray uses the whole cluster.
        threads: CPU threads per job; with local, the workers share torch's threads by default.
        gpus: GPUs per job on Ray; below 1, jobs share a GPU.
        slurm: Parameters of submitit's AutoExecutor: {slurm_partition: gpu, gpus_per_node: 1,
            timeout_min: 240, ...}.
    """

    engine: Literal["local", "ray", "submitit"] = "local"
    workers: int = 0
    threads: int | None = None
    gpus: float = 1.0
    slurm: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        least = int(self.engine == "submitit")
        self._require(
            "workers", self.workers >= least, f"at least {least} with engine {self.engine}"
        )
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1, or null")
        self._require("gpus", self.gpus > 0, "above 0")
