"""Find and remove the files that killed jobs left in a storage, but nothing that a living job needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from orchestrator.errors import DamagedError, StorageError
from orchestrator.record import Record
from orchestrator.storage.claims import LINK, living
from orchestrator.storage.experiments import StoredExperiment, read_experiments, without_file
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.store import TEMPORARY, File, Store, clock, side_by_side, unreadable
from orchestrator.storage.verify import BLOB, KEY, RUN
from orchestrator.work.keys import answer_file, parts_folder, split_key

# A file must be this old to be removed: longer than a living job is ever silent, and than one write takes.
PATIENCE_SECONDS = 600.0
UNENDED = "writes that never ended"
PROBE = re.compile(r"probe-[0-9a-f]{32}/file")
CHECKPOINT = re.compile(rf"train/({KEY})/\d{{6}}-\d{{8}}\.safetensors")
SNAPSHOT = re.compile(rf"snapshots/({KEY})/([a-z0-9]+)\.safetensors")
NOTE = re.compile(rf"rounds/({KEY})/failed\.json")
UNFINISHED = re.compile(rf"(?:rounds|snapshots|scores|train)/({KEY})/.+|(?:.+/)?{re.escape(TEMPORARY)}[0-9a-f]{{32}}")


@dataclass(frozen=True)
class Leftover:
    """Name a file that may be removed. `what`: its kind, in the plural."""

    what: str
    file: File


@dataclass(frozen=True)
class Leftovers:
    """List the files that may be removed.

    `found`: in the order in which to remove them. `fresh`: how many more were written too recently. `warning`: why
    writes that never ended could not be listed, or None.
    """

    found: tuple[Leftover, ...]
    fresh: int
    warning: str | None


def leftovers(ledger: Ledger, *, snapshots: bool = False, now: float | None = None) -> Leftovers:
    """Return the files that no job will read again.

    With `snapshots`, also the snapshots, checkpoints and half-written rounds that no unfinished experiment needs.
    `now` is the time by the storage's clock; if None, a small file is written to read it. Raises StorageError if that
    fails, or if a folder or a claim cannot be read, which may be a living job's; with `snapshots` also
    DamagedError unless every record and every experiment can be read.
    """
    store = ledger.store
    now = clock(store) if now is None else now
    files, refused = store.files()
    if refused:
        raise StorageError(unreadable(refused[0]))
    warning, unfinished = None, []
    try:
        unfinished = [file for file in store.unfinished() if UNFINISHED.fullmatch(file.path)]
    except StorageError as error:
        warning = str(error)
    alive = living(store, files, now, PATIENCE_SECONDS)
    contents = _Contents(frozenset(file.path for file in files), alive)
    # Read after the files, so that a round committed in between has a record that names its tensors.
    records = {record.key: record for record in ledger.records(None if snapshots else [])}
    found = [
        *(Leftover(UNENDED, file) for file in unfinished if not contents.is_live(file.path)),
        *_without_use(files, contents, records),
        *(_unneeded(store, files, contents, records) if snapshots else ()),
    ]
    old = [leftover for leftover in found if now - leftover.file.modified > PATIENCE_SECONDS]
    return Leftovers(tuple(old), len(found) - len(old), warning)


def remove(store: Store, found: Sequence[Leftover]) -> None:
    """Remove the files, those of one folder in their order. Raises StorageError."""
    folders: dict[str, list[Leftover]] = {}
    for leftover in found:
        folders.setdefault("/".join(leftover.file.path.split("/")[:-1][:2]), []).append(leftover)

    def empty(folder: str) -> None:
        for leftover in folders[folder]:
            if leftover.what == UNENDED:
                store.discard(leftover.file)
            else:
                store.delete(leftover.file.path)
        if folder.startswith(("probe-", "train/", "claims/")) and not store.list(folder):
            store.delete_tree(folder)  # the empty folder itself, or S3's marker of one

    side_by_side(store, empty, folders)


def totals(found: Sequence[Leftover]) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, files, bytes) for each kind."""
    for what, group in groupby(sorted(found, key=lambda each: each.what), key=lambda each: each.what):
        sizes = [leftover.file.bytes for leftover in group]
        yield what, len(sizes), sum(sizes)


