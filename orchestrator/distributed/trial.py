"""One path of a sweep: a light function that holds no training resources while it waits for another path's round."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from orchestrator.distributed import path_trainer
from orchestrator.distributed.cluster import check_folder_is_here
from orchestrator.distributed.deployment import Deployment
from orchestrator.driver import Driver
from orchestrator.errors import OrchestratorError
from orchestrator.experiment import Experiment, Problem
from orchestrator.objective import ACCURACY, Objective
from orchestrator.record import Record
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

MAX_POLL_SECONDS = 30.0  # between two looks whether a round was committed
_MEASURES = ("density", "compression", "train_loss", "model_bytes", "epochs")  # of a round, beside its metrics


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
    """What all trials of a sweep share.

    `job` tells its actors and failures from those of other sweeps. `objective`: the metric that decides in all of them.
    """

    storage: str
    deployment: Deployment
    floor: Floor | None
    job: str
    paths: int = 1
    objective: Objective = ACCURACY


def run_trial(config: dict[str, Any], path_of: Callable[[dict[str, Any]], SweptPath], sweep: Sweep) -> None:
    """Train the path of `config` and report every round of it to Tune, whoever trained it."""
    metrics = [f"{split}_{sweep.objective.name}" for split in ("val", "test")]  # Tune wants them of a failure, too
    told: dict[str, Any] = {"path": "", "round": -1, **dict.fromkeys((*_MEASURES, *metrics), math.nan)}
    try:
        path = path_of(config)
        told["path"] = path.label
        store = open_store(sweep.storage)
        check_folder_is_here(store, sweep.deployment.home)
        sweep.deployment.check_layers(path.problem.gpu_only)
        driver = path.driver(Ledger(store), sweep.floor)
        for record in _rounds(path, driver, sweep):
            told = metrics_of(record, path.label, rounds=len(driver.keys) - 1)
            tune.report(told)
    except OrchestratorError as error:
        tune.report({**told, "failure": str(error)})


def _rounds(path: SweptPath, driver: Driver, sweep: Sweep) -> Any:
    """The records of the path, each as soon as it is committed, while a thread trains those that are missing."""
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
    told, alive, since = 0, True, time.monotonic()
    while alive:
        thread.join(path_trainer.pause(time.monotonic() - since, MAX_POLL_SECONDS))
        alive = thread.is_alive()
        while told < len(driver.keys) and (record := driver.ledger.record(driver.keys[told])) is not None:
            yield record
            told, since = told + 1, time.monotonic()
    ray.kill(actor)
    if failures:
        raise failures[0]


def metrics_of(record: Record, path: str, rounds: int) -> dict[str, Any]:
    """What Tune, its schedulers and the trackers see of a round."""
    return {
        "path": path,
        "round": record.round,
        "rounds": rounds,
        "technique": record.technique,
        "density": record.density,
        "compression": record.compression,
        "train_loss": math.nan,  # of a round that trains no epoch: Tune's CSV files have the columns of the first round
        **record.metrics,
        "model_bytes": record.model_bytes,
        "epochs": record.epochs,
        "round_seconds": record.seconds,
    }
