"""Put networks through targets: bytes, time, and what each file achieves, all networks of a target side by side."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from orchestrator.export.arrays import is_finite
from orchestrator.export.kernel_choice import TOLERANCE
from orchestrator.export.meter import metrics_of
from orchestrator.export.originals import Original
from orchestrator.export.runtimes import Run
from orchestrator.export.targets.target import KEPT, Target, TargetFile, sentence
from orchestrator.files import atomic_write
from orchestrator.processor import processor
from orchestrator.user_code import one_line

ROUNDS = 15
TARGETS_FILE = "targets.json"
CANNOT = "cannot take this network"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one file of a network is on a target, or why it could not be had.

    `seconds`: the shortest of a call with one sample; only their ratios within one target are comparable. `error`: how
    far its outputs are from the network's (see `Agreement`). `value`: the objective on the test set through the file.
    `measured_by`: what measured or estimated it. `cycles`: of one sample, where a compiler estimates instead of a run.
    `where`: on which chip or how many threads; costs are comparable within it. `reason`: why it could not be had, a
    sentence. `short` says it in five words, or the `detail` of one that was had.
    """

    target: str
    network: str
    file: str = ""
    bytes: int | None = None
    seconds: float | None = None
    error: float | None = None
    value: float | None = None
    measured_by: str = ""
    detail: str = ""
    cycles: float | None = None
    where: str = ""
    reason: str | None = None
    short: str = ""


def compare_on(
    targets: Sequence[Target],
    originals: Sequence[Original],
    on_cell: Callable[[Cell], None] = lambda cell: None,
    keep: Path | None = None,
) -> list[Cell]:
    """Return the cells of every target that is here, and a reason for each that is not or cannot take a network.

    `keep`: a folder for what targets make for users, such as the page that runs networks in a browser.
    """
    cells: list[Cell] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for target in targets:
                for cell in _cells(target, originals, Path(folder)):
                    cells.append(cell)
                    on_cell(cell)
            if keep is not None and (made := Path(folder, KEPT)).exists():
                shutil.copytree(made, keep, dirs_exist_ok=True)
    finally:
        torch.set_num_threads(before)
    return cells


def save_cells(folder: Path, cells: Sequence[Cell]) -> Path:
    """Write the cells as JSON into `folder` and return the path."""
    path = folder / TARGETS_FILE
    content: dict[str, Any] = {"format": 1, "processor": processor(), "cells": [asdict(cell) for cell in cells]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False))
    return path


def _cells(target: Target, originals: Sequence[Original], folder: Path) -> Iterator[Cell]:
    if reason := target.missing():
        yield Cell(target=target.name, network="", reason=reason, short="not installed here")
        return
    files: list[tuple[Original, str, TargetFile]] = []
    for original in originals:
        try:
            files += [(original, name, file) for name, file in target.files(original, folder).items()]
        except Exception as error:  # converters raise all kinds, and the rest of the table is still made
            named, why = original.candidate.name, sentence(error)
            yield Cell(target=target.name, network=named, reason=why, short=CANNOT)
    known: dict[Run, tuple[float, float | None]] = {}
    for (original, name, file), seconds in zip(files, _times(files), strict=True):
        yield _cell(target, original, name, file, seconds, known)


def _times(files: Sequence[tuple[Original, str, TargetFile]]) -> list[float | Exception | None]:
    """Return the shortest seconds of each file, by turns; None for one that is not run, or is estimated.

    For a file that raises while it is timed, that exception takes the place of the seconds. A turn begins with a call
    that is not timed, which puts the weights into the caches. Files that do the same work share the shortest: what
    differs between them is noise.
    """
    taken: list[list[float] | Exception | None] = [
        [] if file.run and file.cycles is None else None for _, _, file in files
    ]
    for _ in range(ROUNDS):
        for place, (original, _, file) in enumerate(files):
            if isinstance(mine := taken[place], list):
                try:
                    file.time(original.sample)
                    mine.append(file.time(original.sample))
                except Exception as error:  # a runtime may fail in any way
                    taken[place] = error
    works = [file.work or place for place, (_, _, file) in enumerate(files)]
    shortest: dict[Hashable, float] = {}
    for work, seconds in zip(works, taken, strict=True):
        if isinstance(seconds, list):
            shortest[work] = min(shortest.get(work, math.inf), *seconds)
    return [
        shortest[work] if isinstance(seconds, list) else seconds for work, seconds in zip(works, taken, strict=True)
    ]


def _cell(
    target: Target,
    original: Original,
    name: str,
    file: TargetFile,
    seconds: float | Exception | None,
    known: dict[Run, tuple[float, float | None]],
) -> Cell:
    """Return one cell. `known` has the error and the objective of what was run before: files may share it."""
    network, by = original.candidate.name, ", ".join(filter(None, (target.measured_by(), file.where)))
    cell = partial(Cell, target=target.name, network=network, file=name, bytes=file.bytes, where=file.where)
    if file.reason:
        return cell(reason=file.reason, short=CANNOT)
    done = partial(cell, measured_by=by, detail=file.detail, short=file.short, cycles=file.cycles)
    if file.run is None:
        return done(value=original.test(original.metrics) if file.exact else None)
    try:
        if file.run not in known:
            known[file.run] = _error_of(original, file.run), original.test(_metrics(original, file.run))
        error, value = known[file.run]
    except Exception as cause:  # a runtime may fail in any way, and the rest of the table is still made
        return cell(reason=f"does not run: {one_line(cause)[:200]}", short="does not run here")
    if not math.isfinite(error) or (original.test_set and value is None):
        return cell(reason="wrong outputs: it answers NaN or infinity, where torch does not", short="wrong outputs")
    if file.exact and not error <= TOLERANCE:
        wrong = f"wrong outputs: they differ from torch's by {error:.1g} of the largest"
        return cell(error=error, reason=wrong, short="wrong outputs")
    if isinstance(seconds, Exception):
        why = f"it runs, but timing it failed: {one_line(seconds)[:200]}"
        return cell(error=error, value=value, reason=why, short="timing it failed")
    return done(seconds=seconds, error=error, value=value)


def _error_of(original: Original, run: Run) -> float:
    return original.observed.error_of(lambda tensors: run([tensor.numpy() for tensor in tensors]))


def _metrics(original: Original, run: Run) -> dict[str, float]:
    if original.test_set is None:
        return {}
    test = original.test_set
    return metrics_of(run, original.observed.call, test.data, test.task, lambda number, outputs: is_finite(outputs))
