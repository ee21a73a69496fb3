"""Describe where and on which resources an experiment runs: plain values, without Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.errors import ConfigError
from orchestrator.validate import finite, whole


@dataclass(frozen=True)
class Workers:
    """`minimum` to `maximum` training workers (the same number unless elastic), each with its CPUs and GPUs."""

    minimum: int
    maximum: int
    cpus: float
    gpus: float

    @staticmethod
    def parse(count: str, cpus: float, gpus: float) -> Workers:
        """Parse `count`, "4", or "2:8" for an elastic group. Raises ConfigError."""
        parts = count.split(":")
        if not (1 <= len(parts) <= 2 and all(part.isdecimal() for part in parts)):
            raise ConfigError(f"--workers must be a number such as 4, or a range such as 2:8, got {count!r}")
        minimum, maximum = int(parts[0]), int(parts[-1])
        if not 1 <= minimum <= maximum:
            raise ConfigError(f"--workers must be at least 1 and the range must rise, got {count!r}")
        finite("--cpus-per-worker", cpus, above=0)
        finite("--gpus-per-worker", gpus, minimum=0)
        if round(cpus, 4) != cpus:
            raise ConfigError(f"--cpus-per-worker must be a multiple of 0.0001, as Ray counts, got {cpus}")
        if gpus != int(gpus):
            raise ConfigError(f"--gpus-per-worker must be a whole number, because NCCL needs whole GPUs, got {gpus}")
        return Workers(minimum, maximum, cpus, gpus)

    @property
    def label(self) -> str:
        """Return the number of workers as the flag --workers takes it."""
        return f"{self.minimum}" if self.minimum == self.maximum else f"{self.minimum}:{self.maximum}"

    @property
    def resources(self) -> dict[str, float]:
        """Return the resources of one worker as Ray names them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


@dataclass(frozen=True)
class Deployment:
    """Where and on which resources an experiment runs; it affects results only by the order of floating-point sums.

    `data_root`: folder or uri of the data. `loader_workers`: decoding processes of each worker, None for one per CPU.
    `checkpoint_seconds`: minimum time between checkpoints in a round. `gpus_if_there`: use a GPU per worker if the
    cluster has them. `home`: Ray's id of the job's node, the only one that sees a local storage folder.
    `grows`: whether nodes may join.
    """

    workers: Workers = field(default_factory=lambda: Workers(1, 1, 1.0, 0.0))
    data_root: str | None = None
    loader_workers: int | None = None
    checkpoint_seconds: float = 30.0
    gpus_if_there: bool = False
    home: str | None = None
    grows: bool = True

    def __post_init__(self) -> None:
        finite("--checkpoint-seconds", self.checkpoint_seconds, minimum=0)
        if self.loader_workers is not None:
            whole("--loader-workers", self.loader_workers, minimum=0)

    def check_layers(self, gpu_only: tuple[str, ...]) -> None:
        """Raise ConfigError if there are layers that need a GPU, `gpu_only`, and the workers have none."""
        if gpu_only and not self.workers.gpus:
            raise ConfigError(
                f"SyncBatchNorm can be trained on GPUs only, and the workers have none; the model has it in "
                f"{', '.join(gpu_only[:5])}: use BatchNorm, or give the workers GPUs with --gpus-per-worker 1"
            )

    def check_batch(self, batch_size: int) -> None:
        """Raise ConfigError unless every worker gets a part of each batch."""
        if self.workers.maximum > batch_size:
            raise ConfigError(f"--workers must not exceed the batch of {batch_size}, got {self.workers.maximum}")
