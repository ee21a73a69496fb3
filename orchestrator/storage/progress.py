"""Checkpoints in the middle of a round: `train/<key>/<epochs done>-<steps done>.safetensors`.

They belong to the round and not to who trains it, so whoever takes it over goes on from there. Gone when it commits.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from orchestrator.errors import DamagedError, StorageError
from orchestrator.storage.checkpoint import pack_progress, unpack_progress
from orchestrator.storage.store import MissingError, Store
from orchestrator.work import Progress

logger = logging.getLogger(__name__)


def write_progress(store: Store, progress: Progress) -> None:
    """Keep `progress` instead of what was kept of this round before.

    Raises StorageError, also for a disk where it would take the space that the round's commit needs.
    """
    file = f"{_folder(progress.key)}/{progress.epochs_done:06d}-{progress.steps_done:08d}.safetensors"
    data = pack_progress(progress)
    _check_space(store, len(data))
    store.write(file, data)
    for other in store.list(_folder(progress.key)):
        if other < file:
            store.delete(other)


def newest_progress(
    store: Store, key: str, check: Callable[[Progress], None] = lambda _: None, max_bytes: int | None = None
) -> Progress | None:
    """The furthest checkpoint of round `key` that is whole and of which `check` raises no DamagedError, or None.

    `max_bytes`: bytes that one may have.
    """
    passed: set[str] = set()  # damaged, or gone
    while files := [file for file in store.list(_folder(key)) if file not in passed]:
        file = files[-1]
        passed.add(file)
        try:
            progress = unpack_progress(store.read(file, max_bytes), file)
            if progress.key != key:
                raise DamagedError(f"it is of another round, {progress.key!r:.100}")
            check(progress)
            return progress
        except DamagedError as error:
            logger.warning("%s: %s; the round goes on from an earlier checkpoint, or its beginning", file, error)
        except MissingError:
            continue  # replaced by a newer one, or its round was committed, a moment ago
    return None


def places(store: Store) -> dict[str, tuple[int, int]]:
    """{key of a round: (epochs, steps of the next one) that its furthest checkpoint holds}; reads names only."""
    found = {}
    for path in store.list("train"):  # sorted
        if match := re.fullmatch(r"train/([^/]+)/(\d{6})-(\d{8})\.safetensors", path):
            found[match[1]] = int(match[2]), int(match[3])
    return found


def discard_progress(store: Store, key: str) -> None:
    """Forget the checkpoints of round `key`."""
    store.delete_tree(_folder(key))


class ProgressWriter:
    """Writes checkpoints while training goes on, one at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last one is still on its way: the storage is slow, or cut off."""
        return self._writing is not None and not self._writing.done()

    def start(self, progress: Progress) -> None:
        """Write `progress` in the background, after what is on its way."""
        self._writing = self._pool.submit(self._write, progress)

    def wait(self) -> None:
        """Return when nothing is on its way any more."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, progress: Progress) -> None:
        try:
            write_progress(self._store, progress)
        except StorageError as error:
            logger.warning("a checkpoint in the middle of a round could not be written, training goes on: %s", error)


def _check_space(store: Store, size: int) -> None:
    """Raise StorageError unless a folder has space for `size` bytes and for a commit, which has at most as many."""
    if store.is_local and os.path.isdir(store.uri) and (free := shutil.disk_usage(store.uri).free) < 2 * size:
        raise StorageError(
            f"the disk of {store.uri} has {free:,} bytes left, and a checkpoint of {size:,} would take the space that "
            "the end of the round needs: free some space"
        )


def _folder(key: str) -> str:
    return f"train/{key}"
