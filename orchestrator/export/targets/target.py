"""Targets: where a network may run or travel, and what its file costs there, measured or estimated."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.export.arrays import Array
from orchestrator.export.onnx_file import save_onnx
from orchestrator.export.originals import Original
from orchestrator.export.runtimes import Run
from orchestrator.user_code import one_line

KEPT = "kept"  # the folder among a target's files whose content goes to the user


@dataclass(frozen=True)
class TargetFile:
    """A file that a target made of a network.

    `bytes`: None if the target has no file of its own. `run`: what runs it; None: it does not run here. `cycles`: of
    one sample, where an estimate takes the place of a run. `exact`: whether it must say what the network says;
    otherwise its weights are rounded. `detail`: what is worth knowing of it; `short` says it in five words. `seconds`:
    what times a run itself, with one sample, where `run` also carries the inputs to another program. `where`: on which
    chip or how many threads it runs; only costs of the same one are comparable. `reason`: why it could not be made;
    None: it was. `work`: files of an equal one do the same work, so the shortest time of them all is that of each.
    """

    bytes: int | None
    run: Run | None
    exact: bool = True
    detail: str = ""
    cycles: float | None = None
    seconds: Callable[[Sequence[Array]], float] | None = None
    where: str = ""
    reason: str | None = None
    short: str = ""
    work: Hashable = None

    def time(self, sample: Sequence[Array]) -> float:
        """Return the seconds of a run with one sample."""
        if self.seconds is not None:
            return self.seconds(sample)
        assert self.run is not None
        begin = time.perf_counter()
        self.run(sample)
        return time.perf_counter() - begin


class Target(Protocol):
    """One place where a network may run or travel."""

    @property
    def name(self) -> str: ...

    def missing(self) -> str | None:
        """Return the sentence that says how to get what is not installed here; None if all is here."""

    def measured_by(self) -> str:
        """Return what measures or estimates, such as "measured here, onnxruntime 1.32.0, 1 thread"."""

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        """Write the files of a network into `folder` and load them, by a short name of each.

        Raises ExportError for a network that the target cannot take at all.
        """


def sentence(error: Exception) -> str:
    """Return why a network could not be taken, for its cell."""
    return str(error) if isinstance(error, OrchestratorError) else f"cannot take the network: {one_line(error)[:200]}"


def onnx_of(original: Original, folder: Path) -> Path:
    """Return the float32 ONNX file of a network, which several targets read; it is written once into `folder`."""
    path = folder / f"{original.candidate.name}.onnx"
    return path if path.exists() else save_onnx(original.candidate.module, path, original.candidate.example)
