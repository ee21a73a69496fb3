"""Run one path of a sweep as a light trial, which holds no training resources while it waits for another path."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune

from orchestrator.distributed import path_trainer
from orchestrator.distributed.cluster import check_folder_is_here
from orchestrator.distributed.deployment import Deployment
from orchestrator.driver import Driver
from orchestrator.errors import OrchestratorError
from orchestrator.experiment import Experiment, Problem
from orchestrator.objective import Objective
from orchestrator.record import Record
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

MAX_POLL_SECONDS = 30.0  # between two checks whether a round was committed
_MEASURES = ("density", "compression", "train_loss", "model_bytes", "epochs")  # reported beside a round's metrics


@dataclass(frozen=True)
class SweptPath:
    """One experiment, ready to be trained; `keep`: epochs of its dense run that any experiment rewinds to."""

    experiment: Experiment
    problem: Problem
    keep: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.experiment.name}.{self.experiment.seed}"

    def driver(self, ledger: Ledger, floor: Floor | None = None) -> Driver:
        return Driver(self.experiment, ledger, self.problem, keep=self.keep, floor=floor)


@dataclass(frozen=True)
class Sweep:
    """The values that all trials of a sweep share.

    `job` distinguishes its actors and failures from those of other sweeps. `objective`: the deciding metric of all.
    `rounds`: of all paths together. `finished`: how many each path had, by its label, when the sweep began.
    """

    storage: str
    deployment: Deployment
    floor: Floor | None
    job: str
    objective: Objective
    paths: int = 1
    rounds: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)


def run_trial(config: dict[str, Any], path_of: Callable[[dict[str, Any]], SweptPath], sweep: Sweep) -> None:
    """Train the path of `config`, and report every round to Tune, also rounds that another path trained."""
    metrics = [f"{split}_{sweep.objective.name}" for split in ("val", "test")]  # Tune needs them for a failure too
    reported: dict[str, Any] = {"path": "", "round": -1, **dict.fromkeys((*_MEASURES, *metrics), math.nan)}
    try:
        path = path_of(config)
        reported["path"] = path.label
        store = open_store(sweep.storage)
        check_folder_is_here(store, sweep.deployment.home)
        sweep.deployment.check_layers(path.problem.gpu_only)
        driver = path.driver(Ledger(store), sweep.floor)
        for record in _rounds(path, driver, sweep):
            reported = metrics_of(record, path.label, rounds=len(driver.keys) - 1)
            tune.report(reported)
    except OrchestratorError as error:
        tune.report({**reported, "failure": str(error)})


def _rounds(path: SweptPath, driver: Driver, sweep: Sweep) -> Any:
    """Yield the records of the path as soon as they are committed, while a thread trains the missing ones."""
    actor = path_trainer.start_driver(
        path.experiment, sweep.storage, path.problem, job=sweep.job, keep=path.keep, floor=sweep.floor
    )
    failures: list[Exception] = []

    def train() -> None:
        try:
            path_trainer.train_rounds(path.experiment, actor, driver.ledger.store, sweep.deployment)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    yielded, alive, since = 0, True, time.monotonic()
    while alive:
        thread.join(path_trainer.pause(time.monotonic() - since, MAX_POLL_SECONDS))
        alive = thread.is_alive()
        while yielded < len(driver.keys) and (record := driver.ledger.record(driver.keys[yielded])) is not None:
            yield record
            yielded, since = yielded + 1, time.monotonic()
    ray.kill(actor)
    if failures:
        raise failures[0]


def metrics_of(record: Record, path: str, rounds: int) -> dict[str, Any]:
    """Return the values of a round for Tune, its schedulers and the trackers."""
    text = record.objective.text
    return {
        "path": path,
        "shown": f"val {text(record.val)}  test {text(record.test)}",  # by its own objective: tasks of paths may differ
        "round": record.round,
        "rounds": rounds,
        "technique": record.technique,
        "density": record.density,
        "compression": record.compression,
        "train_loss": math.nan,  # if no epoch was trained: Tune's CSV files have the columns of the first round
        **record.metrics,
        "model_bytes": record.model_bytes,
        "epochs": record.epochs,
        "round_seconds": record.seconds,
    }
