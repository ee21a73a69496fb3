"""Measure a file in a fresh process, so that no other network's memory or warm caches count for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.decode import decode, parse
from orchestrator.errors import ExportError, OrchestratorError
from orchestrator.export.runtimes import Array, Run, runtime_of
from orchestrator.processor import processor

if TYPE_CHECKING:
    from orchestrator.data.dataset import Data

THREADS, WARM_UP, RUNS = 1, 10, 100
SECONDS = 20.0  # no more runs once they have taken this long


@dataclass(frozen=True)
class DataSource:
    """Where the images come from, as an Experiment names it; `root` is where they lie, if they lie in files."""

    data: str
    options: Mapping[str, Any]
    root: str | None

    def load(self) -> Data:
        from orchestrator.data.load import load_data

        return load_data(self.data, self.options, root=self.root)


@dataclass(frozen=True)
class Speed:
    """What one process measured at batch 1. Seconds and bytes.

    `load_seconds`: from the file to something that runs. `latency_p50`, `latency_p90`: of `runs` images after
    `warm_up` others. `base_bytes`: the process with the runtime imported; `resident_bytes`: by how much it grew when
    the network was loaded and had run; `peak_bytes`: the most it ever had. Memory is None where /proc does not say.
    """

    runtime: str
    processor: str
    threads: int
    warm_up: int
    runs: int
    load_seconds: float
    latency_p50: float
    latency_p90: float
    base_bytes: int | None
    resident_bytes: int | None
    peak_bytes: int | None
    sparse_kernels: bool


def measure(
    path: Path,
    input_shape: tuple[int, int, int],
    source: DataSource | None = None,
    *,
    model: str | None = None,
    threads: int = THREADS,
) -> tuple[Speed, Array | None]:
    """(speed and memory, logits of the test set or None) of the file at `path`, by a process of its own.

    `model` is what builds the network of a packed file (see `load_packed`).

    Raises ExportError with what the process said if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "path": str(path.resolve()),
            "input_shape": input_shape,
            "source": source and asdict(source),
            "model": model,
            "threads": threads,
            "folder": folder,
        }
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(task)], env=environment, capture_output=True, text=True
        )
        if process.returncode:
            said = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            raise ExportError(f"{path.name} does not run: {said[-1][:300]}")
        speed = decode(Speed, parse(Path(folder, "speed.json").read_bytes()))
        return speed, np.load(Path(folder, "logits.npy"), allow_pickle=False) if source else None


def logits_of(run: Run, data: Data) -> Array:
    """Logits (n, classes) of the test images, in order."""
    import torch

    from orchestrator.data.batches import Batches

    batches = Batches(data, batch_size=1, device=torch.device("cpu"))
    return np.concatenate([run(images.numpy()) for images, _ in batches.evaluate("test")])


def labels_of(data: Data) -> Array:
    """Labels (n,) of the test images, in order."""
    import torch

    from orchestrator.data.batches import Batches
    from orchestrator.data.sample_checks import known_labels

    labels = known_labels(data.test)
    if labels is None:  # only the samples themselves know
        batches = Batches(data, batch_size=1, device=torch.device("cpu"))
        labels = torch.cat([labels for _, labels in batches.evaluate("test")])
    found: Array = labels.numpy()
    return found


def _memory(field: str) -> int | None:
    """VmRSS or VmHWM of this process. (getrusage's peak would begin with that of the parent, which is larger.)"""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None


def measure_here(
    path: Path,
    input_shape: tuple[int, int, int],
    source: DataSource | None = None,
    *,
    model: str | None = None,
    threads: int = THREADS,
) -> tuple[Speed, Array | None]:
    """Measure as `measure` does, in this process: what it has imported and loaded before counts for the memory."""
    speed, run = _speed(path, input_shape, model, threads)
    return speed, logits_of(run, source.load()) if source else None  # last, as it imports torch and loads the data


def _speed(path: Path, input_shape: tuple[int, int, int], model: str | None, threads: int) -> tuple[Speed, Run]:
    runtime = runtime_of(path, model)
    base = _memory("VmRSS")
    begin = time.perf_counter()
    run = runtime.load(path, threads)
    load_seconds = time.perf_counter() - begin
    image = np.random.default_rng(0).standard_normal((1, *input_shape), dtype=np.float32)
    for _ in range(WARM_UP):
        run(image)
    loaded = _memory("VmRSS")
    taken: list[float] = []
    while len(taken) < RUNS and sum(taken) < SECONDS:
        begin = time.perf_counter()
        run(image)
        taken.append(time.perf_counter() - begin)
    p50, p90 = np.quantile(taken, (0.5, 0.9))
    speed = Speed(
        runtime=runtime.name,
        processor=processor(),
        threads=threads,
        warm_up=WARM_UP,
        runs=len(taken),
        load_seconds=load_seconds,
        latency_p50=float(p50),
        latency_p90=float(p90),
        base_bytes=base,
        resident_bytes=None if base is None or loaded is None else max(0, loaded - base),
        peak_bytes=_memory("VmHWM"),
        sparse_kernels=runtime.sparse_kernels,
    )
    return speed, run


def _main(task: dict[str, Any]) -> int:
    try:
        path, shape, source = Path(task["path"]), tuple(task["input_shape"]), task["source"]
        source = DataSource(**source) if source else None
        speed, logits = measure_here(path, shape, source, model=task["model"], threads=task["threads"])
        if logits is not None:
            np.save(Path(task["folder"], "logits.npy"), logits)
        Path(task["folder"], "speed.json").write_text(json.dumps(asdict(speed)))
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
