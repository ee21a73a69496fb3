"""Define the arguments that commands share: a storage that exists, where its data lie, and whose code may run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import tyro

from orchestrator.errors import StorageError
from orchestrator.storage.opening import WAY_OUT, open_existing

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Ledger

Storage = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="STORAGE", help="Folder, or s3://bucket/prefix (the AWS variables say how to reach it)."),
]
DataPlace = Annotated[
    str | None, tyro.conf.arg(metavar="DIR", help="Folder or uri of the data, for data sets in files.")
]
Trusted = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(
        metavar="MODULE:NAME",
        help="Your own function or class that the rounds name as model, data or task; repeat it for more.",
    ),
]


def existing_ledger(storage: str) -> Ledger:
    """Return the ledger of an existing storage, so that a mistyped folder is not created. Raises StorageError."""
    store = open_existing(storage)
    from orchestrator.storage.ledger import Ledger

    return Ledger(store)


def ledger_with_rounds(storage: str) -> Ledger:
    """Return the ledger of a storage that holds a finished round, usable or not. Raises StorageError."""
    ledger = existing_ledger(storage)
    if not any(file.endswith("/record.json") for file in ledger.store.list("rounds/")):
        raise no_rounds(ledger)
    return ledger


def no_rounds(ledger: Ledger) -> StorageError:
    """Return the error about a storage without a finished round."""
    way_out = "orchestrator status --follow shows what is under way" if ledger.store.list("experiments/") else WAY_OUT
    return StorageError(f"no finished round in {ledger.store.uri}: {way_out}")
