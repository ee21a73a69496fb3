"""Load the network of a finished round as an ordinary module."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from orchestrator.export.candidates import check_code, find_round, module_of, source_of
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_existing


def load(storage: str, key: str, *, data: str | None = None, trust: Iterable[str] = ()) -> nn.Module:
    """Return the network of a finished round, on the CPU and in evaluation mode: built, pruned, its weights filled in.

        model = orchestrator.load("./runs", "3f2a")

    `key`: the beginning of the round's key, as `orchestrator status` shows it. Removed weights are zero, removed
    channels are not there. `data`: where the data lies, for data sets in files; it says for how many classes the
    network is, and is checked to be the round's. `trust`: your own functions or classes, "package.module:name", that
    the round names as model, data or task and that may run here.

    Raises StorageError for a storage that is not there, ConfigError for a key that names no round or several and for
    code that is not trusted, DataError for other data, DamagedError for a damaged file.
    """
    ledger = Ledger(open_existing(storage))
    record = find_round(ledger.records([]), key, what="key")
    check_code([record], trust, way_out="trust=[{!r}]")
    return module_of(ledger, record, source_of([record], data).load())
