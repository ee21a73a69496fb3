"""Call every function of the user once, on small tensors, before training.

An error that would end a job after hours is a ConfigError within a second. Slow calls are skipped for classes of this
package: they check their own rules when they are built.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment
from orchestrator.field_json import type_name
from orchestrator.models.spec import names_known_code
from orchestrator.modules import copy_module
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.criteria import Criterion, needs_gradients, resolve_criterion, score
from orchestrator.pruning.path import Path, check_decreasing
from orchestrator.pruning.structure import Dense, Masks, Structure, check_structure
from orchestrator.pruning.view import View
from orchestrator.randomness import own_randomness, seed_all
from orchestrator.schedules import Schedule
from orchestrator.structures import check_recorded
from orchestrator.techniques import Removed, Start, check_rewind
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.config import TrainingConfig
from orchestrator.training.state import check_state, model_tensors, take_model, take_state
from orchestrator.user_code import called, described
from orchestrator.validate import finite, tuple_of, whole

logger = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]


def rehearse(experiment: Experiment, model: nn.Module, prunable: Shapes, channels: ChannelGraph | None = None) -> None:
    """Raise ConfigError, with the error's text and line, if a function of `experiment` fails on `model`.

    `prunable`: shapes of the prunable weights by name.
    """
    training = experiment.training
    with own_randomness():
        seed_all(0)
        densities = experiment.path.densities() if is_ours(experiment.path) else _rehearse_path(experiment.path)
        rehearse_schedule(training.schedule, 0, training.epochs, training.epochs)
        criterion = _rehearse_criterion(experiment.criterion, prunable)
        if not is_ours(experiment.selection):
            _rehearse_selection(experiment, criterion, prunable, densities, model, channels)
        if not (is_ours(training.optimizer) and is_ours(experiment.technique)):
            state = _rehearse_optimizer(training, model)
            _rehearse_technique(experiment, state, prunable, model)


def is_ours(value: object) -> bool:
    """Return whether the class of `value` belongs to this package, by the one rule for all names."""
    return names_known_code(type_name(type(value)))


def _rehearse_path(path: Path) -> tuple[float, ...]:
    with called(f"{type(path).__name__}.densities()", path.densities):
        densities = tuple_of(f"{type(path).__name__}.densities()", tuple(path.densities()), finite)
        check_decreasing(densities)
    return densities


def rehearse_schedule(schedule: Schedule, first: int, epochs: int, of_epochs: int) -> None:
    """Check some rates of `schedule`: a round of `epochs` epochs from epoch `first` of a dense run of `of_epochs`.

    Raises ConfigError if the schedule fails or a rate is negative or not finite.
    """
    what = f"{type(schedule).__name__}.lr_at()"
    for epoch in (float(first), first + epochs - 1.0, math.nextafter(first + epochs, 0)):
        with called(what, schedule.lr_at):
            rate: object = schedule.lr_at(epoch, of_epochs)
        finite(f"{what} at epoch {epoch:g}", rate, minimum=0)


def _rehearse_criterion(name: str, prunable: Shapes) -> Criterion:
    """Score the smallest prunable tensor of each number of dimensions."""
    criterion = resolve_criterion(name)
    by_size = sorted(prunable.items(), key=lambda item: -math.prod(item[1]))
    for tensor, shape in {len(shape): (tensor, shape) for tensor, shape in by_size}.values():
        gradient = torch.randn(shape) if needs_gradients(criterion) else None
        score(criterion, tensor, torch.randn(shape), gradient)
    return criterion


def _rehearse_selection(
    experiment: Experiment,
    criterion: Criterion,
    prunable: Shapes,
    densities: tuple[float, ...],
    model: nn.Module,
    channels: ChannelGraph | None,
) -> None:
    """Select in the first two rounds of the path, from the values of `model`."""
    selection = experiment.selection
    structure: Structure = Dense()
    what = f"{type(selection).__name__}.select()"
    state = TrainState(take_model(model))
    for density in densities[:2]:
        weights = {name: state.model[name] for name in prunable if name in state.model}
        view = View(
            weights,
            structure,
            criterion,
            {n: torch.randn_like(weight) for n, weight in weights.items()} if needs_gradients(criterion) else None,
            experiment.min_kept_per_layer,
            channels,
        )
        with called(f"{type(selection).__name__}.check()", selection.check):
            selection.check(view, density)
        with called(what, selection.select):
            structure = check_structure(what, selection.select(view, density), prunable)
        kind = type(structure).__name__
        with called(f"{kind}.apply()", structure.apply):
            state = structure.apply(state, view.structure)
        if not is_ours(structure):
            _rehearse_structure(structure, state, prunable, model)


def _rehearse_structure(structure: Structure, state: TrainState, prunable: Shapes, model: nn.Module) -> None:
    """Build the network of a structure of the user's, and read the structure again as a killed run would."""
    kind = type(structure).__name__
    with called(f"{kind}.build()", structure.build):
        built: object = structure.build(lambda: copy_module(model))
        if not isinstance(built, nn.Module):
            raise ConfigError(f"{kind}.build() must return a module, got {type(built).__name__}")
    shapes = _shapes_of(model_tensors(built))
    if (given := _shapes_of(state.model)) != shapes:
        raise ConfigError(
            f"{kind}.apply() must return the tensors that the network of {kind}.build() has, got {given} and {shapes}"
        )
    with called(f"{kind}.shapes()", structure.shapes):
        if not (said := dict(structure.shapes(prunable))).items() <= shapes.items():
            raise ConfigError(
                f"{kind}.shapes() must return prunable tensors of the network that {kind}.build() returns, got {said}"
            )
    if masks := structure.tensors():
        Masks(masks).check(f"{kind}.tensors()", said)
        if any(state.model[name].masked_select(~mask).any() for name, mask in masks.items()):
            raise ConfigError(f"{kind}.apply() must return 0 where the masks of {kind}.tensors() are False")
    sizes = {name: math.prod(shape) for name, shape in prunable.items()}
    with called(f"{kind}.counts()", structure.counts):
        counts = structure.counts(sizes)
        if counts.keys() != sizes.keys() or not all(0 <= counts[name] <= sizes[name] for name in sizes):
            raise ConfigError(f"{kind}.counts() must return 0 to all weights of each of {sizes}, got {counts}")
    check_recorded(structure)


