"""Try the samples with extreme values, and count: what fails on some samples only then fails before training."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.data.dataset import SPLITS, Data, Split, is_known, is_tensors
from orchestrator.data.load import WIDE
from orchestrator.data.reading import collated, prepared, read_sample
from orchestrator.data.sample_checks import dtype_in_training
from orchestrator.data.separate_process import run_apart
from orchestrator.errors import ConfigError
from orchestrator.modules import model_call
from orchestrator.nested import mapped, packed, tensors_of, unpacked
from orchestrator.randomness import own_randomness, seed_all
from orchestrator.task import Task
from orchestrator.user_code import ERRORS, called, described

FIRST_SAMPLES = 256  # maximum number looked at in each split that is not in memory
FIRST_VALUES = 2**24  # maximum number of their values
COUNTED_TOGETHER = 32  # samples in memory, until the task counts something

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Look:
    """A look at the first `samples` samples of a split, or at all.

    `extremes`: a batch of those with the smallest and largest whole numbers, if there are any. `counts`: whether the
    task counts anything in these samples.
    """

    samples: int
    extremes: tuple[Any, Any] | None = None
    counts: bool = True


def check_values(model: nn.Module, data: Data, task: Task) -> None:
    """Raise ConfigError if an embedding of `model` or the loss of `task` cannot take a whole number of the data.

    Also raise it if what the loss of a split is divided by is 0 over all its samples. All samples in memory are looked
    at. Of other data sets they are the first ones, if the model has an embedding, a target has several classes, or the
    task counts nothing in the example; a warning says if it counts nothing in these, as it may in later ones.
    """
    embeddings = {name: part for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    was_training = model.training
    hooks = [
        part.register_forward_pre_hook(partial(_check_indices, name, type(model).__name__))
        for name, part in embeddings.items()
    ]
    try:
        for split in SPLITS:
            look = _look(data, task, split, bool(embeddings))
            if look.extremes is not None:
                _try(model.eval(), task, split, look.extremes)
            _check_count(data, task, split, look)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)


def _look(data: Data, task: Task, split: Split, has_embeddings: bool) -> _Look:
    """Look at a split: at all of it if it is in memory, else at its first samples if there is a reason to."""
    with own_randomness():
        if (memory := data.in_memory(split)) is not None:
            look = _look_at_tensors(data, task, memory, has_embeddings)
        elif has_embeddings or _has_reason(data, task):
            samples = data.split(split)
            opens_nothing = is_tensors(samples) or is_known(samples)
            first = partial(_look_at_first, task=task, split=split)
            look = first(data) if opens_nothing else run_apart(first, data, f"the {split} split")
        else:
            return _Look(0)
        if look.extremes is None:
            return look
        inputs, targets = unpacked(look.extremes)
        return replace(look, extremes=prepared(data, inputs, targets, None))


def _has_reason(data: Data, task: Task) -> bool:
    """Return whether the targets of the example have several classes each, or the task counts nothing in it."""
    if data.example is None:
        return False
    targets = data.example[1]
    dense = any(_is_whole(tensor) and tensor.dim() > 1 for _, tensor in tensors_of(targets))
    return dense or not _counts(task, targets)


def _look_at_tensors(data: Data, task: Task, memory: TensorDataset, has_embeddings: bool) -> _Look:
    inputs, targets = memory.tensors
    samples, extremes = len(memory), None
    if has_embeddings or targets.dim() != 1 or data.check is None:  # a check of the data knows a single class
        targets = targets.to(dtype_in_training(targets))
        places = _places(inputs if has_embeddings else None, targets, samples, task)
        extremes = (inputs[places], targets[places]) if places else None
    for first in range(0, samples, COUNTED_TOGETHER):
        part = slice(first, first + COUNTED_TOGETHER)
        if _counts(task, prepared(data, inputs[part].clone(), targets[part].clone(), None)[1]):
            return _Look(samples, extremes)
    return _Look(samples, extremes, counts=False)


def _look_at_first(data: Data, task: Task, split: Split) -> _Look:
    """Look at the first samples; the tensors of the extremes are packed for another process."""
    values = sum(tensor[:1].numel() for _, tensor in tensors_of(data.example) if tensor.dim())  # of a sample
    samples = min(FIRST_SAMPLES, len(data.split(split)), max(2, FIRST_VALUES // max(1, values)))
    read = []
    for index in range(samples):
        seed_all(index)  # a sample may be augmented when it is read
        read.append(read_sample(data, split, index))
    inputs, targets = collated(data, split, range(samples), read)
    places = _places(inputs, targets, samples, task)
    pick = partial(mapped, lambda tensor: tensor[places] if tensor.dim() else tensor)
    extremes = packed((pick(inputs), pick(targets))) if places else None
    return _Look(samples, extremes, _counts(task, prepared(data, inputs, targets, None)[1]))


def _places(inputs: Any, targets: Any, samples: int, task: Task) -> list[int]:
    """Return the samples that hold the smallest or the largest value of a tensor of whole numbers.

    The class that the task ignores is left out, or it would hide others.
    """
    ignore = getattr(task, "ignore", None)
    found: set[int] = set()
    for part, left_out in ((inputs, None), (targets, ignore)):
        for _, tensor in tensors_of(part):
            if _is_whole(tensor) and tensor.dim() and len(tensor) == samples and tensor.numel():
                found |= _ends(tensor.reshape(samples, -1), left_out)
    return sorted(found)


def _ends(values: Tensor, left_out: int | None) -> set[int]:
    """Return the rows of `values` (samples, n) with the smallest and the largest value other than `left_out`."""
    values = values.long() if values.dtype in WIDE else values
    low, high = torch.iinfo(values.dtype).min, torch.iinfo(values.dtype).max
    lowest = highest = values
    if left_out is not None and low <= left_out <= high:
        counted = values != left_out
        lowest, highest = values.where(counted, high), values.where(counted, low)
    return {int(lowest.amin(1).argmin()), int(highest.amax(1).argmax())}


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)


def _counts(task: Task, targets: Any) -> bool:
    """Return whether the losses of a batch with these targets can be divided by what the task counts."""
    with called(f"{type(task).__name__}.count(), called with (targets),", task.count):
        count = task.count(targets)
    return count is None or bool(count > 0)


def _check_count(data: Data, task: Task, split: Split, look: _Look) -> None:
    """Raise ConfigError if no sample of a split counts; warn if none of the first ones does, as later ones may."""
    if look.counts:
        return
    name, whole = f"{type(task).__name__}.count()", look.samples == len(data.split(split))
    got = f"got 0 for {'all' if whole else 'the first'} {look.samples} samples"
    sentence = (
        f"{name} must be above 0 over the {split} split, {got}: look at the targets, and at what the task leaves out"
    )
    if whole:
        raise ConfigError(sentence)
    logger.warning(sentence)


def _check_indices(name: str, model: str, embedding: nn.Embedding, inputs: tuple[Tensor, ...]) -> None:
    """Raise ConfigError for an index that `embedding`, which is called with `inputs`, does not have."""
    if not inputs:  # it is called by keyword
        return
    ids = inputs[0]
    wrong = ids[(ids < 0) | (ids >= embedding.num_embeddings)]
    if len(wrong):
        raise ConfigError(
            f"token {int(wrong[0])} is not in the vocabulary of embedding {name!r} of model {model}, which is 0 to "
            f"{embedding.num_embeddings - 1}: raise the vocabulary in the data's model_arguments or the model's "
            "options, or replace such tokens in the data"
        )


def _try(model: nn.Module, task: Task, split: Split, batch: tuple[Any, Any]) -> None:
    inputs, targets = batch
    with torch.no_grad(), own_randomness():
        try:
            outputs = model_call(model, inputs)
        except ConfigError as error:
            raise ConfigError(f"the {split} split does not fit the model: {error}") from error
        except ERRORS as error:
            raise ConfigError(
                f"model {type(model).__name__} cannot take the {split} samples with the smallest and largest whole "
                f"numbers: {described(error)}"
            ) from error
        try:
            task.loss(outputs, targets)
        except ERRORS as error:
            raise wrong_targets(task, f"the {split} split", targets, error) from error


def wrong_targets(task: Task, where: str, targets: Any, error: BaseException) -> ConfigError:
    """Return the error of a loss that cannot take whole numbers among `targets`; `where` says whose they are."""
    values = [tensor.double() for _, tensor in tensors_of(targets) if tensor.numel()]
    ends = [f"{int(each.min())} to {int(each.max())}" for each in values]
    return ConfigError(
        f"{type(task).__name__}.loss() cannot take the targets of {where}, {', '.join(ends)}: {described(error)}; give "
        "the model an output for each target, or replace such targets in the data"
    )
