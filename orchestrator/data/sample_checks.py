"""What data must be like: one sentence for each way in which a split, a label or a sample can be wrong."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset, TensorDataset

from orchestrator.data.dataset import SPLITS, Data, Samples, Split, is_known
from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.randomness import own_randomness
from orchestrator.user_code import ERRORS, called, described
from orchestrator.validate import finite, tuple_of, whole


def read_sample(data: Data, split: Split, index: int) -> tuple[Tensor, int]:
    """One checked sample. Raises DataError naming split, index, file (where known) and what is wrong.

    An OrchestratorError of the samples themselves says enough, and passes as it is.
    """
    samples = data.split(split)
    try:
        sample = samples[index]
    except OrchestratorError:
        raise
    except ERRORS as error:
        raise DataError(f"{_name(samples, split, index)} cannot be read: {described(error)}") from error
    if not (isinstance(sample, tuple | list) and len(sample) == 2):
        got = f"{type(sample).__name__} of {len(sample)}" if isinstance(sample, tuple | list) else type(sample).__name__
        raise DataError(f"{_name(samples, split, index)} must be a pair (image, label), got {got}")
    image, label = sample
    if not isinstance(image, Tensor) or image.dtype not in (torch.float32, torch.uint8):
        got = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
        raise DataError(f"{_name(samples, split, index)} must be a float32 or uint8 tensor, got {got}")
    _check_dense(_name(samples, split, index), image)
    if tuple(image.shape) != data.input_shape:
        raise DataError(f"{_name(samples, split, index)} must have shape {data.input_shape}, got {tuple(image.shape)}")
    try:
        number = operator.index(label)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < data.num_classes:
        value = label.item() if isinstance(label, Tensor) and label.numel() == 1 else label
        rule = f"must be an integer in [0, {data.num_classes}), got {value!r}"
        raise DataError(f"the label of {_name(samples, split, index)} {rule}")
    return image, number


def check_fields(data: Data) -> None:
    """Raise DataError, or ConfigError, if a field of `data` cannot be used. Read no sample, and ask for no length."""
    for split in SPLITS:
        samples: object = getattr(data, split)
        if split == "val" and samples is None:
            continue
        if isinstance(samples, IterableDataset) or not hasattr(samples, "__len__"):
            got = type(samples).__name__
            raise DataError(f"the {split} split must be a map-style Dataset with a length, got {got}")
        while type(samples) is Subset:
            samples = samples.dataset
        if in_memory(samples):
            for tensor in samples.tensors:
                _check_dense(f"each tensor of the {split} split", tensor)
    whole("num_classes", data.num_classes, minimum=1, error=DataError)
    shape: object = data.input_shape
    if not (isinstance(shape, tuple) and len(shape) == 3):
        raise DataError(f"input_shape must be a tuple (channels, height, width), got {shape!r}")
    tuple_of("input_shape", shape, partial(whole, minimum=1, error=DataError))
    if data.labels and len(data.labels) != data.num_classes:
        raise DataError(f"labels must name all {data.num_classes} classes or none, got {len(data.labels)} names")
    augment: Any = data.augment
    if augment is not None:
        name = getattr(augment, "__name__", type(augment).__name__)
        with called(f"draws of augment {name}"):
            draws: object = getattr(augment, "draws", None)
        if not (callable(augment) and isinstance(draws, int) and not isinstance(draws, bool) and draws >= 0):
            raise DataError(f"augment must be callable and have a whole number `draws`, got {name} with {draws!r}")
    if data.normalize and data.normalized:
        raise DataError("normalize and normalized must not both be given: images are normalized before or here")
    for name, value in (("normalize", data.normalize), ("normalized", data.normalized)):
        if value is not None:
            mean, std = tuple_of(name, value, lambda _, numbers: numbers, length=2, error=DataError)
            number = partial(finite, error=DataError)
            tuple_of(f"mean of {name}", mean, number, length=shape[0], error=DataError)
            tuple_of(f"std of {name}", std, partial(number, above=0), length=shape[0], error=DataError)


def check_size(split: Split, samples: Samples) -> None:
    """Raise DataError unless `samples` is not empty."""
    if len(samples) == 0:
        raise DataError(f"the {split} split must hold at least one sample, got none")


def check_split(data: Data, split: Split) -> Tensor | None:
    """Check what can be known of a split without reading every sample: labels, tensors, some samples.

    Return its labels (n,) where they are known, or stated and equal to those of the samples read. Raises DataError.
    """
    samples = data.split(split)
    check_size(split, samples)
    if in_memory(samples):
        _check_tensors(split, samples)
    labels, places = stated_labels(samples), [0]
    if labels is not None:
        outside = ((labels < 0) | (labels >= data.num_classes)).nonzero().flatten()
        more = [] if known_labels(samples) is not None else spread(len(samples))
        places = [*outside[:1].tolist(), *places, *more]
    with own_randomness():
        given = [read_sample(data, split, place) for place in places]
        if split == "train" and data.augment:
            _check_augment(data, given[0][0])
    return labels if labels is not None and labels[places].tolist() == [label for _, label in given] else None


def in_memory(samples: object) -> TypeGuard[TensorDataset]:
    """Whether `samples` gives out its tensors as they are: a subclass may change what it gives out."""
    return type(samples) is TensorDataset


def known_labels(samples: object) -> Tensor | None:
    """All labels (n,) where it is certain, without reading a sample, that `samples` gives out these."""
    if in_memory(samples):
        return samples.tensors[1]
    if type(samples) is Subset:
        whole = known_labels(samples.dataset)
        return None if whole is None else whole[indices_of(samples)]
    return samples.targets if is_known(samples) else None


def stated_labels(samples: object) -> Tensor | None:
    """The known labels (n,), or those that a data set states in `targets` or its tensors; it may give out others."""
    if (known := known_labels(samples)) is not None:
        return known
    if type(samples) is Subset:
        whole = stated_labels(samples.dataset)
        return None if whole is None else whole[indices_of(samples)]
    if getattr(samples, "target_transform", None) is not None:
        return None  # torchvision's `targets` are the labels before that transform
    try:
        stated = samples.tensors[1] if isinstance(samples, TensorDataset) else samples.targets  # type: ignore[attr-defined]
        labels = torch.as_tensor(stated)
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):
        return None
    if labels.is_floating_point() or labels.is_complex() or labels.shape != (len(samples),):  # type: ignore[arg-type]
        return None
    return labels.to(torch.int64)  # torch compares no unsigned integers of more than 8 bits


def indices_of(part: Subset[Any]) -> list[int]:
    """Return the indices of a part as plain numbers. Raises DataError if they are something else."""
    given: Any = part.indices
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError
        return list(map(operator.index, values))
    except TypeError:
        kinds = ", ".join(sorted({type(value).__name__ for value in values})) if isinstance(values, list) else values
        raise DataError(f"the indices of a Subset must be a list of whole numbers, got {kinds}") from None


def spread(n: int, count: int = 16) -> list[int]:
    """Up to `count` indices, evenly spread over range(n)."""
    places: list[int] = torch.linspace(0, n - 1, min(count, n)).long().tolist()
    return places


def _check_tensors(split: Split, samples: TensorDataset) -> None:
    if len(samples.tensors) != 2:
        raise DataError(f"the {split} split must hold (images, labels), got {len(samples.tensors)} tensor(s)")
    images, labels = samples.tensors
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(f"the labels of the {split} split must be integers of shape (n,), got {got}")
    if images.is_floating_point() and not (finite := torch.isfinite(images)).all():
        index = int((~finite).flatten(1).any(1).nonzero()[0])
        raise DataError(f"{split} sample {index} must hold finite numbers only, got NaN or infinity")


def _check_dense(what: str, tensor: Tensor) -> None:
    if tensor.layout is not torch.strided:
        raise DataError(f"{what} must be dense, got {tensor.layout}: call to_dense() on it")


def _check_augment(data: Data, image: Tensor) -> None:
    """Raise ConfigError unless `data.augment` turns two such images into two that the model and `normalize` expect."""
    augment = data.augment
    assert augment is not None  # which the caller has seen
    what = f"augment {getattr(augment, '__name__', type(augment).__name__)}"
    with called(f"{what}, called with (images, u),", augment):
        result: object = augment(torch.stack([image, image]), torch.rand((2, augment.draws)))
    shape = (2, *data.input_shape)
    if not (
        isinstance(result, Tensor)
        and result.shape == shape
        and (result.dtype == image.dtype or result.is_floating_point())
    ):
        got = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ConfigError(
            f"{what} must turn {image.dtype} images of shape {shape} into images of the same shape and dtype, or "
            f"floating point, got {got}"
        )


def _name(samples: Any, split: Split, index: int) -> str:
    """As "train sample 7 (/data/train/cat/7.jpg)"; the file is known for torchvision's folders and our own."""
    source: Any = samples
    place = index
    while isinstance(source, Subset):
        place, source = int(source.indices[place]), source.dataset
    try:
        file = source.file_of(place) if hasattr(source, "file_of") else source.samples[place][0]
    except (AttributeError, LookupError, TypeError):
        return f"{split} sample {index}"
    return f"{split} sample {index} ({file})"
