"""Look for planted secrets wherever a cluster leaves what others may read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import job_runs
import psutil

from orchestrator.storage.store import Store

_WATCH = job_runs.REPOSITORY / "tests" / "pickle_watch"


def watching(pickles: Path, environment: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return `environment` with what writes to the folder `pickles` which of `names` any Python process pickles."""
    path = os.pathsep.join((str(_WATCH), environment["PYTHONPATH"]))
    return environment | {"PYTHONPATH": path, "PICKLE_WATCH": str(pickles), "WATCHED": json.dumps(names)}


def pickled(pickles: Path) -> set[str]:
    """Return those of the names that were in a pickle."""
    return {name for file in pickles.iterdir() for name in file.read_text().split()}


def with_environment(value: str) -> list[psutil.Process]:
    """Return the processes of this machine that have `value` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if value in process.environ().values():
                found.append(process)
    return found


def command_lines() -> Iterator[str]:
    """Yield those of all processes of this machine."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield " ".join(process.cmdline())


def object_stores(processes: Sequence[psutil.Process]) -> Iterator[bytes]:
    """Yield what the shared memory of each Ray among `processes` holds."""
    for raylet in job_runs.titled(processes, "raylet"):
        with contextlib.suppress(OSError):  # gone
            for descriptor in Path(f"/proc/{raylet.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if "plasma" in os.readlink(descriptor):
                        yield descriptor.read_bytes()


def files(folder: Path, store: Store) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of all files in `folder`, which holds Ray's logs, and in `store`."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_socket():
            yield str(path), path.read_bytes()
    for name in store.list():
        yield name, store.read(name)
