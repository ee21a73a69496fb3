"""A packed data set: encoded images in Parquet files, read in blocks of rows from a folder or a bucket.

    dataset.json           written last: its existence is the commit; classes, rows and bytes of every file, sums
    train/index.parquet    name, label of every row of the split, in order
    train/00000.parquet    name, label, image (the image file's own bytes); BLOCK rows to a row group
    val/...                the same; as in ImageNet's folders, this is the test split

Rows lie in one fixed shuffled order in which every class is spread evenly, so that any run of rows is a fair sample.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset

from orchestrator.errors import DamagedError, DataError
from orchestrator.storage.store import MissingError, Store, open_store
from orchestrator.training.checks import one_line

FORMAT = 1  # raised whenever the same files would be read otherwise, or in another order
BLOCK = 32  # rows that are read at once: of ImageNet 3.5 MB, where a request's latency no longer counts
CONTENTS = "dataset.json"
SCHEMA = pa.schema([("name", pa.string()), ("label", pa.int64()), ("image", pa.binary())])
INDEX_SCHEMA = pa.schema([SCHEMA.field("name"), SCHEMA.field("label")])
IMAGE = SCHEMA.get_field_index("image")
REQUESTS = 16  # at once

Decode = Callable[[io.BytesIO], Tensor]


def index_file(split: str) -> str:
    return f"{split}/index.parquet"


def shard_file(split: str, number: int) -> str:
    return f"{split}/{number:05}.parquet"


class Packed(NamedTuple):
    """`identity`: the classes and the sum of every image, label and name; not how many files hold them."""

    classes: list[str]
    train: PackedSplit
    test: PackedSplit
    identity: bytes


def is_packed(root: str) -> bool:
    """Whether `root` must be a packed data set: a uri, or a folder with its table of contents."""
    return "://" in root or os.path.isfile(os.path.join(os.path.expanduser(root), CONTENTS))


def open_packed(uri: str) -> Packed:
    """The packed data set at `uri`, after a look at the end of every file.

    Raises DataError for what is missing, cut off, of another format or no packed data set, StorageError for a storage
    that cannot be reached.
    """
    store = open_store(uri)
    place = f"{store.uri}/{CONTENTS}"
    try:
        contents = json.loads(store.read(CONTENTS))
        if contents["format"] != FORMAT:
            raise DataError(f"{place} is of format {contents['format']!r}, this version reads {FORMAT}: pack it again")
        splits = {
            name: PackedSplit(store, name, [(int(rows), int(size)) for rows, size in split["files"]], split["index"])
            for name, split in ((name, contents["splits"][name]) for name in ("train", "val"))
        }
        sums = [contents["splits"][name]["content"] for name in ("train", "val")]
        classes = [str(name) for name in contents["classes"]]
    except MissingError:
        raise DataError(
            f"{place} is missing: `orchestrator dataset pack FOLDER {uri}` makes a packed data set of a folder with "
            "train/CLASS/*.jpg and val/CLASS/*.jpg; dataset.json is written last"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place} is not the table of contents of a packed data set ({one_line(error)})") from None
    identity = hashlib.sha256(repr(("packed", FORMAT, BLOCK, classes, sums)).encode()).digest()
    return Packed(classes, splits["train"], splits["val"], identity)


class PackedSplit:
    """The rows of a split: names and labels in memory, images a block at a time.

    `files`: rows and bytes of each; `index_sum`: sha256 of the index file.
    """

    def __init__(self, store: Store, split: str, files: list[tuple[int, int]], index_sum: str) -> None:
        self._uri, self._split = store.uri, split
        self._store, self._process, self._pool = store, os.getpid(), ThreadPoolExecutor(REQUESTS)
        self._sizes = [size for _, size in files]
        self._footers = list(self._pool.map(self._footer, range(len(files))))
        groups = [footer.num_row_groups for footer in self._footers]
        self._first_block = np.cumsum([0, *groups])  # of each file
        index = self._index(index_sum)
        self.names = index.column("name").combine_chunks()
        self.labels: np.ndarray[Any, Any] = index.column("label").to_numpy()
        for number, (rows, _) in enumerate(files):
            if (number + 1 < len(files) and rows != groups[number] * BLOCK) or rows != self._footers[number].num_rows:
                raise DataError(f"{self._place(number)} must hold {rows} rows in groups of {BLOCK}: pack it again")
        if len(self.labels) != sum(rows for rows, _ in files):
            raise DataError(f"{store.uri}/{index_file(split)} must name the rows of all files: pack it again")

    def file_of(self, row: int) -> str:
        number, _ = self._locate(row // BLOCK)
        return f"{self._place(number)}: {self.names[row]}"

    def begin(self, block: int) -> Future[pa.Array]:
        """What `block` will return, once it is read in a thread of this process."""
        if self._process != os.getpid():  # a forked process has none of its parent's threads, nor its connections
            self._store, self._process, self._pool = open_store(self._uri), os.getpid(), ThreadPoolExecutor(REQUESTS)
            self._store.exists(CONTENTS)  # connects, here and not in all threads at once
        return self._pool.submit(self.block, block)

    def block(self, block: int) -> pa.Array:
        """The encoded images of a block's rows, as bytes. Raises DataError for damage, StorageError."""
        number, group = self._locate(block)
        footer, place = self._footers[number], self._place(number)
        file = StoredFile(self._store, shard_file(self._split, number), self._sizes[number])
        try:
            # The sums of the pages are compared while they are read.
            reader = pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)
            images = reader.read_row_group(group, columns=["image"], use_threads=False).column("image")
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{place} is damaged in block {group} ({one_line(error)}): copy it again, or pack the data set again"
            ) from error
        except (MissingError, DamagedError) as error:
            raise DataError(str(error)) from error
        if images.null_count or len(images) != footer.row_group(group).num_rows:
            raise DataError(f"{place} must hold an image in every row, block {group} does not: pack it again")
        return images.combine_chunks()

    def _locate(self, block: int) -> tuple[int, int]:
        """The number of the file, and the row group in it."""
        number = int(np.searchsorted(self._first_block, block, side="right")) - 1
        return number, block - int(self._first_block[number])

    def _footer(self, number: int) -> Any:
        """Where a file's blocks lie, from its end."""
        place, size = self._place(number), self._sizes[number]
        try:
            footer = pq.read_metadata(StoredFile(self._store, shard_file(self._split, number), size))
        except MissingError:
            raise DataError(f"{place} is missing: copy it there again, or pack the data set again") from None
        except (DamagedError, pa.ArrowException, OSError):
            raise DataError(
                f"{place} is cut off or damaged, it must be a Parquet file of {size} bytes: copy it there again, or "
                "pack the data set again"
            ) from None
        _check_columns(place, footer.schema.to_arrow_schema(), SCHEMA)
        return footer

    def _index(self, index_sum: str) -> pa.Table:
        place = f"{self._uri}/{index_file(self._split)}"
        try:
            data = self._store.read(index_file(self._split))
        except MissingError:
            raise DataError(f"{place} is missing: copy it there again, or pack the data set again") from None
        if hashlib.sha256(data).hexdigest() != index_sum:
            raise DataError(f"{place} is not the file that {CONTENTS} names (sha256): copy it there again")
        table = pq.read_table(pa.BufferReader(data))
        _check_columns(place, table.schema, INDEX_SCHEMA)
        return table

    def _place(self, number: int) -> str:
        return f"{self._uri}/{shard_file(self._split, number)}"


