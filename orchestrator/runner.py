"""Run an experiment in this process, without Ray: for a small problem, for a test, or to study the algorithm."""

from __future__ import annotations

from collections.abc import Callable

import torch

from orchestrator.driver import Driver
from orchestrator.errors import DataError, DivergedError
from orchestrator.experiment import Experiment
from orchestrator.problem import load_problem
from orchestrator.record import Record
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.trainer import Trainer
from orchestrator.user_code import called
from orchestrator.work.train import OnEpoch


def run(
    experiment: Experiment,
    storage: str = "./runs",
    *,
    data: str | None = None,
    device: torch.device | None = None,
    on_round: Callable[[Record], None] | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[Record]:
    """Train every round of `experiment` that is not in `storage` yet; return the records of its path.

    `data`: folder or uri of the data, for data sets in files. Raises OrchestratorError for errors that users can fix.
    """
    store = open_store(storage)
    store.check()
    problem, loaded = load_problem(experiment, data)
    driver = Driver(experiment, Ledger(store), problem)
    trainer: Trainer | None = None
    while (work := driver.next_work()) is not None:
        trainer = trainer or Trainer(experiment, loaded, device=device)
        try:
            with called("training"):  # a user's code may fail on some batches only
                answer = trainer.do(work, on_epoch=on_epoch)
        except (DivergedError, DataError) as error:
            driver.fail(work.key, str(error))
            raise
        record = driver.finish(work, answer)
        if on_round and record:
            on_round(record)
    return driver.records()
