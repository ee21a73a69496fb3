"""Read samples and make batches of them, with one sentence for each way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Subset, default_collate

from orchestrator.data.dataset import Data, Split
from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.nested import kind_of, tensors_of, unknown_part
from orchestrator.user_code import ERRORS, called, described


def read_sample(data: Data, split: Split, index: int) -> Any:
    """Read and check one sample. Raises DataError that names split, index, file (if known) and the reason.

    An OrchestratorError of the samples themselves is raised unchanged.
    """
    samples = data.split(split)
    try:
        sample = samples[index]
    except OrchestratorError:
        raise
    except ERRORS as error:
        raise DataError(f"{name_of_sample(samples, split, index)} cannot be read: {described(error)}") from error
    if data.check is not None:
        try:
            return data.check(sample)
        except ValueError as error:
            raise DataError(f"{name_of_sample(samples, split, index)} {error}") from error
        except ERRORS as error:
            raise DataError(f"{name_of_sample(samples, split, index)} cannot be checked: {described(error)}") from error
    if data.collate is None and not (isinstance(sample, tuple | list) and len(sample) == 2):
        raise DataError(
            f"{name_of_sample(samples, split, index)} must be a pair (input, target) unless the data has a collate, "
            f"got {kind_of(sample)}"
        )
    return sample


def collated(data: Data, split: Split, indices: Sequence[int], samples: list[Any]) -> tuple[Any, Any]:
    """Collate the samples `indices` into a batch (inputs, targets).

    Raises DataError, with the user's line, if that fails, for a batch of another number of samples, and for one that
    holds NaN.
    """
    collate = data.collate or default_collate
    what = f"collate {getattr(collate, '__name__', type(collate).__name__)}"
    try:
        batch = collate(samples)
    except OrchestratorError:
        raise
    except ERRORS as error:
        raise DataError(f"{what} failed on {len(samples)} samples of {split}: {described(error, collate)}") from error
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise DataError(f"{what} must return a pair (inputs, targets), got {kind_of(batch)}")
    _check_count(what, len(samples), split, (batch[0], batch[1]))
    _check_finite(data, split, indices, (batch[0], batch[1]))
    return batch[0], batch[1]


def _check_count(what: str, count: int, split: Split, batch: tuple[Any, Any]) -> None:
    """Raise DataError unless every tensor of a batch holds `count` samples: others would be left out of each figure."""
    if unknown_part(batch) is not None:  # has an error of its own
        return
    for name, tensor in tensors_of(batch):
        if tensor.dim() and len(tensor) != count:
            way_out = "put samples first in collate" if count in tensor.shape else "leave some out in the data set"
            raise DataError(
                f"{what} must return as many samples as it is given, first in every tensor of (inputs, targets), got "
                f"{name} of shape {tuple(tensor.shape)} for {count} samples of {split}: {way_out}"
            )


def _check_finite(data: Data, split: Split, indices: Sequence[int], batch: tuple[Any, Any]) -> None:
    """Raise DataError if inputs hold NaN, or targets hold NaN or infinity; infinite inputs may be a mask of attention.

    The error names the sample if the first dimension of the tensor counts samples.
    """
    for what, part in zip(("inputs", "targets"), batch, strict=True):
        for _, tensor in tensors_of(part):
            if not tensor.is_floating_point():
                continue
            wrong = tensor.isnan() if what == "inputs" else ~tensor.isfinite()
            if not wrong.any():
                continue
            value = tensor[wrong][0].item()
            place = int(wrong.nonzero()[0, 0]) if tensor.dim() and len(tensor) == len(indices) else 0
            where = name_of_sample(data.split(split), split, indices[place])
            if tensor.dim() == 0 or len(tensor) != len(indices):
                where = f"a batch of {len(indices)} samples, of which {where} is the first,"
            raise DataError(
                f"{where} must have finite {what}, got {value}: leave such samples out, or replace the value"
            )


def prepared(data: Data, inputs: Any, targets: Any, u: Tensor | None) -> tuple[Any, Any]:
    """Apply `data.prepare` to a batch. Raises ConfigError, with the user's line, if that fails."""
    prepare = data.prepare
    if prepare is None:
        return inputs, targets
    what = f"prepare {getattr(prepare, '__name__', type(prepare).__name__)}"
    with called(f"{what}, called with (inputs, targets, u),", prepare):
        batch: Any = prepare(inputs, targets, u)
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ConfigError(f"{what} must return a pair (inputs, targets), got {kind_of(batch)}")
    return batch[0], batch[1]


def name_of_sample(samples: Any, split: Split, index: int) -> str:
    """Name a sample, as in "train sample 7 (/data/train/cat/7.jpg)".

    The file is known for torchvision's folders and our own.
    """
    source: Any = samples
    place = index
    while isinstance(source, Subset):
        place, source = int(source.indices[place]), source.dataset
    try:
        file = source.file_of(place) if hasattr(source, "file_of") else source.samples[place][0]
    except (AttributeError, LookupError, TypeError):
        return f"{split} sample {index}"
    return f"{split} sample {index} ({file})"
