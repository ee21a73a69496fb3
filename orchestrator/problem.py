"""Load the data and build the model of an experiment, and check both before any training time is spent."""

from __future__ import annotations

import hashlib

from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment, Problem
from orchestrator.pruning import prunable_weights
from orchestrator.pruning.channel_trace import trace_channels
from orchestrator.pruning.channels import Channels
from orchestrator.rehearsal import rehearse
from orchestrator.seeds import derive
from orchestrator.training.batches import check_batch_size
from orchestrator.training.data import Data, load_data
from orchestrator.training.models import build_model, check_model, gpu_only


def load_problem(experiment: Experiment, data_root: str | None = None, workers: int = 1) -> tuple[Problem, Data]:
    """What the keys of `experiment` need to know, and its data. `workers`: the most that share a batch.

    Raises ConfigError or DataError for a model that does not fit the data, an unknown name, a layout that is not
    what was expected, a batch larger than the training set, an exclusion that matches nothing, or a function of the
    user's that fails when it is called once.
    """
    data = load_data(experiment.data, experiment.data_options, root=data_root)
    batch_size = experiment.training.batch_size
    check_batch_size(len(data.train), batch_size, workers)
    model = build_model(
        experiment.model,
        experiment.model_options,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        seed=derive(experiment.seed, "model"),
    )
    check_model(model, data, batch_size // workers)
    prunable = {name: tuple(weight.shape) for name, weight in prunable_weights(model, experiment.exclude).items()}
    if not prunable:
        raise ConfigError(
            f"model {experiment.model!r} has no prunable weight left: loosen exclude {experiment.exclude}"
        )
    rehearse(experiment, model, prunable)
    channels = None
    if isinstance(experiment.selection, Channels):
        channels = trace_channels(model, data.input_shape)
    problem = Problem(
        prunable, _structure(model), data.identity, data.num_classes, data.input_shape, channels, gpu_only(model)
    )
    return problem, data


def _structure(model: nn.Module) -> str:
    """Hash of the layers, their settings and their tensors' shapes: the model's code may move, not change."""
    tensors = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()]
    return hashlib.sha256(repr((repr(model), tensors)).encode()).hexdigest()
