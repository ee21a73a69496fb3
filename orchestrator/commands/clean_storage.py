"""Run `orchestrator clean`: remove what killed jobs left."""

from __future__ import annotations

from typing import Annotated

import tyro

from orchestrator.commands.storage_argument import Storage, existing_ledger
from orchestrator.formatting import print_problems


def clean(
    storage: Storage,
    dry_run: Annotated[bool, tyro.conf.arg(help="Only show what would be removed.")] = False,
    snapshots: Annotated[
        bool, tyro.conf.arg(help="Also snapshots and checkpoints that no unfinished experiment will read.")
    ] = False,
) -> int:
    """Remove the files that killed jobs have left in a storage; safe while other jobs run.

    It removes writes that never ended (multi-part uploads too), files of storage checks and of Ray Train, checkpoints
    and claims of finished rounds, and tensors that no record names. It keeps everything that a living owner has
    claimed or that was written in the last ten minutes.

    --snapshots also removes the states to rewind to that no unfinished experiment of the storage needs, and the
    remains of rounds that are not part of one. A path that was cut counts as unfinished. An experiment that starts
    later trains its snapshot again.

    $ orchestrator clean ./runs --dry-run
    """
    from orchestrator.formatting import size
    from orchestrator.storage.clean import leftovers, remove, totals

    ledger = existing_ledger(storage)
    left = leftovers(ledger, snapshots=snapshots)
    if not dry_run:
        remove(ledger.store, left.found)
    verb = "would remove" if dry_run else "removed"
    for what, files, count in totals(left.found):
        print(f"{verb}: {files} {what}, {size(count)}")
    if not left.found:
        print(f"nothing to remove in {ledger.store.uri}")
    if left.fresh:
        print(f"kept: {left.fresh} files of the last ten minutes, which a job may still need: clean again later")
    return print_problems([left.warning] if left.warning else [])
