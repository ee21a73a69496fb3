"""Read batches of the data's own samples: files are made from them, calibrated and measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.data.batches import Batch
from orchestrator.data.dataset import Data, Split
from orchestrator.data.reading import collated, prepared, read_sample
from orchestrator.data.sample_checks import spread
from orchestrator.nested import tensors_of
from orchestrator.randomness import own_randomness, seed_all

CALIBRATION = 256  # training samples
_TOGETHER = 32  # of them
_LOOKED_AT = 16  # samples of a split, in pairs, to see which sizes differ from batch to batch


def real_batches(data: Data, split: Split, indices: Sequence[int], size: int) -> Iterator[Batch]:
    """Yield the samples `indices` of a split in batches of `size`, as evaluation prepares them."""
    for first in range(0, len(indices), size):
        with own_randomness():
            read, some = [], indices[first : first + size]
            for index in some:
                seed_all(index)  # a sample may be augmented when it is read
                read.append(read_sample(data, split, index))
            batch = Batch(*prepared(data, *collated(data, split, some, read), None))
        yield batch


def calibration_inputs(data: Data) -> Iterator[Any]:
    """Yield inputs of training samples from all over the split, in batches."""
    for batch in real_batches(data, "train", spread(len(data.train), CALIBRATION), _TOGETHER):
        yield batch.inputs


def first_inputs(data: Data) -> Any:
    """Return the inputs of the first test sample, a batch of one."""
    return next(real_batches(data, "test", [0], 1)).inputs


def inputs_of_other_sizes(data: Data) -> tuple[Any, ...]:
    """Return inputs of batches whose tensors have other shapes than those of the data's example."""
    found: dict[tuple[Any, ...], Any] = {_shapes(data.inputs): None}
    for split in ("train", "test"):
        samples = data.split(split)
        for batch in real_batches(data, split, spread(len(samples), _LOOKED_AT), 2):
            if batch.samples == 2:
                found.setdefault(_shapes(batch.inputs), batch.inputs)
    return tuple(inputs for inputs in found.values() if inputs is not None)


def _shapes(inputs: Any) -> tuple[Any, ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in tensors_of(inputs))
