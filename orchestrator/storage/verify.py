"""Verify every file of a storage: what is damaged, missing or unreadable, what a kill left, and what is not ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.decode import Count, decode
from orchestrator.errors import DamagedError, StorageError
from orchestrator.sealed import unseal
from orchestrator.storage.claims import LINK, LINK_BYTES, holders, is_link
from orchestrator.storage.experiments import FILE, contradiction, read_experiment, without_file
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.score_files import SCORES, read_scores
from orchestrator.storage.store import JSON_BYTES, File, MissingError, Store, unreadable

CHUNK_BYTES = 64 << 20
MAX_STATE_BYTES = 64 << 30  # of a state whose record does not say how large it may be
KEY = "[A-Za-z0-9_-]{1,100}"
BLOB = re.compile(rf"rounds/({KEY})/(model|optimizer)-([0-9a-f]{{16}})\.safetensors")
RUN = re.compile(r"train/(.+)-[0-9a-f]{32}/.+")  # of Ray Train: <experiment>.<seed>-<unique>
LEFTOVER = re.compile(rf"probe-[0-9a-f]{{32}}/file|{RUN.pattern}")  # or of a job that runs


@dataclass(frozen=True)
class Finding:
    """Describe one file. `problem`: a sentence that names it and the way out; None if the file is whole.

    `kind` of a file that is not checked: a leftover of a kill or of a job under way, or a file of another program.
    """

    path: str
    problem: str | None = None
    kind: Literal["checked", "leftover", "foreign"] = "checked"


def verify(ledger: Ledger) -> Iterator[Finding]:
    """Read every file of the storage, and compare it with its checksum and with the files that name it.

    Continues after a file that cannot be read. Raises StorageError if the storage itself cannot be listed.
    """
    files, refused = ledger.store.files()
    seen: set[str] = set()
    unread: set[str] = set()  # rounds whose record does not say which blobs are theirs
    for path, problem in ledger.verify():
        seen.add(path)
        if problem and path.endswith("/record.json"):
            unread.add(path.split("/")[1])
        yield Finding(path, problem)
    yield from (Finding(folder.path, unreadable(folder)) for folder in refused if folder.path not in seen)
    yield from _paths(ledger)
    rest = [file for file in files if file.path not in seen and not FILE.fullmatch(file.path)]
    yield from _lost_records(ledger.store, rest)
    yield from (finding for file in rest if (finding := _check(ledger.store, file, unread)) is not None)


def _paths(ledger: Ledger) -> Iterator[Finding]:
    """Compare every experiment's file with the records, and yield those that are missing."""
    records = ledger.records(problems=[])  # their problems were reported already
    listed = ledger.store.files("experiments/")[0]  # after the records: a job writes it first
    files = [file.path for file in listed if FILE.fullmatch(file.path)]
    experiments = []
    for file in files:
        try:
            experiments.append(experiment := read_experiment(ledger.store, file))
            yield Finding(file, contradiction(experiment, records))
        except MissingError:  # deleted meanwhile
            continue
        except StorageError as error:
            yield Finding(file, str(error))
    lost = without_file(experiments, records)
    yield from (Finding(file, problem) for file, problem in lost.items() if file not in files)


def _lost_records(store: Store, files: list[File]) -> Iterator[Finding]:
    """Yield rounds with both blobs and no record, unless an owner was cut off between the two."""
    blobs: dict[str, set[str]] = {}
    for file in files:
        if match := BLOB.fullmatch(file.path):
            blobs.setdefault(match[1], set()).add(match[2])
    candidates = [key for key, kinds in blobs.items() if len(kinds) == 2]
    lost = [key for key in candidates if not store.exists(f"rounds/{key}/record.json")]
    held: Collection[str] = ()
    try:
        held = holders(store) if lost else ()
    except StorageError:  # an unreadable claim is reported where claims are checked
        held = lost
    for path in (f"rounds/{key}/record.json" for key in lost if key not in held):
        yield Finding(
            path,
            f"{path} is missing, though the round's tensors are there: restore it, or run the job again, which trains "
            "the round again",
        )


def _check(store: Store, file: File, unread: Collection[str]) -> Finding | None:
    """Check a file that no record names. Return None if it has been deleted meanwhile."""
    if (blob := BLOB.fullmatch(file.path)) and blob[1] not in unread:
        return Finding(file.path, kind="leftover")
    for pattern, check in _CHECKS.items():
        if match := re.fullmatch(pattern, file.path):
            try:
                check(store, file, match)
                return Finding(file.path)
            except MissingError:
                return None
            except StorageError as error:
                return Finding(file.path, str(error))
    kind: Literal["leftover", "foreign"] = "leftover" if LEFTOVER.fullmatch(file.path) else "foreign"
    return Finding(file.path, kind=kind)


def _check_failure(store: Store, file: File, match: re.Match[str]) -> None:
    Ledger(store).read_failure(match[1])


def _check_scores(store: Store, file: File, match: re.Match[str]) -> None:
    read_scores(store, file.path)


def _check_link(store: Store, file: File, match: re.Match[str]) -> None:
    if not is_link(store.read(file.path, LINK_BYTES)):
        raise DamagedError(f"{file.path} is damaged: delete claims/{match[1]} while no job runs")


@dataclass(frozen=True)
class _Stop:
    path: str
    stopped_after_round: Count


def _check_stop(store: Store, file: File, match: re.Match[str]) -> None:
    try:
        stop = decode(_Stop, unseal(store.read(file.path, JSON_BYTES)))
        if stop.path != match[1]:
            raise ValueError(f"it is of the path {stop.path!r:.100}")
    except ValueError as error:
        raise DamagedError(
            f"{file.path} is damaged ({error!s:.200}): delete it, and the sweep decides again whether the path goes on"
        ) from error


def _check_blob(store: Store, file: File, match: re.Match[str]) -> None:
    if _digest(store, file, 0).hex()[:16] != match[3]:
        raise DamagedError(f"{file.path} is damaged: it does not have the sha256 in its name; restore it")


def _check_state(store: Store, file: File, match: re.Match[str]) -> None:
    """Check a state, which begins with the sha256 of the rest."""
    if file.bytes > MAX_STATE_BYTES or file.bytes < 32:
        raise DamagedError(f"{file.path} is damaged: it has {file.bytes:,} bytes; delete it to have it made again")
    if _digest(store, file, 32) != store.read_part(file.path, 0, 32):
        raise DamagedError(
            f"{file.path} is damaged: it does not have the sha256 that it begins with; delete it to have it made again"
        )


def _digest(store: Store, file: File, start: int) -> bytes:
    """Return the sha256 of `file` from byte `start` on."""
    digest = hashlib.sha256()
    for begin in range(start, file.bytes, CHUNK_BYTES):
        digest.update(store.read_part(file.path, begin, min(CHUNK_BYTES, file.bytes - begin)))
    return digest.digest()


_CHECKS: dict[str, Callable[[Store, File, re.Match[str]], None]] = {
    BLOB.pattern: _check_blob,
    rf"rounds/({KEY})/failed\.json": _check_failure,
    LINK.pattern: _check_link,
    SCORES: _check_scores,
    r"sweeps/[0-9a-f]{64}/(.+)\.json": _check_stop,
    r"train/[^/]+/\d{6}-\d{8}\.safetensors": _check_state,
    r"snapshots/[^/]+/[^/]+\.safetensors": _check_state,
}
