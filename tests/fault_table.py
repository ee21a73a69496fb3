"""What the tests of faults share: the job, what its logs tell of a fault's cost, and the table of all costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import Store

# Epochs of about a second on any machine, so that a fault comes in the middle of one: 50 steps that mostly sleep.
LONG = {"EPOCHS": "25", "ROUNDS": "1", "PAUSE": "0.02", "DATA_OPTIONS": '{"samples": 800}'}
OFTEN, SELDOM = ("--checkpoint-seconds", "2"), ("--checkpoint-seconds", "10000")
ROWS: list[tuple[str, str, str, str]] = []
Events = list[dict[str, Any]]


def row(fault: str, what: str, seconds: float | None, repeated: float | None) -> None:
    shown = ["-" if value is None else f"{value:.1f}" for value in (seconds, repeated)]
    ROWS.append((fault, what, *shown))


def events_of(logs: Iterable[Path]) -> Events:
    """What actors and workers logged, in order."""
    lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
    events = [json.loads(line) for line in lines if line.startswith('{"time"')]
    for event in events:
        event["at"] = datetime.fromisoformat(event["time"]).timestamp()
    return sorted(events, key=lambda event: event["at"])


def restarts(events: Events, fault: float) -> Events:
    """Where groups of workers took training up again after the fault; none, if they lived on."""
    return [e for e in events if e["message"] == "resumes from a checkpoint" and e["at"] > fault]


def cost(events: Events, fault: float) -> tuple[float, float]:
    """(seconds from the fault to the next epoch, seconds of training that were done again)."""
    epochs = [e for e in events if e["message"] == "epoch done" and e["at"] > fault]
    if not (resumed := restarts(events, fault)):
        return epochs[0]["at"] - fault, 0.0
    place = (resumed[0]["epochs_done"], resumed[0]["steps_done"])
    saved = [e for e in events if e["message"] == "checkpoint" and (e["epochs_done"], e["steps_done"]) == place]
    went_on = next(e for e in epochs if e["at"] > resumed[0]["at"])
    return went_on["at"] - fault, max(0.0, fault - saved[-1]["at"])


def places(store: Store) -> list[str]:
    """Mid-round checkpoints, as epochs and steps."""
    return [path.rsplit("/", 1)[1] for path in store.list("train/") if path.endswith(".safetensors")]


def in_mid_round(run: Any, storage: str) -> None:
    """Some epochs are done, and the newest checkpoint is about as old as they are on average."""
    store = open_store(storage)
    run.wait_for(lambda: max(places(store), default="") >= "000004", "some epochs are done")
    time.sleep(1.0)


def check_ledger(storage: str, attempts: list[int]) -> None:
    records = Ledger(open_store(storage)).records()
    assert {record.round: record.attempts for record in records} == dict(enumerate(attempts))
    assert all(problem is None for _, problem in Ledger(open_store(storage)).verify())
    assert not places(open_store(storage))
