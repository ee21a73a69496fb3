"""A search for ratios that takes a second: an experiment, and its works counted and stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tiny

from orchestrator import Amc
from orchestrator.data.dataset import Data
from orchestrator.driver import Driver
from orchestrator.experiment import Experiment
from orchestrator.problem import load_problem
from orchestrator.pruning import OneShot
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.trainer import Trainer
from orchestrator.work.preparation import Work
from orchestrator.work.scoring import Evaluate

AMC = Amc(evaluations=8, generation=4, finalists=2, finalist_epochs=2, round_to=1)
SEARCHED = dataclasses.replace(
    tiny.with_training(epochs=2, schedule=tiny.StepDecay(0.05, drops=(1,))),
    name="searched",
    model="tiny:deeper",
    path=OneShot(0.4),
    selection=AMC,
)


def searching(selection: Amc, experiment: Experiment = SEARCHED) -> Experiment:
    return dataclasses.replace(experiment, selection=selection)


def begun(experiment: Experiment, folder: Path) -> tuple[Driver, Trainer, Data]:
    """Return what a new process that runs `experiment` has."""
    problem, data = load_problem(experiment)
    driver = Driver(experiment, Ledger(open_store(str(folder))), problem)
    return driver, Trainer(experiment, data), data


def works(experiment: Experiment, folder: Path, count: int | None = None) -> list[Work]:
    """Do the next `count` works, or all, and be gone. Return them."""
    driver, trainer, _ = begun(experiment, folder)
    done: list[Work] = []
    while (count is None or len(done) < count) and (work := driver.next_work()) is not None:
        driver.finish(work, trainer.do(work))
        done.append(work)
    return done


def scored(done: list[Work]) -> list[str]:
    """Return the digests of the candidates that were scored, in order."""
    generations = [work.generation for work in done if isinstance(work, Evaluate)]
    return [candidate.digest for generation in generations for candidate in generation.candidates]
