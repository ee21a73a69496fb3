"""Decide what is next: the whole algorithm of a path on one screen.

The first round that is not committed is next. Before it, what it needs and storage lacks: a snapshot of the dense run,
gradients, or scores of candidates. A round prunes the network of the round before it; the technique says where the
round starts.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.experiment import Experiment, Problem
from orchestrator.next_structure import check_densities, choose
from orchestrator.pruning import resolve_criterion
from orchestrator.pruning.candidate import Chosen
from orchestrator.pruning.criteria import needs_gradients
from orchestrator.rounds import CutRound, Rounds
from orchestrator.stopping import Floor
from orchestrator.supernet_plan import check_budgets, plan_of_supernet
from orchestrator.techniques import Removed, check_rewind
from orchestrator.train_state import TrainState
from orchestrator.train_work import train_dense, train_round
from orchestrator.work.gradients import Gradients
from orchestrator.work.preparation import Work
from orchestrator.work.scoring import Evaluate
from orchestrator.work.snapshot import Snapshot
from orchestrator.work.train import Train


def plan(experiment: Experiment, rounds: Rounds, floor: Floor | None = None) -> Work | None:
    """Return the first work of the path that is not done, or None at its end; changes nothing.

    The path also ends after rounds that fall below `floor`.
    """
    index = rounds.next_index(floor)
    if index is None:
        return None
    if index == 0:
        return train_dense(experiment, rounds)
    if experiment.phases:
        return plan_of_supernet(experiment, experiment.phases, rounds, index)
    dense, parent = rounds.finished(0), rounds.finished(index - 1)
    epoch = experiment.technique.rewinds_to(experiment.training)
    if epoch is not None and not dense.has_snapshot(epoch):
        return Snapshot.of(train_dense(experiment, rounds), epoch, dense.workers)
    if needs_gradients(resolve_criterion(experiment.criterion)) and not parent.has_gradients():
        return Gradients(parent.key, index - 1, experiment.seed, parent.state(), parent.structure)
    chosen = choose(experiment, rounds, index)
    if isinstance(chosen, Evaluate):
        return chosen
    return _train_pruned(experiment, rounds, index, chosen)


def _train_pruned(experiment: Experiment, rounds: Rounds, index: int, chosen: Chosen) -> Train:
    """Return the work that trains the network which `chosen` leaves of the round before."""
    dense, parent = (CutRound(rounds.finished(each), experiment.training, chosen.structure) for each in (0, index - 1))
    before, after = parent.finished.state().model, parent.state().model
    prunable = rounds.problem.prunable
    removed = Removed(*({name: model[name] for name in prunable if name in model} for model in (before, after)))
    start = experiment.technique.start_after(removed, dense, parent)
    teacher = TrainState(dense.finished.state().model) if experiment.distillation else None
    work = train_round(experiment, rounds, index, start, chosen.structure)
    quantise = experiment.quantise is not None and index == work.rounds
    return replace(work, teacher=teacher, proof=chosen.proof or None, quantise=quantise)


def check_path(experiment: Experiment, problem: Problem, keep: tuple[int, ...]) -> None:
    """Check, before anything is trained, that each round of the path can be given.

    Raises DensityError for a density that the selection cannot give, ConfigError for a budget that no network meets
    and for an epoch of `keep` that lies outside the dense run.
    """
    for epoch in keep:
        check_rewind(epoch, experiment.training, experiment.epochs_of_dense_round())
    if experiment.phases:
        check_budgets(experiment, experiment.phases, problem)
    else:
        check_densities(experiment, problem)
