"""Define `Data`: samples in three splits, how they become batches, and the arguments that a model takes from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Samples(Protocol):
    """A map-style data set: torch's Dataset with a length. A sample is (input, target), or an input of `collate`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class InBlocks(Samples, Protocol):
    """Samples that are read a block at a time, and shuffled so that few blocks serve many steps."""

    def shuffled(self, steps: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return distinct indices (steps, batch_size) in random order; each column reads one block after another."""
        ...

    def fetch(self, indices: Sequence[int], ahead: Sequence[int]) -> None:
        """Start to read the blocks of `indices`, then of `ahead`, into this process, and drop all others."""
        ...


class Augmenting(Samples, Protocol):
    """Samples whose `__getitem__` changes them at random, and that say how they are without."""

    def unaugmented(self) -> Samples:
        """Return the same samples in the same order, without random changes."""
        ...


class Prepare(Protocol):
    """Change batches on the device, for example by augmentation and normalisation.

    The random numbers are passed in, so that they do not depend on the number of workers. Numbers drawn from the global
    generators of torch, random and numpy follow from the seeds of the step and the worker. Use a frozen dataclass: its
    fields go into the key.
    """

    @property
    def draws(self) -> int:
        """Return how many random numbers a training sample needs."""
        ...

    def __call__(self, inputs: Any, targets: Any, u: Tensor | None) -> tuple[Any, Any]:
        """Return the batch as the model and the task take it. `u` (n, draws) in [0, 1); None outside training."""
        ...


@dataclass(frozen=True)
class About:
    """Facts for the users of the network, written into exported files; they change nothing in training.

    `labels`: names of the classes. `mean`, `std`: the normalisation of samples, one value per channel.
    """

    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Data:
    """Samples in three splits. `image_data` makes one from labelled images.

    A batch is (inputs, targets), any nesting of tensors whose first dimension counts samples. `collate` turns a list
    of samples into a batch; without it samples are pairs, stacked by torch's `default_collate`. The model is called
    with the inputs: a tensor, a tuple of arguments, or a dict of named ones.

    A TensorDataset(inputs, targets) is kept in the device's memory, unless it is a subclass or `collate` is given.
    Loader processes read any other data set by its `__getitem__`. If that augments, give the data set a method
    `unaugmented()` (see `Augmenting`): a search calibrates on such samples, and takes them as they come without it.
    The processes are forked before this process has read a sample or asked for a length. So a data set may open its
    file at the first sample; the function that makes it must not.

    - `val`: if None, cut from `train` by a seed that never changes.
    - `model_arguments`: arguments of the model's function by name, such as num_classes or vocabulary. The function
      gets those that it takes.
    - `prepare`: works on batches on the device.
    - `check`: is called with every sample that is read. It returns the sample for `collate`, or raises ValueError.
    - `example`: a batch (inputs, targets) of two samples, as the model takes it, to trace, count and export the model.
      If None, the first two samples of `train`.
    - `identity`: stands for the data in every key. If empty, a digest of the content (in memory), or of the spec, the
      lengths, labels and a few samples.
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
        """Return the samples of a split. Raises ValueError if `val` is not cut yet, which `complete` does."""
        samples: Samples | None = getattr(self, name)
        if samples is None:
            raise ValueError("the validation split is not cut yet: pass the data through load_data or complete")
        return samples

    def in_memory(self, name: Split) -> TensorDataset | None:
        """Return the tensors of a split if it is kept in the device's memory, else None."""
        samples = self.split(name)
        return samples if is_tensors(samples) and self.collate is None else None

    @property
    def inputs(self) -> Any:
        """Return the inputs of `example`. Raises ValueError before `complete` has set it."""
        if self.example is None:
            raise ValueError("the data has no example yet: pass it through load_data or complete")
        return self.example[0]


def is_tensors(samples: object) -> TypeGuard[TensorDataset]:
    """Return whether `samples` returns its tensors unchanged; a subclass of TensorDataset may change them."""
    return type(samples) is TensorDataset


def unaugmented(samples: Samples) -> Samples:
    """Return `samples` without random changes, if the data set has `unaugmented()`; else as they are."""
    if type(samples) is Subset:
        return Subset(cast(Dataset[Any], unaugmented(cast(Samples, samples.dataset))), samples.indices)
    plain = getattr(samples, "unaugmented", None)
    return cast(Augmenting, samples).unaugmented() if callable(plain) else samples


class KnownSamples(Dataset[tuple[Tensor, int]]):
    """Base class of the samples of this package (see `is_known`).

    Their labels are exactly `targets`, and they keep nothing open that forked processes would share.
    """

    targets: Tensor


def is_known(samples: object) -> TypeGuard[KnownSamples]:
    """Return whether `samples` fulfils the contract of `KnownSamples`; a user's subclass of ours may not."""
    return KnownSamples in type(samples).__bases__


def fixed_order(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a fixed shuffle of range(n) that spreads every class evenly, so that every cut gives stratified parts."""
    shuffled = np.random.RandomState(0).permutation(len(labels))  # numpy guarantees that this stream never changes
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, counts)
    order: np.ndarray[Any, Any] = by_class[np.argsort((rank + 0.5) / np.repeat(counts, counts), kind="stable")]
    return order
