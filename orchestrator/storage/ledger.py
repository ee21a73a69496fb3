"""Read and commit the ledger: one record for each finished round of a storage location.

A round is finished when `rounds/<key>/record.json` exists. It is written last, with create-if-absent, and names the
sha256 of every blob beside it. Every reader checks the sha256, so damage is an error that names the file. A blob's own
name holds its sha256 too. So a late write of an owner that was cut off overwrites nothing of another owner's commit.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from orchestrator.decode import decode
from orchestrator.errors import DamagedError, StorageError
from orchestrator.record import MODEL, OPTIMIZER, Blob, Record
from orchestrator.sealed import seal, unseal
from orchestrator.storage.checkpoint import (
    Shapes,
    pack_model,
    pack_optimizer,
    pack_snapshot,
    unpack_model,
    unpack_optimizer,
    unpack_snapshot,
)
from orchestrator.storage.store import JSON_BYTES, MissingError, Store, listed, problem_of, read_each, unreadable
from orchestrator.train_state import Tensors, TrainState


class Ledger:
    """Read and commit records in a store. It keeps no state of its own: every answer is read from the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def record(self, key: str) -> Record | None:
        """Return the record of a finished round, or None."""
        file = f"rounds/{key}/record.json"
        try:
            record = Record.from_json(self.store.read(file, JSON_BYTES), file)
        except MissingError:
            return None
        if record.key != key:
            raise DamagedError(f"{file} is the record of another round, {record.key}")
        return replace(record, storage=self.store.uri)

    def records(self, problems: list[str] | None = None) -> list[Record]:
        """Return the record of every finished round, sorted by experiment, seed and round.

        `problems` gets a sentence for each that cannot be read; if it is None, the first one raises StorageError.
        """
        files = listed(self.store, "rounds/", problems)
        keys = [file.split("/")[1] for file in files if file.endswith("/record.json")]
        records = read_each(self.store, self.record, keys, problems)
        return sorted(records, key=lambda r: (r.experiment, r.seed, r.round, r.key))

    def commit(self, record: Record, state: TrainState, masks: Tensors) -> Record:
        """Upload the blobs, then the record, and return it; if the round is committed already, return that record."""
        folder = f"rounds/{record.key}"
        packed = {MODEL: pack_model(state.model, masks), OPTIMIZER: pack_optimizer(state.optimizer, masks)}
        if (done := self.record(record.key)) is not None:
            return done
        blobs = {name: Blob(hashlib.sha256(data).hexdigest(), len(data)) for name, data in packed.items()}
        record = replace(record, blobs=blobs, storage=self.store.uri)
        for name, data in packed.items():
            self.store.write(record.file(name), data)
        if not self.store.create(f"{folder}/record.json", record.to_json()):
            if (committed := self.record(record.key)) is None:
                raise DamagedError(f"{folder}/record.json can neither be created nor read: look at what lies there")
            for file in {record.file(name) for name in packed} - {committed.file(name) for name in packed}:
                self.store.delete(file)  # no record names it
            return committed
        self.store.delete(f"{folder}/failed.json")
        return record

    def load(self, record: Record, shapes: Shapes | None = None) -> tuple[TrainState, Tensors]:
        """Return (state, masks) of a finished round. `shapes`: those of its prunable weights.

        Raises DamagedError naming a blob that is missing, or not as recorded, or of other shapes.
        """
        model, masks = unpack_model(self._blob(record, MODEL), record.file(MODEL), shapes)
        optimizer = unpack_optimizer(self._blob(record, OPTIMIZER), masks, record.file(OPTIMIZER))
        return TrainState(model, optimizer), masks

    def write_snapshot(self, key: str, name: str, state: TrainState) -> None:
        """Keep a state beside round `key` that is not its result: `name` is an epoch, or "gradients"."""
        self.store.write(_snapshot(key, name), pack_snapshot(state))

    def has_snapshot(self, key: str, name: str) -> bool:
        """Return whether the snapshot exists, even if it is damaged."""
        return self.store.exists(_snapshot(key, name))

    def snapshot(self, key: str, name: str, max_bytes: int | None = None) -> TrainState:
        """Return what `write_snapshot` kept. `max_bytes`: its maximum size; None: what the round's record allows.

        Raises DamagedError that names the file, MissingError.
        """
        file = _snapshot(key, name)
        max_bytes = max_bytes or self._max_bytes(key)
        if max_bytes is None:
            raise DamagedError(f"{file} is of a round that is not finished: start the job again")
        return unpack_snapshot(self.store.read(file, max_bytes), file)

    def verify(self) -> Iterator[tuple[str, str | None]]:
        """Yield (file, None or what is wrong with it) for every record, every blob that a record names, every snapshot.

        Only finished rounds count: files of the others are still being written.
        """
        rounds, refused = self.store.files("rounds/")
        files = {file.path: None for file in rounds if file.path.endswith("/record.json")}
        for file in files:
            try:
                record = Record.from_json(self.store.read(file, JSON_BYTES), file)
            except StorageError as error:
                yield file, str(error)
                continue
            problem = None
            if file != f"rounds/{record.key}/record.json":
                problem = f"{file} is the record of another round"
            elif record.parent and f"rounds/{record.parent}/record.json" not in files:
                problem = f"{file} goes on from rounds/{record.parent}, which is missing: its job trains it again"
            yield file, problem
            for name in record.blobs:
                yield record.file(name), problem_of(self._blob, record, name)
        snapshots, more_refused = self.store.files("snapshots/")
        for snapshot in snapshots:
            with contextlib.suppress(StorageError):  # its record cannot be read, which was reported above
                if (max_bytes := self._max_bytes(snapshot.path.split("/")[1])) is not None:
                    yield snapshot.path, problem_of(self._check_snapshot, snapshot.path, max_bytes)
        yield from ((folder.path, unreadable(folder)) for folder in [*refused, *more_refused])

    def write_failure(self, key: str, failure: dict[str, Any]) -> None:
        """Write why a round failed. The note is deleted when the round commits."""
        self.store.write(f"rounds/{key}/failed.json", seal(failure))

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return what `write_failure` wrote for a round that did not commit since; None also for a damaged note."""
        with contextlib.suppress(DamagedError):
            return self.read_failure(key)
        return None

    def failures(self, problems: list[str] | None = None) -> list[dict[str, Any]]:
        """Return what `write_failure` wrote for rounds that did not commit since. `problems`: as in `records`."""
        files = set(listed(self.store, "rounds/", problems))
        failed = sorted(f for f in files if f.endswith("/failed.json") and f.replace("failed", "record") not in files)
        return read_each(self.store, self.read_failure, [file.split("/")[1] for file in failed], problems)

    def read_failure(self, key: str) -> dict[str, Any] | None:
        """Return the same as `failure`. Raise DamagedError for a damaged note."""
        file = f"rounds/{key}/failed.json"
        try:
            failure = decode(dict[str, str | float | None], unseal(self.store.read(file, JSON_BYTES)))
        except MissingError:
            return None
        except ValueError as error:
            raise DamagedError(f"{file} is damaged ({error!s:.200}): delete it, and start the job again") from error
        return None if self.store.exists(f"rounds/{key}/record.json") else failure

    def write_experiment(self, name: str, seed: int, content: dict[str, Any]) -> None:
        """Write the path of an experiment, for people and reports (see `orchestrator.report.path_records`)."""
        self.store.write(f"experiments/{name}.{seed}.json", seal(content))

    def _blob(self, record: Record, name: str) -> bytes:
        file, expected = record.file(name), record.blobs[name]
        try:
            data = self.store.read(file, expected.bytes)
        except MissingError:
            raise DamagedError(
                f"{file} is missing, though its record names it; restore it, or delete rounds/{record.key} to have the "
                "round trained again"
            ) from None
        if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
            raise DamagedError(
                f"{file} is damaged: {len(data)} bytes that do not have the sha256 of its record "
                f"({expected.bytes} bytes); restore it, or delete rounds/{record.key} to have the round trained again"
            )
        return data

    def _check_snapshot(self, file: str, max_bytes: int) -> None:
        try:
            unpack_snapshot(self.store.read(file, max_bytes), file)
        except DamagedError as error:
            raise DamagedError(f"{error}; delete it to have it made again") from error

    def _max_bytes(self, key: str) -> int | None:
        """Return the maximum size of a snapshot: result and gradients together. None if the round is not finished."""
        with contextlib.suppress(DamagedError):  # reported where the record itself is read
            if (record := self.record(key)) is not None:
                return sum(blob.bytes for blob in record.blobs.values()) + 8 * record.prunable + JSON_BYTES
        return None


def _snapshot(key: str, name: str) -> str:
    return f"snapshots/{key}/{name}.safetensors"
