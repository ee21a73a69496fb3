"""Read one worker's part of every batch; the global batches do not depend on the number of workers or loaders.

All randomness of an epoch comes from its seed and is drawn for the global batch, then sliced by rank.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orchestrator.data.dataset import SPLITS, Data, InBlocks, unaugmented
from orchestrator.data.dataset import Split as Split  # callers of `evaluate` need it
from orchestrator.data.reading import collated, prepared, read_sample
from orchestrator.data.sample_checks import dtype_in_training
from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.nested import concatenated, in_parts, mapped, moved, number_of_samples, tensors_of
from orchestrator.randomness import own_randomness, seed_all
from orchestrator.validate import whole

Part = Split | Literal["calibration"]  # which are training samples that nothing augments

EVALUATION_BATCH = 512  # maximum number of samples in a batch of evaluation
EVALUATION_VALUES = 2**24  # maximum number of input values in such a batch


class Batch(NamedTuple):
    """Inputs and targets, each a tensor or any nesting of tensors; their first dimension counts samples."""

    inputs: Any
    targets: Any

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return number_of_samples(self.inputs) or number_of_samples(self.targets)

    def parts(self, count: int) -> list[Batch]:
        """Return the batch split into `count` parts, whose sizes differ by at most one."""
        return [self] if count == 1 else in_parts(self, self.samples, count)


def check_batch_size(samples: int, batch_size: int, world: int = 1) -> None:
    """Raise ConfigError unless each of `world` workers has a sample in every step."""
    if batch_size > samples:
        raise ConfigError(f"batch_size must be at most {samples}, the number of training samples, got {batch_size}")
    if world > batch_size:
        raise ConfigError(f"workers must be at most {batch_size}, the batch size that they share, got {world}")


class Batches:
    """Read the batches of worker `rank` of `world`, on `device`, for any number of epochs and rounds.

    `batch_size` is global. Samples that are not in memory are read by `loader_workers` processes, started at the
    first use and kept (0: read in this process). Raises ConfigError if the numbers of samples, batch and workers do
    not fit.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device,
        loader_workers: int = 0,
        channels_last: bool = False,
    ) -> None:
        check_batch_size(len(data.train), batch_size, world)
        whole("rank", rank, minimum=0, maximum=world - 1)
        whole("loader_workers", loader_workers, minimum=0)
        self.steps_per_epoch = len(data.train) // batch_size
        self._data, self._batch_size, self._device = data, batch_size, device
        self._rank, self._world = rank, world
        self._channels_last = channels_last
        self._evaluation_batch = _evaluation_batch(data, batch_size // world)
        self._memory = {split: _on_device(data, split, device) for split in SPLITS}
        self._parts = 1
        if isinstance(data.train, InBlocks) and data.collate is None:
            begin, end = self._bounds(batch_size)
            loader_workers = min(loader_workers, end - begin)
            self._parts = max(1, loader_workers)
        self._loader = _Loader(data, loader_workers, pin_memory=device.type == "cuda")

    def train(self, epoch_seed: int, first: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of each of the epoch's `steps_per_epoch` global batches of `batch_size` samples.

        `first`: the step to begin with; earlier ones are not read. The order, the seed of every sample and the draws
        of the augmentation follow from `epoch_seed` alone. The remainder of the shuffled samples is left out. Raises
        DataError for a sample that cannot be used.
        """
        if first == self.steps_per_epoch:
            return
        begin, end = self._bounds(self._batch_size)
        shape = (self.steps_per_epoch, self._batch_size)
        draws = self._data.prepare.draws if self._data.prepare else 0
        generator = torch.Generator().manual_seed(epoch_seed)
        order = self._shuffled(shape, generator)
        seeds = torch.randint(2**62, shape, generator=generator)
        u = torch.rand((*shape, draws), generator=generator)[:, begin:end].to(self._device)
        order, seeds = (part[first:, begin:end].flatten() for part in (order, seeds))
        raw = self._raw("train", order, seeds, end - begin, self._parts)
        for step, batch in enumerate(raw, start=first):
            yield self._finish(batch, u[step])

    def evaluate(self, split: Split) -> Iterator[Batch]:
        """Yield this rank's part of a split, in order; over all ranks every sample occurs exactly once."""
        begin, end = self._bounds(len(self._data.split(split)))
        if begin == end:
            return
        order = torch.arange(begin, end)
        for batch in self._raw(split, order, order, self._evaluation_batch):
            yield self._finish(batch, None)

    def calibration(self, seed: int, samples: int) -> Iterator[Batch]:
        """Yield `samples` training samples in all, or all there are in a batch size's multiple, the same on every rank.

        They are drawn by `seed`, and nothing augments them, unless a data set without `unaugmented()` does so.
        """
        shape = (min(self.steps_per_epoch, -(-samples // self._batch_size)), self._batch_size)
        order = self._shuffled(shape, torch.Generator().manual_seed(seed)).flatten()[:samples]
        for batch in self._raw("calibration", order, order, self._batch_size):
            yield self._finish(batch, None)

    def take_waited(self) -> float:
        """Return the seconds spent waiting for samples to be read and decoded since the last call."""
        waited, self._loader.waited = self._loader.waited, 0.0
        return waited

    def close(self) -> None:
        """End the loader processes; the next use starts new ones."""
        self._loader.close()

    def _bounds(self, n: int) -> tuple[int, int]:
        return n * self._rank // self._world, n * (self._rank + 1) // self._world

    def _shuffled(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        train = self._data.train
        if isinstance(train, InBlocks):
            return train.shuffled(*shape, generator)
        return torch.randperm(len(train), generator=generator)[: shape[0] * shape[1]].view(shape)

    def _raw(self, part: Part, order: Tensor, seeds: Tensor, batch: int, parts: int = 1) -> Iterator[Batch]:
        """Yield the samples `order` in batches, on the device, as stored; copies that the caller may change."""
        if (memory := self._memory["train" if part == "calibration" else part]) is None:
            for pieces in self._loader.read(part, order, seeds, batch, parts):
                on_device = [moved(piece, self._device) for piece in pieces]
                yield on_device[0] if parts == 1 else concatenated(on_device)
            return
        for indices in torch.split(order.to(self._device), batch):  # one transfer per epoch
            inputs, targets = (tensor.index_select(0, indices) for tensor in memory)
            yield Batch(inputs, targets)

    def _finish(self, batch: Batch, u: Tensor | None) -> Batch:
        """Prepare the batch for the model, in the memory format of this object."""
        inputs, targets = prepared(self._data, batch.inputs, batch.targets, u)
        if self._channels_last:
            inputs = mapped(with_channels_last, inputs)
        return Batch(inputs, targets)


def with_channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _evaluation_batch(data: Data, share: int) -> int:
    """Return how many samples to evaluate at once: at least `share`, the number trained at once.

    It is larger only for floating-point inputs, because whole numbers, such as tokens, may have large outputs.
    """
    if data.example is None:
        return max(share, EVALUATION_BATCH)
    tensors = [tensor for _, tensor in tensors_of(data.inputs)]
    if not all(tensor.is_floating_point() for tensor in tensors):
        return max(1, share)
    values = sum(tensor[:1].numel() for tensor in tensors if tensor.dim())
    return max(1, share, min(EVALUATION_BATCH, EVALUATION_VALUES // max(1, values)))


def _on_device(data: Data, split: Split, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if (samples := data.in_memory(split)) is None:
        return None
    inputs, targets = samples.tensors
    return inputs.to(device), targets.to(device, dtype_in_training(targets))


class _Request(NamedTuple):
    """The samples that a loader process reads at once: a batch of this rank or a part of it, with seeds."""

    part: Part
    indices: list[int]
    seeds: list[int]
    ahead: list[int]  # the indices of the same process's next request


class _Reader(Dataset[Batch | str]):
    """Read the samples of requests, in a loader process or in this one."""

    def __init__(self, data: Data) -> None:
        self._data, self._unaugmented = data, replace(data, train=unaugmented(data.train))

    def __getitem__(self, request: _Request) -> Batch | str:
        """Return the batch, or the message of an error: torch would turn an exception into a loader's traceback."""
        read = []
        data = self._unaugmented if request.part == "calibration" else self._data
        split: Split = "train" if request.part == "calibration" else request.part
        samples = data.split(split)
        with own_randomness():
            if isinstance(samples, InBlocks):
                try:
                    samples.fetch(request.indices, request.ahead)
                except OrchestratorError as error:
                    return str(error)
            for index, seed in zip(request.indices, request.seeds, strict=True):
                seed_all(seed)
                try:
                    read.append(read_sample(data, split, index))
                except OrchestratorError as error:
                    return str(error)
            try:
                return Batch(*collated(data, split, request.indices, read))
            except OrchestratorError as error:
                return str(error)


class _Loader:
    """Wrap one DataLoader for all splits and epochs: each pass gives it another list of requests."""

    def __init__(self, data: Data, workers: int, pin_memory: bool) -> None:
        self._data, self._workers, self._pin_memory = data, workers, pin_memory
        self._requests = _RequestSampler(max(1, workers))
        self._loader: DataLoader[Any] | None = None
        self._passes = 0
        self.waited = 0.0  # seconds

    def read(self, part: Part, order: Tensor, seeds: Tensor, batch: int, parts: int) -> Iterator[list[Batch]]:
        """Yield batches, each as `parts` pieces.

        Processes take turns: with as many parts as processes, each process always reads the same part of a batch.
        """
        if self._loader is None:
            self._loader = self._build()
        self._requests.plan = (part, _split(order, batch, parts), _split(seeds, batch, parts))
        self._passes += 1
        this_pass = self._passes
        pieces: list[Batch] = []
        for result in self._results(iter(self._loader)):
            if isinstance(result, str):
                raise DataError(result)
            pieces.append(result)
            if len(pieces) < parts:
                continue
            yield pieces
            pieces = []
            if this_pass != self._passes:  # the loader now serves the other pass
                raise RuntimeError("another pass over the data began before this one ended")

    def _results(self, loader: Iterator[Batch | str]) -> Iterator[Batch | str]:
        while True:
            began = time.perf_counter()
            result = next(loader, None)
            self.waited += time.perf_counter() - began
            if result is None:
                return
            yield result

    def close(self) -> None:
        self._loader = None

    def _build(self) -> DataLoader[Any]:
        return DataLoader(
            _Reader(self._data),
            sampler=self._requests,
            batch_size=None,  # a request is a whole batch already
            collate_fn=_as_is,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # else each pass would draw from the process's own generator
        )


class _RequestSampler:
    """Yield the requests of the current pass one by one, because an epoch may have a million samples."""

    plan: tuple[Part, tuple[Tensor, ...], tuple[Tensor, ...]]

    def __init__(self, processes: int) -> None:
        self._processes = processes  # process i reads requests i, i + processes, ...

    def __iter__(self) -> Iterator[_Request]:
        part, order, seeds = self.plan
        empty = torch.empty(0, dtype=torch.int64)
        ahead = (*order[self._processes :], *[empty] * self._processes)[: len(order)]
        for indices, draws, soon in zip(order, seeds, ahead, strict=True):
            yield _Request(part, indices.tolist(), draws.tolist(), soon.tolist())


def _split(values: Tensor, batch: int, parts: int) -> tuple[Tensor, ...]:
    """Split `values` into batches of size `batch`, and each batch into `parts`."""
    return tuple(part for whole in torch.split(values, batch) for part in torch.tensor_split(whole, parts))


def _as_is(batch: object) -> object:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which reaches the whole process group: the main process handles it and ends the loaders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