def _shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _rehearse_optimizer(training: TrainingConfig, model: nn.Module) -> TrainState | None:
    """Build the optimizer, and return the state after one step with zero gradients.

    Returns None, with a warning, if the step fails: the model is on the CPU here, and some optimizers need a GPU.
    """
    name = type(training.optimizer).__name__
    what = f"{name}.build()"
    module = copy_module(model)
    with called(what, training.optimizer.build):
        optimizer: object = training.optimizer.build(module)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"{what} must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    except Exception as error:
        logger.warning(
            "the optimizer of %s cannot make a step on the CPU, so it is first tried in training: %s",
            name,
            described(error, optimizer.step),
        )
        return None
    return take_state(module, optimizer)


@dataclass(frozen=True)
class _Example:
    """An imitation of a finished round, with the network's shapes, for a technique to start from."""

    training: TrainingConfig
    example: TrainState
    rewinds_to: int | None

    def state(self) -> TrainState:
        return TrainState(dict(self.example.model), dict(self.example.optimizer))

    def snapshot(self, epoch: int) -> TrainState:
        if epoch != self.rewinds_to:
            raise ConfigError(f"start() must read only the snapshot of rewinds_to(), {self.rewinds_to}, got {epoch}")
        return self.state()


def _rehearse_technique(experiment: Experiment, state: TrainState | None, prunable: Shapes, model: nn.Module) -> None:
    """Call the technique's `rewinds_to`, and `start_after` if there is a `state` to start from.

    It is called as if pruning had removed the weights below 0.
    """
    technique, training = experiment.technique, experiment.training
    name = type(technique).__name__
    with called(f"{name}.rewinds_to()", technique.rewinds_to):
        rewinds_to = technique.rewinds_to(training)
    if rewinds_to is not None:
        check_rewind(rewinds_to, training, experiment.epochs_of_dense_round())
    if state is None:
        return
    finished = _Example(training, state, rewinds_to)
    weights = {tensor: state.model[tensor] for tensor in prunable}
    removed = Removed(weights, {tensor: weight.clamp(min=0) for tensor, weight in weights.items()})
    with called(f"{name}.start()", technique.start):
        start: object = technique.start_after(removed, finished, finished)
    if not isinstance(start, Start):
        raise ConfigError(f"{name}.start() must return a Start, got {type(start).__name__}")
    whole(f"epochs of {name}.start()", start.epochs, minimum=1)
    whole(f"first_epoch of {name}.start()", start.first_epoch, minimum=0)
    _check_start_state(name, start.state, model)
    rehearse_schedule(start.schedule, start.first_epoch, start.epochs, training.epochs)


def _check_start_state(name: str, state: object, model: nn.Module) -> None:
    """Raise ConfigError unless a round of `model` can start from the `state` that technique `name` gives."""
    if state is None:
        return
    if not isinstance(state, TrainState):
        raise ConfigError(f"{name}.start() must return a Start with a TrainState or None, got {type(state).__name__}")
    for part in (state.model, state.optimizer):
        tensors: object = part
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ConfigError(f"{name}.start() must return a TrainState of dicts of tensors, got {type(part).__name__}")
    try:
        check_state(state, model)
    except DamagedError as error:
        raise ConfigError(
            f"{name}.start() must return the tensors of dense.state() or dense.snapshot(): {error}"
        ) from error
