"""Call model, task and metrics once on two samples: what would fail on the workers, minutes later, fails now."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.batches import with_channels_last
from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError
from orchestrator.modules import copy_module, model_call
from orchestrator.nested import concatenated, kind_of, mapped, number_of_samples, rows, tensors_of
from orchestrator.randomness import own_randomness
from orchestrator.task import Task, objective_of
from orchestrator.training.distillation import Distillation
from orchestrator.training.evaluate import update, value_of
from orchestrator.user_code import ERRORS, called, described
from orchestrator.values_check import wrong_targets

logger = logging.getLogger(__name__)
_COPIES = 4  # of one sample, whose loss must be larger: some losses are a mean from three samples on
_ROUNDING = 1e-4  # relative


def check_model(
    model: nn.Module,
    data: Data,
    task: Task,
    smallest_batch: int = 2,
    *,
    distillation: Distillation | None = None,
    channels_last: bool = False,
) -> None:
    """Raise ConfigError unless `model` can be trained and measured for `task` on the data's example.

    In evaluation mode it must take the inputs, and give outputs of which the task makes a loss, a sum over the batch,
    its metrics, and its divergence where there is `distillation`. In training mode a copy must give gradients, from
    `smallest_batch` samples (what a worker trains on at once) if those are fewer than two, in the layout of
    `channels_last`; a warning names parameters without one.
    """
    inputs, targets = data.example or (None, None)
    _check_first_dimension(inputs, targets)
    was_training = model.training
    try:
        with torch.no_grad(), own_randomness():
            outputs = _outputs(model.eval(), inputs)
            _check_outputs(task, outputs, data)
            _check_loss(task, outputs, targets)
            if distillation is not None:
                _check_divergence(task, outputs, targets, distillation)
            one = (rows(inputs, 0, 1), rows(targets, 0, 1))
            _check_sum(model, task, one)
        _check_metrics(task, outputs, targets)
    finally:
        model.train(was_training)
    samples = min(number_of_samples(inputs), smallest_batch)
    copy, some = copy_module(model).train(), rows(inputs, 0, samples)
    if channels_last:
        copy, some = copy.to(memory_format=torch.channels_last), mapped(with_channels_last, some)
    _check_training(copy, task, some, rows(targets, 0, samples), samples)


def _check_first_dimension(inputs: Any, targets: Any) -> None:
    """Raise ConfigError unless the inputs hold a tensor, and the first dimension of every tensor counts samples."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of((inputs, targets)) if tensor.dim()}
    if len({shape[0] for shape in shapes.values()}) != 1:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no tensor"
        raise ConfigError(
            f"the first dimension of every tensor of a batch must count its samples, got {got} (0 are the inputs, 1 "
            "the targets): put samples first in collate, and keep what all samples share in the model"
        )
    if not number_of_samples(inputs):
        raise ConfigError(
            f"the inputs of a batch must hold a tensor whose first dimension counts samples, got {kind_of(inputs)}: "
            "make tensors of texts and numbers in collate"
        )


def _check_divergence(task: Task, outputs: Any, targets: Any, distillation: Distillation) -> None:
    """Raise ConfigError unless the task measures how far a network is from its teacher by a finite scalar."""
    name, measure = type(task).__name__, task.divergence  # type: ignore[attr-defined]
    with called(f"{name}.divergence(), called with (outputs, taught, targets, temperature),", measure):
        apart: object = measure(outputs, outputs, targets, distillation.temperature)
    if not isinstance(apart, Tensor) or apart.dim() != 0 or not apart.isfinite():
        raise ConfigError(f"{name}.divergence() must return a finite scalar, summed over the batch, got {apart!r:.100}")


def _outputs(model: nn.Module, inputs: Any) -> Any:
    try:
        return model_call(model, inputs)
    except ERRORS as error:
        raise ConfigError(f"model {type(model).__name__} cannot take {shapes(inputs)}: {described(error)}") from error


def _check_outputs(task: Task, outputs: Any, data: Data) -> None:
    """Let the task look at the outputs, if it does: a wrong number of classes shows in no loss of two samples."""
    check = getattr(task, "check_outputs", None)
    if check is not None:
        with called(f"{type(task).__name__}.check_outputs(), called with (outputs, model_arguments),", check):
            check(outputs, data.model_arguments)


