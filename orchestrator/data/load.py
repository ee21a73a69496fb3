"""Load the data of an experiment: call its function, complete the `Data` that it returns, and check it once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from orchestrator.data.builtin import BUILTIN
from orchestrator.data.dataset import SPLITS, Data, InBlocks, Samples, Split, fixed_order, is_known, is_tensors
from orchestrator.data.description import describe
from orchestrator.data.reading import collated, prepared, read_sample
from orchestrator.data.sample_checks import check_fields, check_split, indices_of, spread, stated_labels
from orchestrator.data.separate_process import run_apart
from orchestrator.errors import ConfigError, DataError
from orchestrator.lookup import call, lookup, signature_of, takes
from orchestrator.nested import packed, tensors_of, unknown_part, unpacked
from orchestrator.randomness import own_randomness, seed_all
from orchestrator.validate import fraction

_Parts = tuple[list[int], list[int]]  # indices of the given training split that become train and val
WIDE = (torch.uint16, torch.uint32, torch.uint64)  # torch can neither compare nor index by these


def load_data(spec: str, options: Mapping[str, object], *, root: str | None = None) -> Data:
    """Return the data named by a built-in short name or "package.module:function", complete and checked.

    The function is called with the options, and with `root` if it is given. Raises ConfigError for an unknown name,
    options that do not fit or a `root` that its signature does not take, DataError for data that cannot be used.
    """
    function: Callable[..., object] = lookup(spec, BUILTIN, "data")
    if root is not None and not takes(signature_of(function, f"data {spec!r}"), "root"):
        raise ConfigError(
            f"data {spec!r} is not in files: leave --data out, got {root!r}; a function of yours takes it as root"
        )
    made = call(function, f"data {spec!r}", options, {} if root is None else {"root": root}, DataError)
    if not isinstance(made, Data):
        raise ConfigError(f"data {spec!r} must return orchestrator.data.dataset.Data, got {type(made).__name__}")
    return complete(made, spec)


def complete(data: Data, spec: str = "") -> Data:
    """Return `data` with its validation split, example and identity, after a check of every split. Raises DataError."""
    check_fields(data)
    data = dataclasses.replace(
        data,
        train=_as_tensors(data.train),
        val=None if data.val is None else _as_tensors(data.val),
        test=_as_tensors(data.test),
    )
    given = (data.train, data.val, data.test)
    opens_nothing = all(samples is None or is_tensors(samples) or is_known(samples) for samples in given)
    look = functools.partial(_look, spec=spec)
    found = look(data) if opens_nothing else run_apart(look, data, f"data {spec!r}" if spec else "the data")
    data = data if found.parts is None else _divided(data, found.parts)
    train, val, test = (_with_length(data.split(split), found.lengths[split]) for split in SPLITS)
    example = unpacked(found.example)
    return dataclasses.replace(data, train=train, val=val, test=test, identity=found.identity, example=example)


class _Found(NamedTuple):
    """The result of a first look at the samples. `parts` is None if train and val were both given."""

    parts: _Parts | None
    lengths: dict[Split, int]
    identity: str
    example: Any  # its tensors are packed as arrays, because it may come from another process


def _look(data: Data, spec: str) -> _Found:
    """Check every split, and cut validation from train if it is missing."""
    parts, labels = None, check_split(data, "train")
    if data.val is None:
        parts = _cut_validation(data, labels)
        data = _divided(data, parts)
    check_split(data, "val")
    check_split(data, "test")
    lengths = {split: len(data.split(split)) for split in SPLITS}
    example = _example(data) if data.example is None else data.example
    return _Found(parts, lengths, data.identity or _identity(data, spec, example), packed(example))


def _example(data: Data) -> tuple[Any, Any]:
    """Return the batch of the first two samples of `train`, prepared as in evaluation."""
    with own_randomness():
        samples, indices = [], (0, min(1, len(data.train) - 1))
        for index in indices:
            seed_all(index)  # a sample may be augmented when read
            samples.append(read_sample(data, "train", index))
        example = prepared(data, *collated(data, "train", indices, samples), None)
    if (part := unknown_part(example)) is not None:
        raise DataError(
            f"a batch must be tensors in tuples, lists and dicts, got {type(part).__name__}: unpack it in collate, and "
            "put it together in the model"
        )
    return example


def _cut_validation(data: Data, labels: Tensor | None) -> _Parts:
    n = len(data.train)
    cut = round(fraction("val_fraction", data.val_fraction, error=DataError) * n)
    if not 1 <= cut < n:
        raise DataError(f"val_fraction {data.val_fraction} of {n} training samples gives {cut} for validation")
    order = fixed_order(np.zeros(n) if labels is None else labels.cpu().numpy())
    return np.sort(order[cut:]).tolist(), np.sort(order[:cut]).tolist()


def _divided(data: Data, parts: _Parts) -> Data:
    train, val = (_take(data.train, part) for part in parts)
    return dataclasses.replace(data, train=train, val=val)


def _with_length(samples: Samples, length: int) -> Samples:
    """Return the same samples with a known length: a user's `__len__` may open the file in this process."""
    has_user_length = not (
        is_tensors(samples) or is_known(samples) or type(samples) is Subset or isinstance(samples, InBlocks)
    )
    return Subset(cast(Dataset[Any], samples), range(length)) if has_user_length else samples


