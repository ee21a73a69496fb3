"""`orchestrator status`."""

from __future__ import annotations

from typing import Annotated

import tyro

from orchestrator.commands.storage_argument import Storage, existing_ledger
from orchestrator.errors import ConfigError
from orchestrator.formatting import no_rounds, plain, print_problems

FOLLOW_SECONDS = 2.0


def status(
    storage: Storage,
    as_json: Annotated[
        bool, tyro.conf.arg(name="json", help="One JSON object per line for each finished round.")
    ] = False,
    follow: Annotated[bool, tyro.conf.arg(help="Continue with a line for everything new, until Ctrl-C.")] = False,
) -> int:
    """Show every finished round, every failed one with its reason, and how far searches are.

    $ orchestrator status ./runs
    $ orchestrator status s3://bucket/digits --follow
    $ orchestrator status s3://bucket/digits --json | jq .metrics.test_accuracy
    """
    from orchestrator.report import json_line, print_status
    from orchestrator.storage.score_files import search_lines

    if as_json and follow:
        raise ConfigError("--json and --follow cannot be combined: give one of them")
    ledger = existing_ledger(storage)
    problems: list[str] = []
    records = ledger.records(problems)
    if as_json:
        for record in records:
            print(json_line(record))
        return print_problems(problems)
    failures = ledger.failures(problems)
    if not records:
        print(no_rounds(ledger.store.uri))
    print_status(records, failures)
    for line in search_lines(ledger.store, records, problems):
        print(plain(line))
    code = print_problems(problems)
    if follow:
        from orchestrator.report.follow import follow_storage

        for line in follow_storage(ledger, FOLLOW_SECONDS):
            print(line, flush=True)
    return code
