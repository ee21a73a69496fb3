"""Follow a storage while rounds are trained, from anywhere that can read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.report.text import compression, duration, percent, plain
from orchestrator.storage.claims import holders
from orchestrator.storage.progress import places

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Ledger, Record


@dataclass(frozen=True)
class Sight:
    """What a storage holds at a moment: finished rounds, failures, claims and mid-round checkpoints, by round key."""

    records: Mapping[str, Record]
    failures: Mapping[str, Mapping[str, Any]]
    holders: Mapping[str, str]
    places: Mapping[str, tuple[int, int]]


def follow(ledger: Ledger, seconds: float) -> Iterator[str]:
    """A line for whatever is new, looked for every `seconds`; it never ends. Raises StorageError."""
    before = Sight({record.key: record for record in ledger.records()}, {}, {}, {})
    while True:
        after = look(ledger, before)
        yield from lines(before, after)
        before = after
        time.sleep(seconds)


def look(ledger: Ledger, before: Sight) -> Sight:
    """The storage now; records that were seen before are not read again."""
    keys = [path.split("/")[1] for path in ledger.store.list("rounds") if path.endswith("/record.json")]
    known = {key: before.records[key] if key in before.records else ledger.record(key) for key in keys}
    records = {key: record for key, record in known.items() if record is not None}
    return Sight(
        records,
        {str(failure["key"]): failure for failure in ledger.failures() if "key" in failure},
        holders(ledger.store, finished=records),
        places(ledger.store),
    )


def lines(before: Sight, after: Sight) -> Iterator[str]:
    """What a person should hear of."""
    for key in after.records.keys() - before.records.keys():
        yield _finished(after.records[key])
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
