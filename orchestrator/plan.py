"""Decide what is next: the whole algorithm of a path on one screen.

The first round that is not committed is next. Before it, what it needs and storage lacks: a snapshot of the dense run,
gradients, or scores of candidates. A round prunes the network of the round before it; the technique says where the
round starts.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import torch

from orchestrator.errors import ConfigError, DensityError
from orchestrator.experiment import Experiment, Problem
from orchestrator.ofa.front_state import FrontState
from orchestrator.ofa.phases import Phases
from orchestrator.pruning import resolve_criterion
from orchestrator.pruning.candidate import Chosen, Generation
from orchestrator.pruning.criteria import needs_gradients
from orchestrator.pruning.structure import Dense, Structure
from orchestrator.pruning.view import View
from orchestrator.randomness import derive, own_randomness, seed_all
from orchestrator.rounds import CutRound, Round, Rounds
from orchestrator.stopping import Floor
from orchestrator.techniques import Removed, Start, check_rewind
from orchestrator.train_state import TrainState
from orchestrator.work import Evaluate, Gradients, Snapshot, Train, Work

logger = logging.getLogger(__name__)


def plan(experiment: Experiment, rounds: Rounds, floor: Floor | None = None) -> Work | None:
    """Return the first work of the path that is not done, or None at its end; changes nothing.

    The path also ends after rounds that fall below `floor`.
    """
    index = rounds.next_index(floor)
    if index is None:
        return None
    if index == 0:
        return _train_dense(experiment, rounds)
    if experiment.phases:
        return _next_of_phases(experiment, experiment.phases, rounds, index)
    dense, parent = rounds[0], rounds[index - 1]
    assert dense is not None
    assert parent is not None  # all rounds before the first unfinished one are finished
    epoch = experiment.technique.rewinds_to(experiment.training)
    if epoch is not None and not dense.has_snapshot(epoch):
        return Snapshot.of(_train_dense(experiment, rounds), epoch, dense.workers)
    if needs_gradients(resolve_criterion(experiment.criterion)) and not parent.has_gradients():
        return Gradients(parent.key, index - 1, experiment.seed, parent.state(), parent.structure)
    chosen = choose(experiment, rounds, parent, index)
    if isinstance(chosen, Evaluate):
        return chosen
    structure = chosen.structure
    dense_cut, parent_cut = (CutRound(each, experiment.training, structure) for each in (dense, parent))
    removed = _removed(rounds.problem, parent, parent_cut)
    start = experiment.technique.start_after(removed, dense_cut, parent_cut)
    teacher = TrainState(dense.state().model) if experiment.distillation else None
    work = _train(experiment, rounds, index, start, structure)
    return replace(work, teacher=teacher, proof=chosen.proof or None)


def _next_of_phases(experiment: Experiment, phases: Phases, rounds: Rounds, index: int) -> Work:
    """Return the work that round `index` >= 1 of a supernet's path needs: a phase, or scores of its networks."""
    supernet, last = rounds.problem.supernet, len(phases.phases)
    parent = rounds[min(index - 1, last)]
    assert supernet is not None
    assert parent is not None
    state = supernet.apply(TrainState(parent.state().model), parent.structure)  # each phase has a new optimizer
    if index > last:
        return _found_in_supernet(experiment, phases, rounds, index, parent)
    phase, before = phases.phases[index - 1], phases.trained_before(index - 1, supernet.space)
    if supernet.space.narrowed(phase.largest).has_more_widths(before):
        state = supernet.sorted(state, before)
    start = Start(state, phases.schedule(index - 1, experiment.training.batch_size), 0, phase.epochs)
    dense = rounds[0]
    assert dense is not None
    teacher = TrainState(dense.state().model) if phase.teacher == "dense round" else None
    return replace(_train(experiment, rounds, index, start, supernet), phase=(phase, supernet.space), teacher=teacher)


