"""Run `orchestrator verify`: check every file of a storage."""

from __future__ import annotations

from orchestrator.commands.storage_argument import Storage, existing_ledger
from orchestrator.formatting import no_rounds, plain


def verify(storage: Storage) -> int:
    """Read every file of the storage, and compare it with its sha256 and with the files that name it.

    Exits with 1 if anything is damaged, missing or unreadable, and names each with the way out.

    $ orchestrator verify ./runs
    """
    from orchestrator.storage.verify import verify as findings

    ledger = existing_ledger(storage)
    files = damaged = leftovers = 0
    foreign: list[str] = []
    for finding in findings(ledger):
        files += finding.kind == "checked"
        leftovers += finding.kind == "leftover"
        foreign += [finding.path] if finding.kind == "foreign" else []
        if problem := finding.problem:
            damaged += 1
            print(plain(problem if finding.path in problem else f"{finding.path}: {problem}"), flush=True)
    if not files:
        print(no_rounds(ledger.store.uri))
    if leftovers:
        print(
            f"not checked: {leftovers} files of running or killed jobs: orchestrator clean removes those of killed ones"
        )
    if foreign:
        named = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        print(plain(f"not checked: {len(foreign)} files that this program did not write: {named}"))
    print(f"{files} files checked, {damaged} damaged")
    return 1 if damaged else 0
