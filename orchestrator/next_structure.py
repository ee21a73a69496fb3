"""Choose what is left of the network in a round, by the experiment's selection."""

from __future__ import annotations

import logging
from functools import partial

import torch

from orchestrator.errors import ConfigError, DensityError
from orchestrator.experiment import Experiment, Problem
from orchestrator.pruning import resolve_criterion
from orchestrator.pruning.candidate import Chosen, Generation
from orchestrator.pruning.criteria import needs_gradients
from orchestrator.pruning.view import View
from orchestrator.randomness import derive, own_randomness, seed_all
from orchestrator.rounds import Round, Rounds
from orchestrator.train_state import TrainState
from orchestrator.user_code import called
from orchestrator.work.scoring import Evaluate

logger = logging.getLogger(__name__)


def choose(experiment: Experiment, rounds: Rounds, index: int) -> Chosen | Evaluate:
    """Return what is left of the network in round `index` >= 1, or the candidates that a search needs scores of."""
    density, selection, parent = experiment.densities()[index], experiment.selection, rounds.finished(index - 1)
    with own_randomness():  # for a criterion that draws its scores
        seed_all(derive(experiment.seed, "criterion", index))
        seed = derive(experiment.seed, "search", index)
        view = partial(view_of, experiment, rounds.problem, parent)
        search = rounds.search(index, lambda: selection.search(view(), density, seed))
        with called(f"{type(selection).__name__}.select() for round {index}", selection.select):
            step = search.step(rounds.scores(parent.key)) if search else Chosen(selection.select(view(), density), {})
    if search and isinstance(step, Generation):
        state, last = TrainState(parent.state().model), len(rounds.keys) - 1
        return Evaluate(parent.key, index - 1, last, state, parent.structure, search.scoring, step)
    assert isinstance(step, Chosen)
    for name in step.structure.dead_layers():
        logger.warning("round %d at density %.4g leaves no weight in %s", index, density, name)
    return step


def view_of(experiment: Experiment, problem: Problem, parent: Round) -> View:
    """Return the view of the finished round `parent`, which a selection looks at."""
    state, criterion = parent.state().model, resolve_criterion(experiment.criterion)
    return View(
        {name: state[name] for name in problem.prunable if name in state},
        parent.structure,
        criterion,
        parent.gradients() if needs_gradients(criterion) else None,
        experiment.min_kept_per_layer,
        problem.channels,
        problem.geometry,
    )


def check_densities(experiment: Experiment, problem: Problem) -> None:
    """Raise DensityError for a density that the selection cannot give."""
    view = View(
        {name: torch.empty(shape, device="meta") for name, shape in problem.prunable.items()},
        min_kept_per_layer=experiment.min_kept_per_layer,
        graph=problem.channels,
        geometry=problem.geometry,
    )
    for index, density in enumerate(experiment.densities()[1:], start=1):
        try:
            experiment.selection.check(view, density)
        except ConfigError as error:
            raise DensityError(f"round {index}: {error}") from None
