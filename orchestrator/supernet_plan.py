"""Plan the rounds of a path that makes a supernet: one for each phase, then one for each budget of the search."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.experiment import Experiment, Problem
from orchestrator.ofa.front_state import FrontState
from orchestrator.ofa.phases import Phases
from orchestrator.pruning.candidate import Generation
from orchestrator.randomness import derive
from orchestrator.rounds import Rounds
from orchestrator.techniques import Start
from orchestrator.train_state import TrainState
from orchestrator.train_work import train_round
from orchestrator.work.scoring import Evaluate
from orchestrator.work.train import Train


def plan_of_supernet(experiment: Experiment, phases: Phases, rounds: Rounds, index: int) -> Train | Evaluate:
    """Return the work that round `index` >= 1 needs: a phase, scores of networks, or the measurement of the best."""
    if index > len(phases.phases):
        return _search(experiment, phases, rounds, index)
    return _train_phase(experiment, phases, rounds, index)


def _train_phase(experiment: Experiment, phases: Phases, rounds: Rounds, index: int) -> Train:
    """Return the work of the phase that round `index` trains: all its networks go on from the round before."""
    supernet, parent, phase = rounds.problem.supernet, rounds.finished(index - 1), phases.phases[index - 1]
    assert supernet is not None  # the problem of every path of phases has one
    state = supernet.apply(TrainState(parent.state().model), parent.structure)  # each phase has a new optimizer
    before = phases.trained_before(index - 1, supernet.space)
    if supernet.space.narrowed(phase.largest).has_more_widths(before):
        state = supernet.sorted(state, before)
    start = Start(state, phases.schedule(index - 1, experiment.training.batch_size), 0, phase.epochs)
    teacher = TrainState(rounds.finished(0).state().model) if phase.teacher == "dense round" else None
    work = train_round(experiment, rounds, index, start, supernet)
    return replace(work, phase=(phase, supernet.space), teacher=teacher)


def _search(experiment: Experiment, phases: Phases, rounds: Rounds, index: int) -> Train | Evaluate:
    """Return the candidates that the search wants scored, or the work that measures the best network of a budget."""
    supernet, search, trained = rounds.problem.supernet, phases.search, rounds.finished(len(phases.phases))
    assert supernet is not None
    assert search is not None  # else the path ends with the last phase
    budget, seed = index - len(phases.phases) - 1, derive(experiment.seed, "search")
    begun = rounds.search(index, lambda: FrontState(search, supernet, budget, seed))
    assert begun is not None
    step, state = begun.step(rounds.scores(trained.key)), TrainState(trained.state().model)
    if isinstance(step, Generation):
        last = len(rounds.keys) - 1
        return Evaluate(trained.key, len(phases.phases), last, state, trained.structure, begun.scoring, step)
    start = Start(step.structure.apply(state, supernet), experiment.training.schedule, 0, 0)
    work = train_round(experiment, rounds, index, start, step.structure)
    return replace(work, proof=step.proof, calibration=(trained.key, search.calibration))


def check_budgets(experiment: Experiment, phases: Phases, problem: Problem) -> None:
    """Raise ConfigError for a budget of the search that no network meets."""
    if phases.search and problem.supernet:
        FrontState(phases.search, problem.supernet, 0, experiment.seed)  # it looks when it is made