def _check_loss(task: Task, outputs: Any, targets: Any) -> None:
    """Raise ConfigError unless the loss of a batch is a finite scalar and what divides it is a count."""
    name = type(task).__name__
    with called(f"{name}.loss(), called with (outputs, targets),", task.loss):
        try:
            loss: object = task.loss(outputs, targets)
        except IndexError as error:
            if str(error).startswith("Target "):  # torch's message for a class that the outputs do not have
                raise wrong_targets(task, "the first samples", targets, error) from error
            raise
    if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.is_floating_point():
        got = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"{name}.loss() must return a floating-point scalar, summed over the batch, got {got}")
    if not loss.isfinite():
        raise ConfigError(
            f"{name}.loss() must be finite on the first samples, got {loss.item()}: look at the weights that the model "
            "begins with, and at the loss"
        )
    with called(f"{name}.count(), called with (targets),", task.count):
        count: object = task.count(targets)
    if count is not None and not _is_count(count):
        got = f"a tensor of shape {tuple(count.shape)}" if isinstance(count, Tensor) and count.dim() else repr(count)
        raise ConfigError(f"{name}.count() must return None or a finite scalar tensor of 0 or more, got {got:.100}")


def _is_count(count: object) -> bool:
    """Return whether losses can be divided by `count` once those of all batches and workers are added."""
    if not isinstance(count, Tensor) or count.dim() != 0 or count.is_complex() or count.dtype is torch.bool:
        return False
    return math.isfinite(value := count.item()) and value >= 0


def _check_sum(model: nn.Module, task: Task, one: tuple[Any, Any]) -> None:
    """Raise ConfigError if the loss of several copies of a sample is not larger than that of one: it is a mean."""
    try:
        once = task.loss(model_call(model, one[0]), one[1]).item()
        inputs, targets = concatenated([one] * _COPIES)
        several = task.loss(model_call(model, inputs), targets).item()
    except ERRORS:  # a model that takes no single sample is not one whose loss is a mean
        return
    if once != 0 and abs(several) <= (1 + _ROUNDING) * abs(once):
        raise ConfigError(
            f"{type(task).__name__}.loss() must be summed over the batch, got {several:.6g} for {_COPIES} copies of a "
            f'sample and {once:.6g} for one, which is not a sum: use reduction="sum"'
        )


def _check_metrics(task: Task, outputs: Any, targets: Any) -> None:
    """Raise ConfigError unless every metric gives one number, and the objective is a metric or the loss.

    Warn of a value that is not finite: a metric may be undefined on so few samples of an untrained network.
    """
    objective = objective_of(task)
    metrics = dict(task.metrics())
    with torch.no_grad(), own_randomness():
        update(metrics, task, outputs, targets)
        for name, metric in metrics.items():
            value = value_of(name, metric)
            if not math.isfinite(value):
                later = "the first round stops after its first epoch" if name == objective.name else "it is left out"
                logger.warning(
                    f"metric {name} is {value} on the first samples before training, where it may be undefined; "
                    f"if it is so on the whole validation split, {later}"
                )


def _check_training(model: nn.Module, task: Task, inputs: Any, targets: Any, samples: int) -> None:
    """Compute one step forward and backward. Raise ConfigError if it fails, as it would later on the workers."""
    name = type(model).__name__
    try:
        with own_randomness():
            outputs = model_call(model, inputs)
            loss = task.loss(outputs, targets)
            _check_dependence(task, outputs, loss)
            loss.backward()
    except ConfigError:
        raise
    except ERRORS as error:
        way_out = (
            ""
            if samples > 1
            else "; a worker's share of the batch is one sample: raise batch_size, or lower workers or accumulate"
        )
        raise ConfigError(f"model {name} cannot be trained on {shapes(inputs)}: {described(error)}{way_out}") from error
    if sparse := [n for n, p in model.named_parameters() if p.grad is not None and p.grad.is_sparse]:
        raise ConfigError(
            f"every gradient of model {name} must be dense, as masks and workers' averages are; these are sparse: "
            f"{', '.join(sparse[:5])}; build the embedding with sparse=False"
        )
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        logger.warning(
            f"these parameters of model {name} take no part in the loss of the example, so their gradient is zero: "
            f"{', '.join(unused[:5])}; if they never do, remove them, or set requires_grad to False"
        )


def _check_dependence(task: Task, outputs: Any, loss: Tensor) -> None:
    """Raise ConfigError for a loss without a gradient, unless it is the outputs that have none."""
    tensors = [tensor for _, tensor in tensors_of(outputs)]
    if not loss.requires_grad and (not tensors or any(tensor.requires_grad for tensor in tensors)):
        raise ConfigError(
            f"{type(task).__name__}.loss() must depend on the model's outputs, got a loss without a gradient: compute "
            "it from the outputs without detach(), item() or torch.no_grad()"
        )


def shapes(inputs: Any) -> str:
    """Return the shapes of a batch's inputs as people read them: "inputs of shape (2, 3, 8, 8)"."""
    named = [f"{name} {tuple(tensor.shape)}".strip() for name, tensor in tensors_of(inputs)]
    return f"inputs of shape {', '.join(named)}"
