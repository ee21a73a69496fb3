"""The argument STORAGE of the commands that read an existing storage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import tyro

from orchestrator.errors import StorageError
from orchestrator.storage.opening import open_store

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Ledger

Storage = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="STORAGE", help="Folder, or s3://bucket/prefix (the AWS variables say how to reach it)."),
]


def existing_ledger(storage: str) -> Ledger:
    """Return the ledger of an existing storage, so that a mistyped folder is not created. Raises StorageError."""
    store = open_store(storage)
    if store.is_local and not os.path.isdir(store.uri):
        raise StorageError(f"there is no folder {store.uri}: give the --storage of a job that has run")
    from orchestrator.storage.ledger import Ledger

    return Ledger(store)