def _found_in_supernet(experiment: Experiment, phases: Phases, rounds: Rounds, index: int, trained: Round) -> Work:
    """Return the candidates that the search wants scored, or the work that measures the best network of a budget."""
    supernet, search, place = rounds.problem.supernet, phases.search, index - len(phases.phases) - 1
    assert supernet is not None
    assert search is not None
    seed = derive(experiment.seed, "search")
    begun = rounds.search(index, lambda: FrontState(search, supernet, place, seed))
    assert begun is not None
    step, state = begun.step(rounds.scores(trained.key)), TrainState(trained.state().model)
    if isinstance(step, Generation):
        last = len(rounds.keys) - 1
        return Evaluate(trained.key, len(phases.phases), last, state, trained.structure, begun.scoring, step)
    start = Start(step.structure.apply(state, supernet), experiment.training.schedule, 0, 0)
    work = _train(experiment, rounds, index, start, step.structure)
    return replace(work, proof=step.proof, calibration=(trained.key, search.calibration))


def choose(experiment: Experiment, rounds: Rounds, parent: Round, index: int) -> Chosen | Evaluate:
    """Return what is left of the network in round `index` >= 1, or the candidates that a search needs scores of."""
    density, selection = experiment.densities()[index], experiment.selection
    with own_randomness():  # for a criterion that draws its scores
        seed_all(derive(experiment.seed, "criterion", index))
        seed = derive(experiment.seed, "search", index)
        view = partial(view_of, experiment, rounds.problem, parent)
        search = rounds.search(index, lambda: selection.search(view(), density, seed))
        step = search.step(rounds.scores(parent.key)) if search else Chosen(selection.select(view(), density), {})
    if search and isinstance(step, Generation):
        state, last = TrainState(parent.state().model), len(rounds.keys) - 1
        return Evaluate(parent.key, index - 1, last, state, parent.structure, search.scoring, step)
    assert isinstance(step, Chosen)
    for name in step.structure.dead_layers():
        logger.warning("round %d at density %.4g leaves no weight in %s", index, density, name)
    return step


def view_of(experiment: Experiment, problem: Problem, parent: Round) -> View:
    """Return what the selection looks at: the finished round `parent`."""
    state, criterion = parent.state().model, resolve_criterion(experiment.criterion)
    return View(
        {name: state[name] for name in problem.prunable},
        parent.structure,
        criterion,
        parent.gradients() if needs_gradients(criterion) else None,
        experiment.min_kept_per_layer,
        problem.channels,
        problem.geometry,
    )


def _removed(problem: Problem, parent: Round, cut: CutRound) -> Removed:
    """Return the parent's prunable weights before and after pruning."""
    before, after = parent.state().model, cut.state().model
    return Removed({name: before[name] for name in problem.prunable}, {name: after[name] for name in problem.prunable})


def _train_dense(experiment: Experiment, rounds: Rounds) -> Train:
    """Return the work of round 0."""
    start = Start(None, experiment.training.schedule, 0, experiment.epochs_of_dense_round())
    work = _train(experiment, rounds, 0, start, Dense())
    return replace(work, keep=rounds.keep, constants=dict(rounds.problem.constants))


def _train(experiment: Experiment, rounds: Rounds, index: int, start: Start, structure: Structure) -> Train:
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


def check_path(experiment: Experiment, problem: Problem, keep: tuple[int, ...]) -> None:
    """Check, before anything is trained, that each round of the path can be given.

    Raises DensityError for a density that the selection cannot give, ConfigError for an epoch of `keep` that lies
    outside the dense run.
    """
    for epoch in keep:
        check_rewind(epoch, experiment.training, experiment.epochs_of_dense_round())
    if experiment.phases:
        if (search := experiment.phases.search) and problem.supernet:
            FrontState(search, problem.supernet, 0, experiment.seed)  # it looks whether some network meets each budget
        return
    weights = {name: torch.empty(shape, device="meta") for name, shape in problem.prunable.items()}
    view = View(
        weights,
        min_kept_per_layer=experiment.min_kept_per_layer,
        graph=problem.channels,
        geometry=problem.geometry,
    )
    for index, density in enumerate(experiment.densities()[1:], start=1):
        try:
            experiment.selection.check(view, density)
        except ConfigError as error:
            raise DensityError(f"round {index}: {error}") from None
