"""Run `orchestrator status`: show the rounds of a storage and what is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import tyro

from orchestrator.commands.storage_argument import Storage, existing_ledger, no_rounds
from orchestrator.errors import ConfigError
from orchestrator.formatting import plain, print_problems

if TYPE_CHECKING:
    from orchestrator.record import Record
    from orchestrator.storage.ledger import Ledger

FOLLOW_SECONDS = 2.0


def status(
    storage: Storage,
    as_json: Annotated[
        bool, tyro.conf.arg(name="json", help="One JSON object per line for each finished round.")
    ] = False,
    follow: Annotated[bool, tyro.conf.arg(help="Continue with a line for everything new, until Ctrl-C.")] = False,
) -> int:
    """Show every finished round, every failed one with its reason, and what is under way: rounds, sweeps, searches.

    The key, or its beginning, names a round for orchestrator export and orchestrator.load.

    $ orchestrator status ./runs
    $ orchestrator status s3://bucket/digits --follow
    $ orchestrator status s3://bucket/digits --json | jq .metrics
    """
    if as_json and follow:
        raise ConfigError("--json and --follow cannot be combined: give one of them")
    ledger = existing_ledger(storage)
    problems: list[str] = []
    records = ledger.records(problems)
    if as_json:
        from orchestrator.report import json_line

        for record in records:
            print(json_line(record))
    else:
        _show(ledger, records, problems, waits=follow)
    if not (records or problems) and as_json:
        raise no_rounds(ledger)
    code = print_problems(problems)
    if follow:
        from orchestrator.report.status import follow_storage

        for line in follow_storage(ledger, FOLLOW_SECONDS):
            print(line, flush=True)
    return code


def _show(ledger: Ledger, records: list[Record], problems: list[str], *, waits: bool) -> None:
    """Print the tables and what is under way. Raises StorageError if there is neither, unless the caller `waits`."""
    from orchestrator.report.status import next_rounds, print_status, under_way
    from orchestrator.storage.experiments import read_experiments
    from orchestrator.storage.score_files import search_lines

    failures, experiments = ledger.failures(problems), read_experiments(ledger.store, problems)
    if not (records or failures or experiments or problems):
        if not waits:
            raise no_rounds(ledger)
        print(f"waiting for the first round in {plain(ledger.store.uri)}", flush=True)
        return
    print_status(records, failures)
    finished = {record.key for record in records}
    if len(experiments) > 1:
        keys = {key for experiment in experiments for key in experiment.keys}
        print(f"{len(experiments)} paths with {len(keys)} distinct rounds, {len(keys & finished)} of them finished")
    for line in under_way(next_rounds(ledger.store, experiments, finished), failures):
        print(plain(line))
    for line in search_lines(ledger.store, records, problems):
        print(plain(line))
