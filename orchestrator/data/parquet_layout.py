"""Define and check the files of a packed data set; the content of storage is not trusted.

    dataset.json           written last: its existence is the commit; classes, rows and bytes of every file, sums
    train/00000.parquet    name, label, image (the image file's own bytes); BLOCK_ROWS rows to a row group
    train/_index.csv       for every row: name, label, offset of its image in the file, size, CRC-32
    val/...                the same; as in ImageNet's folders, this is the test split

Rows are in a fixed shuffled order that spreads every class evenly, so that any range of rows is a fair sample.
Other programs read the Parquet files, and ignore names that begin with "_". We read images at the offsets of the
index. They are uncompressed, so that a file never takes more memory than it has bytes, even if its header claims more.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from orchestrator.decode import Count, Rule, decode, format_of, parse
from orchestrator.errors import DamagedError, DataError
from orchestrator.storage.store import MissingError, Store
from orchestrator.user_code import one_line

PARQUET_FORMAT = 3  # increase it when the same files would be read differently, in another order, or not at all
BLOCK_ROWS = 32  # rows read at once: 3.5 MB of ImageNet, for which a request's latency no longer matters
BLOCK_BYTES = 1 << 30  # maximum size of a block
IMAGE_BYTES = BLOCK_BYTES // BLOCK_ROWS - 4096  # maximum size of an image; Parquet writes up to 4096 bytes between two
FILES = 100_000  # maximum number of files in a split: their names have five digits
CONTENTS = "dataset.json"
CONTENTS_BYTES = 16 << 20  # its maximum size
SCHEMA = pa.schema([("name", pa.string()), ("label", pa.int64()), ("image", pa.binary())])
INDEX_SCHEMA = pa.schema([*list(SCHEMA)[:2], ("start", pa.int64()), ("size", pa.int64()), ("crc", pa.uint32())])
INDEX_BYTES = 2 << 30  # maximum size of an index: ten times ImageNet-21k's
ROW_BYTES = 2 * 4096 + 100  # maximum size of a row: a path of quotes only, which are doubled, and four numbers

Array = np.ndarray[Any, Any]
_AGAIN = "copy it there again, or pack the data set again"


@dataclass(frozen=True)
class SplitFiles:
    """The description of a split in dataset.json. `index`: sha256 of its index; `files`: rows and bytes of each."""

    index: str
    files: list[tuple[Count, Count]]

    def __post_init__(self) -> None:
        if not 1 <= len(self.files) <= FILES:
            raise ValueError(f"a split must have 1 to {FILES:,} files, got {len(self.files):,}")
        if not all(1 <= rows <= size < 2**62 for rows, size in self.files):
            raise ValueError("a file's rows and bytes must be whole numbers, 1 or more, and not more rows than bytes")
        if any(rows % BLOCK_ROWS for rows, _ in self.files[:-1]):
            raise ValueError(f"every file but the last must have whole blocks of {BLOCK_ROWS} rows")


@dataclass(frozen=True)
class _PackedSplits:
    train: SplitFiles
    val: SplitFiles


@dataclass(frozen=True)
class _PackedContents:
    """The content of dataset.json."""

    classes: Annotated[list[str], Rule("names", lambda names: names and "" not in names)]
    splits: _PackedSplits

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("the names of its classes must differ")


class Index(NamedTuple):
    """The columns of the index, one entry per row. (start, size) locate an image in its file; they never overlap."""

    names: pa.Array
    labels: Array
    start: Array
    size: Array
    crc: Array

    def content(self) -> bytes:
        """Return a digest of every name, label and image (by size and CRC-32), independent of the number of files."""
        names = self.names.to_pylist()
        numbers = (np.fromiter(map(len, names), np.int64, len(names)), self.labels, self.size, self.crc)
        content = hashlib.sha256("".join(names).encode())
        for column in numbers:
            content.update(column.astype("<i8").tobytes())
        return content.digest()


def index_file(split: str) -> str:
    return f"{split}/_index.csv"


def shard_file(split: str, number: int) -> str:
    return f"{split}/{number:05}.parquet"


def read_contents(store: Store) -> tuple[list[str], SplitFiles, SplitFiles]:
    """Read dataset.json. Return the names of the classes, and the files of train and val.

    Raises DataError, StorageError.
    """
    place = f"{store.uri}/{CONTENTS}"
    try:
        value = parse(store.read(CONTENTS, CONTENTS_BYTES))
        if (number := format_of(value)) != PARQUET_FORMAT:
            raise DataError(f"{place} has format {number}, but this version reads {PARQUET_FORMAT}: pack it again")
        contents = decode(_PackedContents, value, more_fields=True)
    except MissingError:
        raise DataError(
            f"{place} is missing: `orchestrator dataset pack FOLDER {store.uri}` makes a packed data set of a folder "
            "with train/CLASS/*.jpg and val/CLASS/*.jpg; dataset.json is written last"
        ) from None
    except DamagedError as error:
        raise DataError(f"{store.uri}/{error}") from None
    except ValueError as error:
        raise DataError(f"{place} is not the table of contents of a packed data set ({error})") from None
    return contents.classes, contents.splits.train, contents.splits.val


def check_file(store: Store, path: str, size: int) -> None:
    """Raise DataError unless the Parquet file exists and ends at byte `size`. Raises StorageError."""
    try:
        if size > 4 and store.read_part(path, size - 4, 4) == b"PAR1":
            return
    except MissingError:
        raise DataError(f"{store.uri}/{path} is missing: {_AGAIN}") from None
    except DamagedError:
        pass
    raise DataError(f"{store.uri}/{path} is cut off or damaged, it must be a Parquet file of {size:,} bytes: {_AGAIN}")


def read_index(store: Store, split: str, described: SplitFiles) -> Index:
    """Read and check the index of a split. Raises DataError, StorageError."""
    path = index_file(split)
    place, (rows, sizes) = f"{store.uri}/{path}", zip(*described.files, strict=True)
    try:
        data = store.read(path, min(INDEX_BYTES, ROW_BYTES * sum(rows)))
    except MissingError:
        raise DataError(f"{place} is missing: {_AGAIN}") from None
    except DamagedError as error:
        raise DataError(f"{store.uri}/{error}") from None
    if hashlib.sha256(data).hexdigest() != described.index:
        raise DataError(f"{place} does not have the sha256 that {CONTENTS} names: copy it there again")
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(column_names=INDEX_SCHEMA.names),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(column_types=INDEX_SCHEMA),
        )
        names, *numbers = (column.combine_chunks() for column in table.columns)
    except pa.ArrowException as error:
        raise DataError(f"{place} must hold {', '.join(INDEX_SCHEMA.names)} ({one_line(error):.200})") from None
    if len(table) != sum(rows) or any(column.null_count for column in table.columns):
        raise DataError(f"{place} must name the rows of all files: pack it again")
    index = Index(names, *(column.to_numpy() for column in numbers))
    before = np.concatenate([[0], (index.start + index.size)[:-1]])
    before[np.cumsum([0, *rows[:-1]])] = 0  # offsets start again in each file
    last_start = np.repeat(sizes, rows) - index.size
    if not np.all((index.size > 0) & (index.start >= before) & (index.start <= last_start)):
        raise DataError(f"{place} must place the images of a file one after another inside it: pack it again")
    first = np.arange(0, len(index.start), BLOCK_ROWS)
    last = np.minimum(first + BLOCK_ROWS, len(index.start)) - 1
    if np.any(index.start[last] + index.size[last] - index.start[first] > BLOCK_BYTES):
        raise DataError(f"{place} must have {BLOCK_ROWS} images in at most {BLOCK_BYTES:,} bytes: pack it again")
    return index


def index_bytes(index: pa.Table) -> bytes:
    sink = io.BytesIO()
    csv.write_csv(index, sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()


def read_images(store: Store, path: str, index: Index) -> list[memoryview]:
    """Read the images of a part of the index in one request. Raises DataError for damage, StorageError."""
    first, ends = int(index.start[0]), (index.start + index.size).tolist()
    try:
        data = memoryview(store.read_part(path, first, ends[-1] - first))
    except (MissingError, DamagedError) as error:
        raise DataError(f"{store.uri}/{path} has changed since it was opened ({error})") from error
    images = [data[start - first : end - first] for start, end in zip(index.start.tolist(), ends, strict=True)]
    for name, image, crc in zip(index.names, images, index.crc, strict=True):
        if zlib.crc32(image) != crc:
            raise DataError(f"{store.uri}/{path} is damaged in {name} (CRC-32): {_AGAIN}")
    return images
