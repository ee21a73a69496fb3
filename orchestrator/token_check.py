"""Try the samples with the smallest and largest whole numbers: a token beyond the vocabulary fails before training."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.dataset import SPLITS, Data, Split, is_known, is_tensors
from orchestrator.data.reading import collated, prepared, read_sample
from orchestrator.data.sample_checks import are_labels
from orchestrator.data.separate_process import run_apart
from orchestrator.errors import ConfigError
from orchestrator.modules import model_call
from orchestrator.nested import mapped, packed, tensors_of, unpacked
from orchestrator.randomness import own_randomness, seed_all
from orchestrator.task import Task
from orchestrator.user_code import ERRORS, described

FIRST_SAMPLES = 256  # looked at in each split that is not in memory


def check_tokens(model: nn.Module, data: Data, task: Task) -> None:
    """Raise ConfigError if an embedding of `model`, or the loss of `task`, cannot take a whole number of the data.

    All samples in memory are looked at, and the first ones of other data sets if the model has an embedding.
    """
    embeddings = {name: part for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    was_training = model.training
    hooks = [
        part.register_forward_pre_hook(partial(_check_indices, name, type(model).__name__))
        for name, part in embeddings.items()
    ]
    try:
        for split in SPLITS:
            batch = _extremes(data, split, bool(embeddings))
            if batch is not None:
                _try(model.eval(), task, split, batch)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)


def _extremes(data: Data, split: Split, has_embeddings: bool) -> tuple[Any, Any] | None:
    """Return a batch of the samples with the smallest and largest whole numbers; None if there is nothing to see."""
    if (memory := data.in_memory(split)) is not None:
        inputs, targets = memory.tensors
        if not has_embeddings and targets.dim() == 1:  # classes, which the data's own checks know
            return None
        if are_labels(targets) and targets.dtype is not torch.bool:
            targets = targets.to(torch.int64)  # as training gets them
        places = _places((inputs, targets) if has_embeddings else targets, len(memory))
        found = (inputs[places], targets[places]) if places else None
    elif has_embeddings:
        samples = data.split(split)
        opens_nothing = is_tensors(samples) or is_known(samples)
        look = partial(_first_extremes, split=split)
        found = unpacked(look(data) if opens_nothing else run_apart(look, data, f"the {split} split"))
    else:
        return None
    if found is None:
        return None
    with own_randomness():
        return prepared(data, *found, None)


def _first_extremes(data: Data, split: Split) -> Any:
    """Return the batch of extremes among the first samples, packed for another process, or None."""
    count = min(FIRST_SAMPLES, len(data.split(split)))
    with own_randomness():
        read = []
        for index in range(count):
            seed_all(index)  # a sample may be augmented when it is read
            read.append(read_sample(data, split, index))
        batch = collated(data, split, range(count), read)
    places = _places(batch, count)
    return packed(mapped(lambda tensor: tensor[places] if tensor.dim() else tensor, batch)) if places else None


def _places(batch: Any, samples: int) -> list[int]:
    """Return the samples that hold the smallest or the largest value of a tensor of whole numbers."""
    found = set()
    for _, tensor in tensors_of(batch):
        whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
        if whole and tensor.dim() and len(tensor) == samples and tensor.numel():
            values = tensor.reshape(samples, -1)
            found |= {int(values.amax(1).argmax()), int(values.amin(1).argmin())}
    return sorted(found)


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
            ends = [f"{int(tensor.min())} to {int(tensor.max())}" for _, tensor in tensors_of(targets)]
            raise ConfigError(
                f"{type(task).__name__}.loss() cannot take the targets of the {split} split, {', '.join(ends)}: "
                f"{described(error)}; give the model an output for each target, or replace such targets in the data"
            ) from error