def _as_tensors(samples: Samples) -> Samples:
    """Turn a Subset of a TensorDataset, as from `random_split`, into a TensorDataset; return anything else as it is."""
    if type(samples) is Subset:
        whole, indices = _as_tensors(cast(Samples, samples.dataset)), indices_of(samples)
        return _take(whole, indices) if is_tensors(whole) else Subset(cast(Dataset[Any], whole), indices)
    if is_tensors(samples) and len(samples.tensors) == 2 and samples.tensors[1].dtype in WIDE:
        return TensorDataset(samples.tensors[0], samples.tensors[1].to(torch.int64))
    return samples


def _take(samples: Samples, indices: list[int]) -> Samples:
    if is_tensors(samples):
        if wrong := [index for index in indices if not -len(samples) <= index < len(samples)]:
            raise DataError(f"the indices of a Subset must be below its {len(samples)} samples, got {wrong[0]}")
        return TensorDataset(*(tensor[indices] for tensor in samples.tensors))
    return Subset(cast(Dataset[Any], samples), indices)


def _identity(data: Data, spec: str, example: tuple[Any, Any]) -> str:
    """Return a sha256 of the samples' tensors; of other data sets one of `spec`, lengths and a few samples."""
    done = [describe(part) for part in (data.prepare, data.collate, data.check)]
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors_of(example)]
    digest = hashlib.sha256(repr((describe(data.model_arguments), done, shapes)).encode())
    for split in SPLITS:
        samples = data.split(split)
        if not is_tensors(samples):
            digest.update(repr((spec, split, len(samples))).encode())
            digest.update(_some_content(data, split))
        for tensor in _tensors(samples):
            digest.update(repr((split, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def _tensors(samples: object) -> Sequence[Tensor]:
    """Return the tensors of a TensorDataset, a subclass of it, or a Subset of one; () for other samples."""
    if isinstance(samples, Subset):
        return [tensor[indices_of(samples)] for tensor in _tensors(samples.dataset)]
    return samples.tensors if isinstance(samples, TensorDataset) else ()


def _some_content(data: Data, split: Split) -> bytes:
    """Return a sha256 of all labels, if the data set states them, and of 16 samples spread evenly over the split."""
    samples = data.split(split)
    digest = hashlib.sha256()
    if (labels := stated_labels(samples)) is not None:
        digest.update(labels.cpu().to(torch.int64).numpy().data.cast("B"))
    with own_randomness():
        for index in spread(len(samples)):
            seed_all(index)  # a sample may be augmented when read
            batch = collated(data, split, [index], [read_sample(data, split, index)])  # a sample may be any object
            digest.update(repr((index, describe(batch))).encode())
    return digest.digest()
