"""Keep checkpoints in the middle of a round: `train/<key>/<epochs done>-<steps done>.safetensors`.

They belong to the round, not to its trainer, so a trainer that takes the round over resumes from them. They are
deleted when the round commits.
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
from orchestrator.work.train import Progress

logger = logging.getLogger(__name__)


def write_progress(store: Store, progress: Progress) -> None:
    """Write the checkpoint `progress`, and delete the earlier ones of its round.

    Raises StorageError, also if the disk would then lack the space that the round's commit needs.
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
    """Return the furthest undamaged checkpoint of round `key`, or None. Raises StorageError.

    `check` raises DamagedError for one that cannot be used. `max_bytes`: the maximum size of one, None for any.
    """
    skipped: set[str] = set()  # damaged, or deleted
    while files := [file for file in store.list(_folder(key)) if file not in skipped]:
        file = files[-1]
        skipped.add(file)
        try:
            progress = unpack_progress(store.read(file, max_bytes), file)
            if progress.key != key:
                raise DamagedError(f"it belongs to another round, {progress.key!r:.100}")
            check(progress)
            return progress
        except DamagedError as error:
            logger.warning("%s: %s; the round resumes from an earlier checkpoint, or its beginning", file, error)
        except MissingError:
            continue  # deleted a moment ago, because a newer one was written or the round was committed
    return None


def places(store: Store) -> dict[str, tuple[int, int]]:
    """Return {key of a round: (epochs done, steps done in the next one)} of the furthest checkpoints, by file name."""
    found = {}
    for path in store.list("train"):  # sorted
        if match := re.fullmatch(r"train/([^/]+)/(\d{6})-(\d{8})\.safetensors", path):
            found[match[1]] = int(match[2]), int(match[3])
    return found


def discard_progress(store: Store, key: str) -> None:
    """Delete the checkpoints of round `key`. Raises StorageError."""
    store.delete_tree(_folder(key))


class ProgressWriter:
    """Write checkpoints in the background, one at a time, while training continues."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Return whether the last write has not ended, because the storage is slow or cannot be reached."""
        return self._writing is not None and not self._writing.done()

    def start(self, progress: Progress) -> None:
        """Write `progress` in the background, after the write that is running."""
        self._writing = self._pool.submit(self._write, progress)

    def wait(self) -> None:
        """Wait until the last write has ended."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, progress: Progress) -> None:
        try:
            write_progress(self._store, progress)
        except StorageError as error:
            logger.warning("cannot write a checkpoint in the middle of a round, training continues: %s", error)


def _check_space(store: Store, size: int) -> None:
    """Raise StorageError unless a local folder has space for `size` bytes and for a commit of at most that size."""
    if store.is_local and os.path.isdir(store.uri) and (free := shutil.disk_usage(store.uri).free) < 2 * size:
        raise StorageError(
            f"the disk of {store.uri} has {free:,} bytes left, and a checkpoint of {size:,} would take the space that "
            "the end of the round needs: free some space"
        )


def _folder(key: str) -> str:
    return f"train/{key}"