@dataclass(frozen=True)
class _Contents:
    """Hold the names of all files, and {key of a work: owner} of the claims whose owner may be alive."""

    paths: frozenset[str]
    alive: dict[str, str]

    @cached_property
    def folders(self) -> frozenset[str]:
        """Return the folders that hold a file."""
        return frozenset(path.rpartition("/")[0] for path in self.paths)

    @cached_property
    def claimed(self) -> frozenset[str]:
        """Return the keys of the rounds for which living owners have claimed any work."""
        return frozenset(split_key(key)[0] for key in self.alive)

    def is_live(self, path: str) -> bool:
        """Return whether a living owner has claimed any work for the round that `path` belongs to."""
        return "/" in path and split_key(path.split("/")[1])[0] in self.claimed

    def runs(self, experiment: str) -> bool:
        """Return whether a living owner trains `experiment`, "<name>.<seed>"."""
        return any(owner == "unknown" or owner.startswith(f"{experiment} on ") for owner in self.alive.values())

    def is_done(self, key: str) -> bool:
        """Return whether the answer to the work with this key, or any of the parts that it claims, is in storage."""
        return answer_file(key) in self.paths or parts_folder(key) in self.folders


def _without_use(files: Sequence[File], contents: _Contents, records: Mapping[str, Record]) -> Iterator[Leftover]:
    """Yield the files that no job will read again."""
    links: dict[str, list[File]] = {}
    for file in files:
        path = file.path
        if PROBE.fullmatch(path):
            yield Leftover("files of storage checks", file)
        elif (run := RUN.fullmatch(path)) and not contents.runs(run[1]):
            yield Leftover("files of Ray Train", file)
        elif (found := CHECKPOINT.fullmatch(path)) and contents.is_done(found[1]) and not contents.is_live(path):
            yield Leftover("checkpoints of finished rounds", file)
        elif (found := NOTE.fullmatch(path)) and contents.is_done(found[1]):
            yield Leftover("notes on rounds that have finished since", file)
        elif (found := BLOB.fullmatch(path)) and found[1] in records and not contents.is_live(path):
            if path not in map(records[found[1]].file, records[found[1]].blobs):
                yield Leftover("tensors that no record names", file)
        elif found := LINK.fullmatch(path):
            links.setdefault(found[1], []).append(file)
    for key, chain in links.items():
        if contents.is_done(key) and not contents.is_live(chain[0].path):
            # Remove the highest link last: a chain with a lower end would be a different claim.
            for file in sorted(chain, key=lambda file: int(file.path.rpartition("/")[2].removesuffix(".json"))):
                yield Leftover("claims on finished rounds", file)


def _unneeded(
    store: Store, files: Sequence[File], contents: _Contents, finished: Mapping[str, Record]
) -> Iterator[Leftover]:
    """Yield the snapshots, checkpoints and half-written rounds that no experiment will ask for."""
    experiments = read_experiments(store)
    for problem in without_file(experiments, finished.values()).values():
        raise DamagedError(f"{problem}; until then it is unknown which snapshots are needed")
    going = [experiment for experiment in experiments if experiment.missing(finished)]
    asked = {key for experiment in going for key in experiment.keys}
    blobs = {found.groups()[:2] for file in files if (found := BLOB.fullmatch(file.path))}
    kinds = Counter(key for key, _ in blobs)  # a round with both files but no record may have lost its record
    for file in (file for file in files if not contents.is_live(file.path)):
        path = file.path
        if (found := SNAPSHOT.fullmatch(path)) and not _is_needed(found[1], found[2], going, finished):
            yield Leftover("snapshots", file)
        elif found := CHECKPOINT.fullmatch(path):
            if split_key(found[1])[0] not in asked and not contents.is_done(found[1]):
                yield Leftover("checkpoints that no experiment asks for", file)
        elif (found := BLOB.fullmatch(path)) and found[1] not in asked | finished.keys() and kinds[found[1]] == 1:
            yield Leftover("tensors of rounds that no experiment asks for", file)


def _is_needed(key: str, name: str, going: Sequence[StoredExperiment], finished: Collection[str]) -> bool:
    """Return whether an unfinished experiment will read snapshots/<key>/<name>."""
    for experiment in (each for each in going if key in each.keys):
        after = experiment.keys.index(key) + 1
        if not name.isdigit():  # of no epoch, such as gradients: the next round is made from it
            if after < len(experiment.keys) and experiment.keys[after] not in finished:
                return True
        elif after == 1 and (experiment.rewinds_to is None or name in map(str, experiment.rewinds_to)):
            return True
    return False
