"""Read a packed data set in blocks of rows from a folder or a bucket; parquet_layout describes the files."""

from __future__ import annotations

import copy
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.dataset import KnownSamples
from orchestrator.data.parquet_layout import (
    BLOCK_ROWS,
    CONTENTS,
    PARQUET_FORMAT,
    Index,
    SplitFiles,
    check_file,
    read_contents,
    read_images,
    read_index,
    shard_file,
)
from orchestrator.errors import DataError
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import Store

REQUESTS = 16  # simultaneous requests

Decode = Callable[[io.BytesIO], Tensor]


class Packed(NamedTuple):
    """A packed data set. `identity`: digest of classes, names, labels, image sums and order; not of the file sizes."""

    classes: list[str]
    train: PackedSplit
    test: PackedSplit
    identity: bytes


def is_packed(root: str) -> bool:
    """Return whether `root` must be a packed data set: it is a uri, or a folder with dataset.json."""
    return "://" in root or os.path.isfile(os.path.join(os.path.expanduser(root), CONTENTS))


def open_packed(uri: str) -> Packed:
    """Open the packed data set at `uri`, and check the end of every file.

    Raises DataError if a file is missing, cut off or of another format, or if this is not a packed data set;
    StorageError if the storage cannot be reached.
    """
    store = open_store(uri)
    classes, *described = read_contents(store)
    train, val = (PackedSplit(store, split, files) for split, files in zip(("train", "val"), described, strict=True))
    if without := sorted(set(range(len(classes))) - set(train.labels.tolist())):
        raise DataError(
            f"{store.uri}/train must have images of every class, but has none of {classes[without[0]]!r:.99}"
        )
    contents = [train.content, val.content]
    identity = hashlib.sha256(repr(("packed", PARQUET_FORMAT, BLOCK_ROWS, classes, contents)).encode()).digest()
    return Packed(classes, train, val, identity)


class PackedSplit:
    """The rows of a split: names and labels are in memory, images are read a block at a time."""

    def __init__(self, store: Store, split: str, described: SplitFiles) -> None:
        self._uri, self._split = store.uri, split
        self._store, self._process, self._pool = store, os.getpid(), ThreadPoolExecutor(REQUESTS)
        rows, sizes = zip(*described.files, strict=True)
        self._ends = np.cumsum(rows)  # the row after the last one of each file
        list(self._pool.map(lambda number, size: check_file(store, shard_file(split, number), size), count(), sizes))
        self._index = read_index(store, split, described)
        self.labels = self._index.labels

    @property
    def content(self) -> bytes:
        return self._index.content()

    def __getstate__(self) -> dict[str, object]:
        """Leave the threads out, for a spawned loader process (macOS), which starts its own."""
        return {**self.__dict__, "_pool": None, "_process": None}

    def file_of(self, row: int) -> str:
        return f"{self._uri}/{self._file(row)}: {self._index.names[row]}"

    def begin(self, block: int) -> Future[list[memoryview]]:
        """Start to read a block in a thread of this process. The future's result is that of `block`."""
        if self._process != os.getpid():  # a forked process has neither its parent's threads nor its connections
            self._store, self._process, self._pool = open_store(self._uri), os.getpid(), ThreadPoolExecutor(REQUESTS)
            self._store.exists(CONTENTS)  # connects here, so that not all threads do it at once
        return self._pool.submit(self.block, block)

    def block(self, block: int) -> list[memoryview]:
        """Return the encoded images of a block's rows. Raises DataError for damage, StorageError."""
        rows = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)  # all in one file
        return read_images(self._store, self._file(rows.start), Index(*(column[rows] for column in self._index)))

    def _file(self, row: int) -> str:
        return shard_file(self._split, int(np.searchsorted(self._ends, row, side="right")))


class PackedImages(KnownSamples):
    """Rows `first` to `last` (excluded) of a split; each image is decoded on access, as uint8 (3, H, W).

    An epoch puts the blocks in random order, and the rows of each block too. It cuts this sequence into as many runs
    as a batch has images, and image i of every batch comes from run i. So the images of a batch come from different
    blocks, each run needs one block at a time, and a process that reads some of the runs needs only their blocks.
    """

    def __init__(
        self, split: PackedSplit, first: int, last: int, decode: Decode, evaluation: Decode | None = None
    ) -> None:
        self._split, self._first, self._decode, self._evaluation = split, first, decode, evaluation or decode
        self.targets = torch.from_numpy(split.labels[first:last].copy())
        self._process, self._blocks = os.getpid(), dict[int, Future[list[memoryview]]]()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_blocks": {}}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        block, place = divmod(self._first + index, BLOCK_ROWS)
        if block not in self._own_blocks():
            self.fetch([index])
        image = self._blocks[block].result()[place]
        return self._decode(io.BytesIO(image)), int(self.targets[index])

    def shuffled(self, steps: int, batch_size: int, generator: torch.Generator) -> Tensor:
        blocks = torch.arange(self._first, self._first + len(self)) // BLOCK_ROWS
        blocks -= int(blocks[0])
        place = torch.randperm(int(blocks[-1]) + 1, generator=generator)[blocks]
        order = torch.argsort(place + torch.rand(len(self), generator=generator, dtype=torch.float64), stable=True)
        return order[: steps * batch_size].view(batch_size, steps).t()

    def fetch(self, indices: Sequence[int], ahead: Sequence[int] = ()) -> None:
        before = self._own_blocks()
        needed = dict.fromkeys((self._first + index) // BLOCK_ROWS for index in (*indices, *ahead))
        self._blocks = {block: before.get(block) or self._split.begin(block) for block in needed}

    def _own_blocks(self) -> dict[int, Future[list[memoryview]]]:
        if self._process != os.getpid():  # reads that the parent has started never end in a forked process
            self._process, self._blocks = os.getpid(), {}
        return self._blocks

    def file_of(self, index: int) -> str:
        return self._split.file_of(self._first + index)

    def unaugmented(self) -> PackedImages:
        """Return the same images, decoded as in evaluation."""
        plain = copy.copy(self)
        plain._decode = self._evaluation
        return plain