class PackedImages(Dataset[tuple[Tensor, int]]):
    """Rows `first` to `last` of a split; an image is decoded when asked for, as uint8 (3, H, W).

    An epoch: blocks in random order, rows in random order within each; this sequence is cut into one run for each
    place in the batch. So a batch has images of as many blocks as it has images, each place of the batch has one
    block open, and a process that reads some of the places needs only theirs.
    """

    def __init__(self, split: PackedSplit, first: int, last: int, decode: Decode) -> None:
        self._split, self._first, self._decode = split, first, decode
        self.targets = torch.from_numpy(split.labels[first:last].copy())
        self._process, self._blocks = os.getpid(), dict[int, Future[pa.Array]]()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        block, place = divmod(self._first + index, BLOCK)
        if block not in self._own_blocks():
            self.fetch([index])
        image = self._blocks[block].result()[place].as_buffer()
        return self._decode(io.BytesIO(image)), int(self.targets[index])

    def shuffled(self, steps: int, batch_size: int, generator: torch.Generator) -> Tensor:
        blocks = torch.arange(self._first, self._first + len(self)) // BLOCK
        blocks -= int(blocks[0])
        place = torch.randperm(int(blocks[-1]) + 1, generator=generator)[blocks]
        order = torch.argsort(place + torch.rand(len(self), generator=generator, dtype=torch.float64), stable=True)
        return order[: steps * batch_size].view(batch_size, steps).t()

    def fetch(self, indices: Sequence[int], ahead: Sequence[int] = ()) -> None:
        before = self._own_blocks()
        needed = dict.fromkeys((self._first + index) // BLOCK for index in (*indices, *ahead))
        self._blocks = {block: before.get(block) or self._split.begin(block) for block in needed}

    def _own_blocks(self) -> dict[int, Future[pa.Array]]:
        if self._process != os.getpid():  # what a parent has begun never ends in a forked process
            self._process, self._blocks = os.getpid(), {}
        return self._blocks

    def file_of(self, index: int) -> str:
        return self._split.file_of(self._first + index)


class StoredFile(io.RawIOBase):
    """A file of a store as pyarrow reads it: each read is one request."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store, self._path, self._size, self._at = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = self._size - self._at if size < 0 else min(size, self._size - self._at)
        data = self._store.read_part(self._path, self._at, size) if size > 0 else b""
        self._at += len(data)
        return data


def _check_columns(place: str, schema: pa.Schema, expected: pa.Schema) -> None:
    if not schema.remove_metadata().equals(expected):
        wanted, got = (", ".join(f"{field.name}: {field.type}" for field in s) for s in (expected, schema))
        raise DataError(f"{place} must have the columns {wanted}, got {got}")
