"""Follow a storage while rounds are trained, from any machine that can read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.formatting import compression, duration, plain
from orchestrator.record import Record
from orchestrator.report.quantity import Quantity
from orchestrator.report.under_way import round_names, safe_part
from orchestrator.storage.claims import holders
from orchestrator.storage.experiments import read_experiments
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import places
from orchestrator.storage.store import listed, read_each


@dataclass(frozen=True)
class StorageView:
    """Hold what a storage contains at one moment, each by round key.

    `owners` names who trains a round. `checkpoints` gives the epochs and steps that a checkpoint of it covers.
    `problems` has a sentence for each unusable file. `names` says which round of which experiment a key is.
    """

    records: Mapping[str, Record]
    failures: Mapping[str, Mapping[str, Any]]
    owners: Mapping[str, str]
    checkpoints: Mapping[str, tuple[int, int]]
    problems: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


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
    owners, names = holders(ledger.store, finished=records), before.names
    if not owners.keys() <= names.keys():  # an experiment has begun
        named = round_names(read_experiments(ledger.store, problems))
        names = {**{key: key[:12] for key in owners}, **named}  # not read again for a key that no experiment has
    return StorageView(
        records,
        {str(failure["key"]): failure for failure in failures if "key" in failure},
        owners,
        places(ledger.store),
        tuple(dict.fromkeys(problems)),
        names,
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
            yield plain(f"{after.names[key]} is trained by {owner}, {safe_part(checkpoint)}")


def _finished_line(record: Record) -> str:
    quantity = Quantity(record.objective)
    return plain(
        f"{record.experiment}, seed {record.seed}: round {record.round} done ({record.key[:8]}), "
        f"{compression(record.compression)}  "
        f"{quantity.name}: val {quantity.text(record.val)}, test {quantity.text(record.test)}  "
        f"{duration(record.seconds)}"
    )
