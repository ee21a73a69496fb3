"""Measure a file in a fresh process, so that no other network's memory or warm caches count for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.decode import decode, parse
from orchestrator.errors import ExportError, OrchestratorError
from orchestrator.export.arrays import Array, is_finite, load_arrays, save_arrays
from orchestrator.export.interface import Call
from orchestrator.export.runtimes import NO_CODE, Code, Run, runtime_of
from orchestrator.processor import processor

if TYPE_CHECKING:
    from orchestrator.data.dataset import Data
    from orchestrator.task import Task

THREADS, WARM_UP, RUNS = 1, 10, 100
SECONDS = 20.0  # no more runs once they have taken this long


@dataclass(frozen=True)
class DataSource:
    """Name the data and the task of a network, as the record of a round has them.

    `root`: the folder of the data, if they are in files. `task`: None is Classification().
    """

    data: str
    options: Mapping[str, Any]
    root: str | None
    task: Mapping[str, Any] | None = None

    def load(self) -> Data:
        from orchestrator.data.load import load_data

        return load_data(self.data, self.options, root=self.root)

    def load_task(self) -> Task:
        """Return the task. Imports its class: check first that it may be (see `check_code`)."""
        from orchestrator.export.recorded_task import task_from_json
        from orchestrator.task import Classification

        return Classification() if self.task is None else task_from_json(self.task)


@dataclass(frozen=True)
class Speed:
    """Hold what one process measured at batch 1, in seconds and bytes.

    `load_seconds`: from the file to something that runs. `latency_p50`, `latency_p90`: of `runs` calls with one sample
    after `warm_up` others. `base_bytes`: the process with the runtime imported; `resident_bytes`: by how much it grew
    when the network was loaded and had run; `peak_bytes`: its maximum. Memory is None where /proc does not
    say.
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


@dataclass(frozen=True)
class Measurement:
    """Hold what one process measured of a file: at batch 1, and on the test set if there are data.

    `metrics`: those of the task that are finite, by name. `relative_error`, `equal_predictions`: see `Agreement`.
    Without data, or where `finite` says that the outputs are not finite, the first is empty and the others None.
    """

    speed: Speed
    metrics: Mapping[str, float] = field(default_factory=dict)
    relative_error: float | None = None
    equal_predictions: float | None = None
    finite: bool = True


def measure(
    path: Path,
    call: Call,
    sample: Sequence[Array],
    source: DataSource | None = None,
    *,
    expected: Path | None = None,
    code: Code = NO_CODE,
    threads: int = THREADS,
) -> Measurement:
    """Measure the file at `path` by a process of its own.

    `sample`: the inputs of one sample, in order. `source`: whose test set is run through the file. `expected`: a folder
    with what the network makes of it (see `keep_outputs`). `code` is what builds the network of a packed file.

    Raises ExportError with the last line that the process printed if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_arrays(Path(folder, "sample.npz"), sample)
        asked = {
            "path": str(path.resolve()),
            "call": asdict(call),
            "source": source and asdict(source),
            "expected": expected and str(expected),
            "code": code,
            "threads": threads,
            "folder": folder,
        }
        Path(folder, "asked.json").write_text(json.dumps(asked))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.run(
            [sys.executable, "-m", __name__, folder], env=environment, capture_output=True, text=True
        )
        if process.returncode:
            lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            raise ExportError(f"{path.name} does not run: {lines[-1][:300]}")
        return decode(Measurement, parse(Path(folder, "measured.json").read_bytes()))


def _memory(field: str) -> int | None:
    """Return VmRSS or VmHWM of this process. (getrusage's peak begins with the parent's, which is larger.)"""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None


def measure_here(
    path: Path,
    call: Call,
    sample: Sequence[Array],
    source: DataSource | None = None,
    *,
    expected: Path | None = None,
    code: Code = NO_CODE,
    threads: int = THREADS,
) -> Measurement:
    """Measure as `measure` does, in this process: what it has imported and loaded before counts for the memory."""
    speed, run = _speed(path, call, sample, code, threads)
    measured = Measurement(speed)
    return _on_test_set(measured, run, call, source, expected) if source else measured  # last, as it imports torch


def _on_test_set(measured: Measurement, run: Run, call: Call, source: DataSource, expected: Path | None) -> Measurement:
    from orchestrator.export.agreement import Agreement
    from orchestrator.export.meter import metrics_of

    task = source.load_task()
    agreement, finite = Agreement(getattr(task, "class_dim", None)), True

    def look(number: int, outputs: list[Array]) -> bool:
        nonlocal finite
        finite = is_finite(outputs)
        if finite and expected and (file := expected / f"{number}.npz").exists():
            agreement.add(outputs, load_arrays(file))
        return finite

    metrics = metrics_of(run, call, source.load(), task, look)
    error, equal = (agreement.error, agreement.equal_predictions) if finite and expected else (None, None)
    return replace(measured, metrics=metrics, relative_error=error, equal_predictions=equal, finite=finite)


def _speed(path: Path, call: Call, sample: Sequence[Array], code: Code, threads: int) -> tuple[Speed, Run]:
    runtime = runtime_of(path, call, code)
    base = _memory("VmRSS")
    begin = time.perf_counter()
    run = runtime.load(path, threads)
    load_seconds = time.perf_counter() - begin
    for _ in range(WARM_UP):
        run(sample)
    loaded = _memory("VmRSS")
    taken: list[float] = []
    while len(taken) < RUNS and sum(taken) < SECONDS:
        begin = time.perf_counter()
        run(sample)
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


def _main(folder: Path) -> int:
    try:
        asked = parse(Path(folder, "asked.json").read_bytes())
        source, expected = asked["source"], asked["expected"]
        measured = measure_here(
            Path(asked["path"]),
            decode(Call, asked["call"]),
            load_arrays(folder / "sample.npz"),
            decode(DataSource, source) if source else None,
            expected=Path(expected) if expected else None,
            code=Code(*asked["code"]),
            threads=asked["threads"],
        )
        Path(folder, "measured.json").write_text(json.dumps(asdict(measured), allow_nan=False))
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
