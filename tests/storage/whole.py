"""A storage with a file of every kind: two rounds, a failed one, one under way, scores, and what a job leaves."""

from __future__ import annotations

from storage.test_ledger import MASKS, STATE, record

from orchestrator.pruning.candidate import Score
from orchestrator.sealed import seal
from orchestrator.storage.claims import Claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import write_progress
from orchestrator.storage.score_files import write_scores
from orchestrator.storage.store import Store
from orchestrator.train_state import TrainState
from orchestrator.work.scoring import scores_key
from orchestrator.work.train import Progress

KEYS = [f"{index:02}" * 32 for index in range(4)]
EXPERIMENT = "experiments/e.0.json"
STOP = f"sweeps/{'5' * 64}/e.0.json"


def commit(ledger: Ledger, index: int) -> None:
    ledger.commit(record(KEYS[index], round=index, parent=KEYS[index - 1] if index else None), STATE, MASKS)


def checkpoint(store: Store, key: str) -> str:
    """Write a checkpoint of round `key`, and return its path."""
    write_progress(store, Progress(key, 0, STATE, (), 1.0, 1))
    return store.list(f"train/{key}")[-1]


def experiment(ledger: Ledger, keys: list[str] = KEYS, name: str = "e", **more: object) -> None:
    content = {"name": name, "seed": 0, "densities": [1.0, 0.8, 0.64, 0.5], "keys": keys, "rewinds_to": [2]}
    ledger.write_experiment(name, 0, {**content, **more})


def whole_storage(store: Store) -> Ledger:
    """Rounds 0 and 1 are finished, round 2 is under way and round 3 has failed before."""
    ledger = Ledger(store)
    experiment(ledger)
    commit(ledger, 0)
    commit(ledger, 1)
    ledger.write_snapshot(KEYS[0], "2", TrainState(STATE.model))
    ledger.write_failure(KEYS[3], {"experiment": "e", "key": KEYS[3], "round": 3, "reason": "the loss is nan"})
    write_scores(store, scores_key(KEYS[1], "0" * 24), {"7" * 64: Score(0.5, 1.0)})
    checkpoint(store, KEYS[2])
    with Claims(store, "e.0 on here, 1", lease_seconds=3600) as claims:  # released at the end
        assert all(claims.acquire(key) for key in KEYS[:3])
    store.write(STOP, seal({"path": "e.0", "stopped_after_round": 2}))
    return ledger
