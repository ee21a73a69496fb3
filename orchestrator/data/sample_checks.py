"""Check splits and labels, with one sentence for each way in which they can be wrong."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset, TensorDataset

from orchestrator.data.dataset import SPLITS, Data, Samples, Split, is_known, is_tensors
from orchestrator.data.reading import collated, prepared, read_sample
from orchestrator.errors import DataError
from orchestrator.nested import kind_of
from orchestrator.randomness import own_randomness
from orchestrator.validate import whole


def check_fields(data: Data) -> None:
    """Raise DataError if a field of `data` cannot be used, without reading a sample or a length."""
    for split in SPLITS:
        samples: object = getattr(data, split)
        if split == "val" and samples is None:
            continue
        if isinstance(samples, IterableDataset) or not hasattr(samples, "__len__"):
            got = type(samples).__name__
            raise DataError(f"the {split} split must be a map-style Dataset with a length, got {got}")
        while type(samples) is Subset:
            samples = samples.dataset
        if is_tensors(samples):
            for tensor in samples.tensors:
                if tensor.layout is not torch.strided:
                    raise DataError(
                        f"each tensor of the {split} split must be dense, got {tensor.layout}: call to_dense() on it"
                    )
    arguments: object = data.model_arguments
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise DataError(f"model_arguments must be a dict of arguments by name, got {arguments!r:.200}")
    for name in ("collate", "check", "prepare"):
        if getattr(data, name) is not None and not callable(getattr(data, name)):
            raise DataError(f"{name} must be None or callable, got {getattr(data, name)!r:.200}")
    if data.example is not None and not (isinstance(data.example, tuple) and len(data.example) == 2):
        raise DataError(f"example must be None or a tuple (inputs, targets), got {kind_of(data.example)}")
    if data.prepare is not None:
        draws: object = getattr(data.prepare, "draws", None)
        name = getattr(data.prepare, "__name__", type(data.prepare).__name__)
        whole(f"draws of prepare {name}", draws, minimum=0, error=DataError)


def check_size(split: Split, samples: Samples) -> None:
    """Raise DataError if `samples` is empty."""
    if len(samples) == 0:
        raise DataError(f"the {split} split must hold at least one sample, got none")


def check_split(data: Data, split: Split) -> Tensor | None:
    """Check a split without reading every sample: its labels, its tensors and some samples. Raises DataError.

    Return its labels (n,) if they are known, or stated and equal to those of the samples read; else None.
    """
    samples = data.split(split)
    check_size(split, samples)
    _check_tensors(data, split)
    labels, places = stated_labels(samples), [0]
    if labels is not None:
        more = [] if known_labels(samples) is not None else spread(len(samples))
        places = [*_outside(data, split, labels), *places, *more]
    with own_randomness():
        given = [read_sample(data, split, place) for place in places]
        inputs, targets = collated(data, split, [0, 0], [given[0], given[0]])
        if split == "train" and data.prepare is not None:
            prepared(data, inputs, targets, torch.rand((2, data.prepare.draws)))
    return labels if labels is not None and [_label(sample) for sample in given] == labels[places].tolist() else None


def _label(sample: Any) -> Any:
    """Return the label of a sample (input, label), or None."""
    label = sample[1] if isinstance(sample, tuple | list) and len(sample) == 2 else None
    return label.item() if isinstance(label, Tensor) and label.numel() == 1 else label


def _outside(data: Data, split: Split, labels: Tensor) -> list[int]:
    """Return the place of a label that belongs to no class, so that reading its sample says so. Raises DataError."""
    classes = data.model_arguments.get("num_classes")
    if not isinstance(classes, int):
        return []
    outside: list[int] = ((labels < 0) | (labels >= classes)).nonzero().flatten()[:1].tolist()
    if outside and data.check is None and is_tensors(data.split(split)):
        raise DataError(
            f"{split} sample {outside[0]} must have as its target an integer in [0, {classes}), the num_classes of "
            f"model_arguments, got {labels[outside[0]].item()}"
        )
    return outside


def known_labels(samples: object) -> Tensor | None:
    """Return all labels (n,) if they are certain without reading a sample, else None."""
    if is_tensors(samples):
        labels = samples.tensors[1] if len(samples.tensors) > 1 else None
        return labels if labels is not None and are_labels(labels) else None
    if type(samples) is Subset:
        whole = known_labels(samples.dataset)
        return None if whole is None else whole[indices_of(samples)]
    return samples.targets if is_known(samples) else None


def stated_labels(samples: object) -> Tensor | None:
    """Return the known labels (n,), or those in `targets` or the tensors of a data set, else None.

    The samples of a data set may have other labels than it states.
    """
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
    if not are_labels(labels) or len(labels) != len(samples):  # type: ignore[arg-type]
        return None
    return labels.to(torch.int64)  # torch cannot compare unsigned integers of more than 8 bits


def are_labels(labels: Tensor) -> bool:
    """Return whether `labels` are whole numbers, or True and False, of shape (n,)."""
    return labels.dim() == 1 and not labels.is_floating_point() and not labels.is_complex()


def dtype_in_training(targets: Tensor) -> torch.dtype:
    """Return the type in which training gets the targets of a split in memory: int64 for classes, else their own."""
    is_class = are_labels(targets) and targets.dtype is not torch.bool  # which a user's loss may read as they are
    return torch.int64 if is_class else targets.dtype


def indices_of(part: Subset[Any]) -> list[int]:
    """Return the indices of a Subset as ints. Raises DataError unless they are whole numbers."""
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
    """Return up to `count` indices, evenly spread over range(n)."""
    places: list[int] = torch.linspace(0, n - 1, min(count, n)).long().tolist()
    return places


def _check_tensors(data: Data, split: Split) -> None:
    """Raise DataError for faults of tensors in memory that the samples read would not show."""
    samples = data.split(split)
    if not is_tensors(samples):
        return
    if data.collate is None and len(samples.tensors) != 2:
        raise DataError(
            f"the {split} split must hold two tensors, inputs and targets, unless the data has a collate, got "
            f"{len(samples.tensors)}"
        )
    for tensor in samples.tensors:
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
            index = int((~finite).flatten(1).any(1).nonzero()[0]) if tensor.dim() > 1 else int((~finite).nonzero()[0])
            raise DataError(f"{split} sample {index} must hold finite numbers only, got NaN or infinity")
    check_tensors = getattr(data.check, "check_tensors", None)
    if check_tensors is not None:
        try:
            check_tensors(samples)
        except ValueError as error:
            raise DataError(f"the {split} split {error}") from error
