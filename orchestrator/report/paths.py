"""Which records make up an experiment.

Equal rounds are trained once, whoever asks: a record carries the name of the experiment that trained it first, and
`experiments/<name>.<seed>.json` says which rounds an experiment consists of. A name may also have been given to
other settings before; the rounds of those are no part of it any more.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from orchestrator.errors import DamagedError
from orchestrator.storage.store import JSON_BYTES

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Ledger, Record


def path_records(ledger: Ledger) -> tuple[list[Record], int]:
    """(the finished rounds of every experiment, under its own name; how many records belong to none).

    Raises DamagedError, naming the file, for a record or an experiment that cannot be read.
    """
    committed = {record.key: record for record in ledger.records()}
    found: list[Record] = []
    named: set[tuple[str, int]] = set()
    used: set[str] = set()
    for file in ledger.store.list("experiments/"):
        name, seed, keys = _read(ledger, file)
        named.add((name, seed))
        used.update(keys)
        found += [dataclasses.replace(committed[key], experiment=name) for key in keys if key in committed]
    others = [record for key, record in committed.items() if key not in used]
    unnamed = [record for record in others if (record.experiment, record.seed) not in named]
    return found + unnamed, len(others) - len(unnamed)


def _read(ledger: Ledger, file: str) -> tuple[str, int, list[str]]:
    try:
        content = json.loads(ledger.store.read(file, JSON_BYTES))
        name, seed, keys = content["name"], content["seed"], content["keys"]
        if isinstance(name, str) and isinstance(seed, int) and all(isinstance(key, str) for key in keys):
            return name, seed, list(dict.fromkeys(keys))
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    raise DamagedError(f"{file} does not say which rounds an experiment has: run the job again, which writes it anew")
