"""What a data set is: labelled images in three splits, completed and checked once when loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.lookup import lookup
from orchestrator.training.apart import apart
from orchestrator.training.checks import (
    KnownSamples,
    check_fields,
    check_split,
    in_memory,
    read_sample,
    spread,
    stated_labels,
)
from orchestrator.training.rng import own_randomness, seed_all
from orchestrator.user_code import ERRORS, described

T = TypeVar("T")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_Parts = tuple[list[int], list[int]]  # indices of the given training split that become train and val


class Samples(Protocol):
    """A map-style data set: torch's Dataset with a length. A sample is (image (C, H, W), label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class InBlocks(Samples, Protocol):
    """Samples that can only be reached a block at a time: they lay out an epoch so that few blocks serve many steps."""

    def shuffled(self, steps: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """A random order (steps, batch_size) of different indices; each column goes through block after block."""
        ...

    def fetch(self, indices: Sequence[int], ahead: Sequence[int]) -> None:
        """Begin to bring the blocks of `indices`, then those of `ahead`, into this process, and drop all others."""
        ...


class Augment(Protocol):
    """Random changes to a batch of training images; the randomness comes from outside, so it can be repeated."""

    @property
    def draws(self) -> int:
        """How many random numbers one image needs."""
        ...

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Change `images` (n, C, H, W), float32 or uint8 as stored, by `u` (n, draws), uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class Data:
    """Labelled images in three splits.

    A TensorDataset(images, labels), but no subclass of it, is kept in the device's memory. Any other data set is read
    by loader processes, and what its `__getitem__` gives out is what counts. They are forked before this process has
    read a sample, so a data set may open its file at the first one; the function that makes it must not read samples.

    Images are float32, or uint8 that become float32 in [0, 1] on the device; `normalize` is a (mean, std) per
    channel applied after that. `val` None is cut from `train` by a seed that never changes, with train's own
    transforms. `augment` works on batches of `train`, on the device. `identity` is what makes the data what it is
    and part of every key; if empty: the content (in memory), or the spec, the lengths, labels and a few samples.

    For whoever uses the network: `labels` names the classes, and `normalized` is the (mean, std) that images in
    [0, 1] went through before they came here. They change nothing in training and are no part of a key.
    """

    train: Samples
    val: Samples | None
    test: Samples
    num_classes: int
    input_shape: tuple[int, int, int]
    augment: Augment | None = None
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    val_fraction: float = 0.1
    identity: str = ""
    labels: tuple[str, ...] = ()
    normalized: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def split(self, name: Split) -> Samples:
        """The samples of a split; `val` exists once `complete` has seen the data."""
        samples: Samples | None = getattr(self, name)
        if samples is None:
            raise ValueError("the validation split is not cut yet: pass the data through load_data or complete")
        return samples


def load_data(spec: str, options: Mapping[str, object], *, root: str | None = None) -> Data:
    """The data named by a built-in short name or "package.module:function", complete and checked.

    The function is called with the options, and with `root` if one is given. Raises ConfigError for an unknown name,
    options that do not fit or a `root` that its signature does not take, DataError for data that cannot be used.
    """
    from orchestrator.training.datasets import BUILTIN  # here, because it imports this file

    function: Callable[..., object] = lookup(spec, BUILTIN, "data")
    if root is not None and not _takes(_signature(function, f"data {spec!r}"), "root"):
        raise ConfigError(f"data {spec!r} takes no root: leave --data out, got {root!r}")
    made = call(function, f"data {spec!r}", options, {} if root is None else {"root": root}, DataError)
    if not isinstance(made, Data):
        raise ConfigError(f"data {spec!r} must return orchestrator.training.data.Data, got {type(made).__name__}")
    return complete(made, spec)


def complete(data: Data, spec: str = "") -> Data:
    """`data` with its validation split and its identity, every split checked. Raises DataError."""
    check_fields(data)
    data = dataclasses.replace(
        data,
        train=_as_tensors(data.train),
        val=None if data.val is None else _as_tensors(data.val),
        test=_as_tensors(data.test),
    )
    given = (data.train, data.val, data.test)
    opens_nothing = all(samples is None or in_memory(samples) or isinstance(samples, KnownSamples) for samples in given)
    look = partial(_look, spec=spec)
    parts, identity = look(data) if opens_nothing else apart(look, data, f"data {spec!r}" if spec else "the data")
    return dataclasses.replace(data if parts is None else _divided(data, parts), identity=identity)


def _look(data: Data, spec: str) -> tuple[_Parts | None, str]:
    """Check every split; return what becomes training and validation, None if both were given, and the identity."""
    parts, labels = None, check_split(data, "train")
    if data.val is None:
        parts = _cut_validation(data, labels)
        data = _divided(data, parts)
    check_split(data, "val")
    check_split(data, "test")
    return parts, data.identity or _identity(data, spec)


def call(
    function: Callable[..., T],
    what: str,
    options: Mapping[str, object],
    offered: Mapping[str, object],
    failure: type[OrchestratorError],
) -> T:
    """`function(**options)`, with those of `offered` that its signature takes.

    Raises ConfigError if the options do not fit the signature, `failure` if the function itself fails.
    """
    if clash := sorted(options.keys() & offered.keys()):
        raise ConfigError(f"the options of {what} must not hold {', '.join(clash)}: it is given already")
    signature = _signature(function, what)
    accepted = {k: v for k, v in offered.items() if _takes(signature, k)}
    try:
        signature.bind(**options, **accepted)
    except TypeError as error:
        names = ", ".join(signature.parameters) or "no options"
        raise ConfigError(f"{what} does not fit the options {dict(options)} ({error}): it takes {names}") from None
    try:
        return function(**options, **accepted)
    except OrchestratorError:
        raise
    except ERRORS as error:
        raise failure(f"{what} failed: {described(error)}") from error


def _signature(function: Callable[..., object], what: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:
        raise ConfigError(f"{what} must be a function written in Python, whose parameters can be known") from None


def _takes(signature: inspect.Signature, name: str) -> bool:
    return name in signature.parameters or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def fixed_order(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A fixed shuffle of range(n) that spreads every class evenly, so cutting it anywhere gives stratified parts."""
    shuffled = np.random.RandomState(0).permutation(len(labels))  # numpy promises this stream for ever
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, counts)
    order: np.ndarray[Any, Any] = by_class[np.argsort((rank + 0.5) / np.repeat(counts, counts), kind="stable")]
    return order


def _cut_validation(data: Data, labels: Tensor | None) -> _Parts:
    n = len(data.train)
    fraction: object = data.val_fraction
    if not (isinstance(fraction, int | float) and math.isfinite(fraction)):
        raise DataError(f"val_fraction must be a number in (0, 1), got {fraction!r}")
    cut = round(fraction * n)
    if not 1 <= cut < n:
        raise DataError(f"val_fraction {data.val_fraction} of {n} training samples gives {cut} for validation")
    order = fixed_order(np.zeros(n) if labels is None else labels.cpu().numpy())
    return np.sort(order[cut:]).tolist(), np.sort(order[:cut]).tolist()


def _divided(data: Data, parts: _Parts) -> Data:
    train, val = (_take(data.train, part) for part in parts)
    return dataclasses.replace(data, train=train, val=val)


def _as_tensors(samples: Samples) -> Samples:
    """A part of a TensorDataset, as `random_split` gives it, as a TensorDataset; anything else as it is."""
    if type(samples) is Subset:
        whole = _as_tensors(cast(Samples, samples.dataset))
        return _take(whole, list(samples.indices)) if in_memory(whole) else samples
    return samples


def _take(samples: Samples, indices: list[int]) -> Samples:
    if in_memory(samples):
        return TensorDataset(*(tensor[indices] for tensor in samples.tensors))
    return Subset(cast(Dataset[Any], samples), indices)


def _identity(data: Data, spec: str) -> str:
    """sha256 of the tensors that samples are made of; where `__getitem__` decides, also of `spec` and a few samples."""
    augment = data.augment
    done = repr(augment) if dataclasses.is_dataclass(augment) else type(augment).__qualname__
    digest = hashlib.sha256(repr((data.num_classes, data.input_shape, data.normalize, done)).encode())
    for split in SPLITS:
        samples = data.split(split)
        if not in_memory(samples):
            digest.update(repr((spec, split, len(samples))).encode())
            digest.update(_some_content(data, split))
        for tensor in _tensors(samples):
            digest.update(repr((split, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def _tensors(samples: object) -> Sequence[Tensor]:
    """The tensors of a TensorDataset, of a subclass, or of a part of one; none of other samples."""
    if isinstance(samples, Subset):
        return [tensor[torch.as_tensor(samples.indices)] for tensor in _tensors(samples.dataset)]
    return samples.tensors if isinstance(samples, TensorDataset) else ()


def _some_content(data: Data, split: Split) -> bytes:
    """sha256 of all labels where they are stated, and of 16 samples spread evenly over the split."""
    samples = data.split(split)
    digest = hashlib.sha256()
    if (labels := stated_labels(samples)) is not None:
        digest.update(labels.cpu().to(torch.int64).numpy().data.cast("B"))
    with own_randomness():
        for index in spread(len(samples)):
            seed_all(index)  # a sample may be augmented when read
            image, label = read_sample(data, split, index)
            digest.update(repr((index, label, tuple(image.shape))).encode())
            digest.update(image.contiguous().numpy().data.cast("B"))
    return digest.digest()
