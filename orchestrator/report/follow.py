"""Follow a storage while rounds are trained, from any machine that can read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import compression, duration, plain
from orchestrator.record import Record
from orchestrator.report.quantity import Quantity
from orchestrator.storage.claims import holders
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import places
from orchestrator.storage.store import listed, read_each


@dataclass(frozen=True)
class StorageView:
    """Hold what a storage contains at one moment, each by round key.

    `owners` names who trains a round. `checkpoints` gives the epochs and steps that a checkpoint of it covers.
    `problems` has a sentence for each unusable file.
    """

    records: Mapping[str, Record]
    failures: Mapping[str, Mapping[str, Any]]
    owners: Mapping[str, str]
    checkpoints: Mapping[str, tuple[int, int]]
    problems: tuple[str, ...] = ()


def follow_storage(ledger: Ledger, seconds: float) -> Iterator[str]:
    """Look at the storage every `seconds`, for ever, and yield a line for each change. Raises StorageError."""
    problems: list[str] = []
    records = {record.key: record for record in ledger.records(problems)}
    ledger.failures(problems)
    before = StorageView(records, {}, {}, {}, tuple(problems))  # the caller has shown these problems already
    while True:
        after = read_view(ledger, before)
        yield from changes(before, after)
        before = after
        time.sleep(seconds)


def read_view(ledger: Ledger, before: StorageView) -> StorageView:
    """Read what the storage contains now. Records that `before` has are not read again."""
    problems: list[str] = []
    files = listed(ledger.store, "rounds", problems)
    keys = [path.split("/")[1] for path in files if path.endswith("/record.json")]
    new = read_each(ledger.store, ledger.record, [key for key in keys if key not in before.records], problems)
    known = {key: before.records[key] for key in keys if key in before.records}
    records = {**known, **{record.key: record for record in new}}
    failures = ledger.failures(problems)
    return StorageView(
        records,
        {str(failure["key"]): failure for failure in failures if "key" in failure},
        holders(ledger.store, finished=records),
        places(ledger.store),
        tuple(dict.fromkeys(problems)),
    )


def changes(before: StorageView, after: StorageView) -> Iterator[str]:
    """Yield one line for each new record, problem, failure, owner and checkpoint."""
    for key in after.records.keys() - before.records.keys():
        yield _finished_line(after.records[key])
    yield from (plain(f"error: {problem}") for problem in after.problems if problem not in before.problems)
    for key in after.failures.keys() - before.failures.keys():
        failure = after.failures[key]
        yield plain(f"{failure.get('experiment')}: round {failure.get('round')} failed: {failure.get('reason')}")
    for key, owner in after.owners.items():
        checkpoint = after.checkpoints.get(key)
        known = (before.owners.get(key), before.checkpoints.get(key))
        if key not in after.records and (owner, checkpoint) != known:
            safe = f"{checkpoint[0]} epochs and {checkpoint[1]} steps are safe" if checkpoint else "from its beginning"
            yield plain(f"{key[:12]}: trained by {owner}, {safe}")


def _finished_line(record: Record) -> str:
    quantity = Quantity(record.objective)
    return plain(
        f"{record.experiment}, seed {record.seed}: round {record.round} done, {compression(record.compression)}  "
        f"{quantity.name}: val {quantity.text(record.val)}, test {quantity.text(record.test)}  "
        f"{duration(record.seconds)}"
    )
