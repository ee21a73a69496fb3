"""Build the work that trains a round."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.experiment import Experiment
from orchestrator.pruning.structure import Dense, Structure
from orchestrator.rounds import Rounds
from orchestrator.techniques import Start
from orchestrator.work.train import Train


def train_dense(experiment: Experiment, rounds: Rounds) -> Train:
    """Return the work of round 0."""
    start = Start(None, experiment.training.schedule, 0, experiment.epochs_of_dense_round())
    work = train_round(experiment, rounds, 0, start, Dense())
    return replace(work, keep=rounds.keep, constants=dict(rounds.problem.constants))


def train_round(experiment: Experiment, rounds: Rounds, index: int, start: Start, structure: Structure) -> Train:
    """Return the work that trains round `index` from `start`."""
    return Train(
        key=rounds.keys[index],
        parent=rounds.keys[index - 1] if index else None,
        round=index,
        rounds=len(rounds.keys) - 1,
        density=experiment.densities()[index],
        kept=sum(structure.counts(rounds.problem.sizes).values()),
        prunable=sum(rounds.problem.sizes.values()),
        seed=experiment.seed,
        schedule=start.schedule,
        first_epoch=start.first_epoch,
        epochs=start.epochs,
        start=structure.apply(start.state, base=structure) if start.state else None,
        structure=structure,
    )
