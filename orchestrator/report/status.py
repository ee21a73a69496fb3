"""Show the state of a storage, as `orchestrator status` does: its rounds, what is under way, and what is new."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.formatting import MAX_NAMES, compression, duration, make_console, plain
from orchestrator.record import Record
from orchestrator.report.summary import Quantity
from orchestrator.storage.claims import holders, living
from orchestrator.storage.experiments import StoredExperiment, read_experiments
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import places
from orchestrator.storage.store import Store, listed, read_each

PATIENCE_SECONDS = 600.0  # more than the clocks of this machine and of the storage differ


def print_status(
    records: Iterable[Record], failures: Iterable[Mapping[str, Any]], console: Console | None = None
) -> None:
    """Print one table per experiment and seed, one line per record, and below them the reason of every failed round.

    Rounds of earlier settings with another objective are in a table of their own.
    """
    console = console or make_console()
    groups: dict[tuple[str, int, Quantity], list[Record]] = {}
    for record in records:
        groups.setdefault((record.experiment, record.seed, Quantity(record.objective)), []).append(record)
    for (experiment, seed, quantity), group in groups.items():
        techniques = dict.fromkeys(record.technique for record in group if record.round)
        about = ", ".join((*techniques, quantity.legend))
        console.print(Text(plain(f"{experiment}, seed {seed}: {about}"), style="bold"))
        console.print(_status_table(group, quantity))
    for failure in failures:
        name, which, number = (plain(failure.get(field, "?")) for field in ("experiment", "seed", "round"))
        reason = plain(failure.get("reason", "no reason was written"))
        console.print(Text(f"failed: {name}, seed {which}, round {number}: {reason}", style="red"), soft_wrap=True)


@dataclass(frozen=True)
class NextRound:
    """The first round of an experiment that is not finished. `owner` is None if no living job has claimed it."""

    experiment: StoredExperiment
    number: int
    finished: int
    owner: str | None
    checkpoint: tuple[int, int] | None

    @property
    def line(self) -> str:
        """Say who trains it."""
        last = len(self.experiment.keys) - 1
        return f"{name_of(self.experiment)}: round {self.number} of {last} is trained by {self.owner}, {self.safe}"

    @property
    def safe(self) -> str:
        """Say which part of the round a checkpoint covers."""
        return safe_part(self.checkpoint)


def safe_part(checkpoint: tuple[int, int] | None) -> str:
    """Say how many epochs, and steps of the next one, a checkpoint covers."""
    return f"{checkpoint[0]} epochs and {checkpoint[1]} steps are safe" if checkpoint else "from its beginning"


def name_of(experiment: StoredExperiment) -> str:
    """Return the name of one path of an experiment."""
    return f"{experiment.name}, seed {experiment.seed}"


def round_names(experiments: Iterable[StoredExperiment]) -> dict[str, str]:
    """Return {key: "digits, seed 0: round 2"}; a round that several experiments share has the name of the first."""
    names: dict[str, str] = {}
    for experiment in experiments:
        for number, key in enumerate(experiment.keys):
            names.setdefault(key, f"{name_of(experiment)}: round {number}")
    return names


def next_rounds(store: Store, experiments: Iterable[StoredExperiment], finished: Collection[str]) -> list[NextRound]:
    """Return the next round of each experiment that is not finished. `finished`: keys. Raises StorageError."""
    files, _ = store.files("claims/")
    open_claims = [file for file in files if file.path.split("/")[1] not in finished]
    owners, checkpoints = living(store, open_claims, time.time(), PATIENCE_SECONDS), places(store)
    found = []
    for experiment in experiments:
        if missing := experiment.missing(finished):
            key = experiment.keys[missing[0]]
            done = len(experiment.keys) - len(missing)
            found.append(NextRound(experiment, missing[0], done, owners.get(key), checkpoints.get(key)))
    return found


def under_way(rounds: Iterable[NextRound], failures: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Yield a line for each round that a job on Ray trains, and one for all other unfinished paths.

    `run` in one process claims no round: whether it trains one of the latter is not known. Paths in `failures` are
    left out there, because they have lines of their own.
    """
    idle = []
    failed = {(failure.get("experiment"), failure.get("seed")) for failure in failures}
    for each in rounds:
        if each.owner is not None:
            yield each.line
        elif (each.experiment.name, each.experiment.seed) not in failed:
            idle.append(each)
    if idle:
        named = [
            f"{name_of(each.experiment)} ({each.finished} of {len(each.experiment.keys)} rounds"
            + (f", {each.safe})" if each.checkpoint else ")")
            for each in idle[:MAX_NAMES]
        ]
        more = f", and {len(idle) - MAX_NAMES} more" if len(idle) > MAX_NAMES else ""
        yield (
            "not finished; no job on Ray holds the next round (the same command continues it): "
            f"{'; '.join(named)}{more}"
        )


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


def _status_table(records: Iterable[Record], quantity: Quantity) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("key", no_wrap=True)
    measured = (quantity.column("val"), quantity.column("test"))
    for header in ("density", "compression", "kept", *measured, "epochs", "seconds", "MB"):
        table.add_column(header, justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            str(record.round),
            record.key[:8],
            f"{record.density:.4g}",
            compression(record.compression),
            f"{record.weights_kept:,}",
            quantity.number(record.val),
            quantity.number(record.test),
            str(record.epochs),
            f"{record.seconds:,.1f}",
            f"{record.model_bytes / 1e6:,.3f}",
        )
    return table
