"""Groups of settings of work on many runs: where it is done, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from robustnorm.settings.base import Settings


@dataclass(frozen=True)
class Places(Settings):
    """Places, of work on several configs.

    Args:
        data: digits, cifar10, or a path; the configs' by default.
        data_root: Folder for downloads, unpacked archives and decoded images.
        device: cpu, cuda, ...; a GPU where there is one by default.
        output: Folder of checkpoints.
        reports: Folder of tables and result records.
    """

    data: str | None = None
    data_root: str = "data"
    device: str = "auto"
    output: str = "checkpoints"
    reports: str = "reports"

    @property
    def places(self) -> dict[str, Any]:
        """What they change in a config, whose own data are kept where none are set."""
        own = {name: getattr(self, name) for name in ("data_root", "device", "output", "reports")}
        return own if self.data is None else own | {"data": self.data}


@dataclass(frozen=True)
class Engine(Settings):
    """Who does the work.

    Args:
        engine: local, this process or processes of this machine; ray, a Ray cluster (the one of
            RAY_ADDRESS, else one of this machine); submitit, Slurm.
        workers: Of local, processes, 0 for this one. Of submitit, Slurm jobs at most. Ray takes
            what its cluster has.
        threads: CPU threads of a job; with local, by default, the workers share those of torch.
        gpus: GPUs of a job on Ray where it runs on one; below 1, jobs share a GPU.
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
