"""Follow a storage while rounds are trained, from anywhere that can read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import compression, duration, percent, plain
from orchestrator.record import Record
from orchestrator.storage.claims import holders
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import places
from orchestrator.storage.store import listed, read_each


@dataclass(frozen=True)
class StorageView:
    """What a storage holds at a moment: finished rounds, failures, claims and mid-round checkpoints, by round key.

    `problems`: a sentence for each file that cannot be used.
    """

    records: Mapping[str, Record]
    failures: Mapping[str, Mapping[str, Any]]
    holders: Mapping[str, str]
    places: Mapping[str, tuple[int, int]]
    problems: tuple[str, ...] = ()


def follow(ledger: Ledger, seconds: float) -> Iterator[str]:
    """A line for whatever is new, looked for every `seconds`; it never ends. Raises StorageError."""
    problems: list[str] = []
    records = {record.key: record for record in ledger.records(problems)}
    ledger.failures(problems)
    before = StorageView(records, {}, {}, {}, tuple(problems))  # whoever follows was told of those
    while True:
        after = read_view(ledger, before)
        yield from lines(before, after)
        before = after
        time.sleep(seconds)


def read_view(ledger: Ledger, before: StorageView) -> StorageView:
    """The storage now; records that were seen before are not read again."""
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


def lines(before: StorageView, after: StorageView) -> Iterator[str]:
    """What a person should hear of."""
    for key in after.records.keys() - before.records.keys():
        yield _finished(after.records[key])
    yield from (plain(f"error: {problem}") for problem in after.problems if problem not in before.problems)
    for key in after.failures.keys() - before.failures.keys():
        failure = after.failures[key]
        yield plain(f"{failure.get('experiment')}: round {failure.get('round')} failed: {failure.get('reason')}")
    for key, owner in after.holders.items():
        place = after.places.get(key)
        if key not in after.records and (owner, place) != (before.holders.get(key), before.places.get(key)):
            safe = f"{place[0]} epochs and {place[1]} steps are safe" if place else "from its beginning"
            yield plain(f"{key[:12]}: trained by {owner}, {safe}")


def _finished(record: Record) -> str:
    return plain(
        f"{record.experiment}, seed {record.seed}: round {record.round} done, {compression(record.compression)}  "
        f"val {percent(record.metrics['val_accuracy'])} %  test {percent(record.metrics['test_accuracy'])} %  "
        f"{duration(record.seconds)}"
    )
