"""Load the data and build the model of an experiment, and check both before any training time is spent."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping

from torch import nn

from orchestrator.data.batches import check_batch_size
from orchestrator.data.dataset import Data
from orchestrator.data.load import load_data
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment, Problem
from orchestrator.formatting import name_largest
from orchestrator.model_check import check_model
from orchestrator.models.build import build_model, gpu_only
from orchestrator.models.constants import DRAWN_AGAIN, constants_of
from orchestrator.models.spec import OFA
from orchestrator.models.start_weights import load_start_weights
from orchestrator.nested import rows
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet import Elastic
from orchestrator.pruning import prunable_weights, unpruned_weights
from orchestrator.pruning.channels.trace import trace_channels
from orchestrator.pruning.geometry import geometry_of
from orchestrator.randomness import derive
from orchestrator.rehearsal import rehearse
from orchestrator.task import objective_of
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.int8_training import fake_quantised
from orchestrator.user_code import called
from orchestrator.values_check import check_values

logger = logging.getLogger(__name__)


def load_problem(experiment: Experiment, data_root: str | None = None, workers: int = 1) -> tuple[Problem, Data]:
    """Return what the keys of `experiment` need to know, and its data. `workers`: the maximum that share a batch.

    Raises ConfigError or DataError for a model that does not fit the data, an unknown name, a layout that is not
    what was expected, a batch larger than the training set, an exclusion that matches nothing, or a function of the
    user's that fails when it is called once.
    """
    data = load_data(experiment.data, experiment.data_options, root=data_root)
    batch_size = experiment.training.batch_size
    check_batch_size(len(data.train), batch_size, workers)
    _check_splits(data, workers)
    part = _smallest_part(experiment.training, workers)
    model, again = (_build(experiment, data, *purpose) for purpose in (("model",), DRAWN_AGAIN))
    for each in (model, again):
        load_start_weights(each, experiment, data.model_arguments)
    constants = constants_of(model, again)
    check_model(
        model,
        data,
        experiment.task,
        part,
        distillation=experiment.distillation,
        channels_last=experiment.training.channels_last,
    )
    check_values(model, data, experiment.task)
    weights = prunable_weights(model, experiment.exclude, experiment.kinds)
    if not weights:
        raise ConfigError(
            f"model {experiment.model!r} has no prunable weight left: loosen exclude {experiment.exclude}, or add "
            f"kinds of layers to prune {experiment.kinds}"
        )
    prunable = {name: tuple(weight.shape) for name, weight in weights.items()}
    selection, inputs = experiment.selection, rows(data.inputs, 0, 1)
    channels = trace_channels(model, inputs) if selection.needs_channels else None
    rehearse(experiment, model, prunable, channels)
    if experiment.quantise:
        fake_quantised(model, data.inputs)  # raises now what would end the path's last round
    unpruned = {name: weight.numel() for name, weight in unpruned_weights(model, prunable).items()}
    _warn_of_unpruned(experiment, model, prunable, unpruned)
    _warn_of_low_rate(experiment)
    problem = Problem(
        prunable=prunable,
        model_identity=_identity(model, constants),
        data_identity=data.identity,
        objective=objective_of(experiment.task),
        channels=channels,
        geometry=geometry_of(model, inputs) if selection.needs_geometry else None,
        unpruned=unpruned,
        constants=constants,
        gpu_only=gpu_only(model),
        supernet=_supernet(experiment, data),
    )
    return problem, data


def _check_splits(data: Data, workers: int) -> None:
    """Raise ConfigError unless each worker has a sample to evaluate: some metrics wait for each other's."""
    for split in ("val", "test"):
        if (samples := len(data.split(split))) < workers:
            raise ConfigError(f"workers must be at most {samples}, the number of {split} samples, got {workers}")


def _smallest_part(training: TrainingConfig, workers: int) -> int:
    """Return the minimum number of samples that a worker trains on at once. Raises ConfigError if it is 0."""
    share = training.batch_size // workers
    if training.accumulate > share:
        raise ConfigError(
            f"training.accumulate must be at most {share}, a worker's share of batch_size {training.batch_size} among "
            f"{workers} worker(s), got {training.accumulate}: lower accumulate or workers, or raise batch_size"
        )
    return share // training.accumulate


def _build(experiment: Experiment, data: Data, *purpose: str) -> nn.Module:
    return build_model(
        experiment.model,
        experiment.model_options,
        data.model_arguments,
        seed=derive(experiment.seed, *purpose),
    )


def _supernet(experiment: Experiment, data: Data) -> Elastic | None:
    """Return the supernet that the path trains, if it does; building the model has checked the data's arguments."""
    if not experiment.phases:
        return None
    return Elastic.of(find_space(experiment.model.removeprefix(OFA)), data.model_arguments)


def _warn_of_unpruned(
    experiment: Experiment, model: nn.Module, prunable: Mapping[str, tuple[int, ...]], unpruned: Mapping[str, int]
) -> None:
    """Log which weights are not prunable though `exclude` does not name them, largest first."""
    sizes = {name: unpruned[name] for name in unpruned_weights(model, prunable_weights(model, (), experiment.kinds))}
    if not sizes:
        return
    count = sum(math.prod(shape) for shape in prunable.values())
    total = count + sum(unpruned.values())
    logger.warning(
        f"{experiment.name}: {count:,} of the {total:,} weights of model {experiment.model!r} are prunable "
        f"({count / total:.1%}), and compression counts all of them. Not pruned, because they are frozen, computed "
        f"from other parameters, or not those of a layer that kinds names ({', '.join(experiment.kinds)}): "
        f"{name_largest(sizes)}"
    )


def _warn_of_low_rate(experiment: Experiment) -> None:
    """Log that learning-rate rewinding stays at a low rate."""
    technique = experiment.technique
    warning = technique.warning(experiment.training) if isinstance(technique, LearningRateRewinding) else None
    if warning:
        logger.warning(f"{experiment.name}: {warning}")


def _identity(model: nn.Module, constants: Mapping[str, str]) -> str:
    """Return a hash of the layers, their settings, and their tensors' shapes and constants.

    The model's code may move, not change.
    """
    tensors = [
        (name, tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad)
        for name, tensor in model.state_dict(keep_vars=True).items()
    ]
    with called(f"repr() of model {type(model).__name__}"):
        text = repr(model)
    return hashlib.sha256(repr((text, tensors, sorted(constants.items()))).encode()).hexdigest()
