"""Define what data is: samples in three splits, how they become batches, and what a model needs to know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Samples(Protocol):
    """A map-style data set: torch's Dataset with a length. A sample is (input, target), or what `collate` takes."""

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


class Prepare(Protocol):
    """Change batches on the device, such as by augmentation and normalisation; a frozen dataclass is told apart best.

    Randomness comes from outside, so that it can be repeated.
    """

    @property
    def draws(self) -> int:
        """How many random numbers a training sample needs."""
        ...

    def __call__(self, inputs: Any, targets: Any, u: Tensor | None) -> tuple[Any, Any]:
        """Return the batch as the model and the task take it. `u` (n, draws), uniform in [0, 1), only in training."""
        ...


@dataclass(frozen=True)
class About:
    """What is written into exported files, for those who use the network; it changes nothing in training.

    `labels`: names of the classes. `mean`, `std`: what samples were normalised by, for each channel.
    """

    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Data:
    """Samples in three splits. `image_data` makes one of labelled images.

    A batch is (inputs, targets), any nesting of tensors whose first dimension counts samples. `collate` makes it of a
    list of samples; without it samples are pairs, stacked by torch's `default_collate`. The model is called with the
    inputs: a tensor, a tuple of arguments, or a dict of named ones.

    A TensorDataset(inputs, targets), but no subclass of it, is kept in the device's memory if there is no `collate`.
    Any other data set is read by loader processes, and what its `__getitem__` gives out is what counts. They are
    forked before this process has read a sample or asked for a length, so a data set may open its file then; the
    function that makes it must not.

    `val` None is cut from `train` by a seed that never changes. `model_arguments`: what the model's function is called
    with, by name, as far as it takes it: num_classes, vocabulary, ... `prepare` works on batches on the device. `check`
    is called with every sample that is read and returns it as `collate` takes it; it raises ValueError for one that
    cannot be used. `example`: a batch (inputs, targets) of two samples, as the model takes it; None: the first two of
    `train`. It serves to trace the model, count its operations, and export it. `identity` is what makes the data what
    it is and part of every key; if empty: the content (in memory), or the spec, the lengths, labels and a few samples.
    """

    train: Samples
    val: Samples | None
    test: Samples
    example: tuple[Any, Any] | None = None
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    collate: Callable[[list[Any]], tuple[Any, Any]] | None = None
    prepare: Prepare | None = None
    check: Callable[[Any], Any] | None = None
    about: About = About()
    val_fraction: float = 0.1
    identity: str = ""

    def split(self, name: Split) -> Samples:
        """The samples of a split; `val` exists once `complete` has seen the data."""
        samples: Samples | None = getattr(self, name)
        if samples is None:
            raise ValueError("the validation split is not cut yet: pass the data through load_data or complete")
        return samples

    def in_memory(self, name: Split) -> TensorDataset | None:
        """Return the tensors of a split that is kept in the device's memory, else None."""
        samples = self.split(name)
        return samples if is_tensors(samples) and self.collate is None else None

    @property
    def inputs(self) -> Any:
        """The inputs of `example`, which exists once `complete` has seen the data."""
        if self.example is None:
            raise ValueError("there is no example yet: pass the data through load_data or complete")
        return self.example[0]


def is_tensors(samples: object) -> TypeGuard[TensorDataset]:
    """Whether `samples` gives out its tensors as they are: a subclass may change what it gives out."""
    return type(samples) is TensorDataset


class KnownSamples(Dataset[tuple[Tensor, int]]):
    """Base of the samples of this package (see `is_known`).

    They give out `targets` as their labels, and keep nothing open that would be shared with forked processes.
    """

    targets: Tensor


def is_known(samples: object) -> TypeGuard[KnownSamples]:
    """Whether `samples` keeps what `KnownSamples` promises: a subclass of a class of this package may not."""
    return KnownSamples in type(samples).__bases__


def fixed_order(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A fixed shuffle of range(n) that spreads every class evenly, so cutting it anywhere gives stratified parts."""
    shuffled = np.random.RandomState(0).permutation(len(labels))  # numpy promises this stream for ever
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, counts)
    order: np.ndarray[Any, Any] = by_class[np.argsort((rank + 0.5) / np.repeat(counts, counts), kind="stable")]
    return order
