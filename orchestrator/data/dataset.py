"""Define what a data set is: labelled images in three splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


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
    read a sample or asked for a length, so a data set may open its file then; the function that makes it must not.

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
