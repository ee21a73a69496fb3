"""Pack a folder of images into a few large Parquet files; a bucket serves them faster than a million small ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.data.dataset import fixed_order
from orchestrator.data.decoding import IMAGE_FORMATS, DepthError, check_depth
from orchestrator.data.images import Scan, scan
from orchestrator.data.parquet_layout import (
    BLOCK_ROWS,
    CONTENTS,
    FILES,
    IMAGE_BYTES,
    INDEX_BYTES,
    INDEX_SCHEMA,
    PARQUET_FORMAT,
    SCHEMA,
    Array,
    index_bytes,
    index_file,
    shard_file,
)
from orchestrator.data.parquet_reader import REQUESTS
from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import Store
from orchestrator.validate import whole

MB = 1 << 20
NUMBERS = 60  # maximum number of characters in a row of the index, beside its name
PACKING = "_packing"  # a file that exists while a pack is running


@dataclass
class Packing:
    """The packed part of a split. `files`: rows and bytes of each; `index`: sha256 of its index."""

    files: list[tuple[int, int]] = field(default_factory=list)
    index: str = ""


def pack(
    folder: str, out: str, *, shard_mb: int = 256, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Packing]:
    """Pack folder/train/CLASS/*.jpg and folder/val/CLASS/*.jpg into `out`, a folder or s3://bucket/prefix.

    Image files are stored unchanged; the same folder gives the same files. Hidden names are skipped, and files of
    other endings are ignored with a warning, as `imagefolder` does. `on_progress(done, total)` counts images. An
    interrupted pack lacks dataset.json, so it cannot be read.

    Raises DataError for a folder of another layout or a file that is not an image, ConfigError for an `out` that is
    not empty, StorageError.
    """
    whole("--shard-mb", shard_mb, minimum=1)
    store = open_store(out)
    _check_empty(store)
    classes, splits = scan(folder)
    names = {split: _text(images) for split, images in splits.items()}
    store.check()  # now, so that a wrong setting does not show after hours of uploads
    with _alone(store):
        packings = {split: Packing() for split in splits}
        total, before = sum(len(each.names) for each in splits.values()), 0
        for split, images in splits.items():

            def on_rows(done: int, before: int = before) -> None:
                on_progress(before + done, total)

            _pack_split(store, split, images, names[split], shard_mb * MB, packings[split], on_rows)
            before += len(images.names)
        described = {split: {"index": one.index, "files": one.files} for split, one in packings.items()}
        contents = {"format": PARQUET_FORMAT, "classes": classes, "splits": described}
        if not store.create(CONTENTS, json.dumps(contents).encode()):
            raise ConfigError(f"{store.uri} must be empty, but another process has packed a data set there meanwhile")
    return packings


def packed_amount(packings: Mapping[str, Packing]) -> str:
    """Return how much was packed, in words: `183 images, 2.4 MB in 3 files`."""
    files = [file for packing in packings.values() for file in packing.files]
    images, size = (sum(column) for column in zip(*files, strict=True))
    return f"{images} images, {size / 1e6:.1f} MB in {len(files)} files"


def _check_empty(store: Store, *allowed: str) -> None:
    if found := [path for path in store.list() if path not in allowed]:
        what = f"{len(found)} file(s), such as {found[0]}"
        if CONTENTS in found:
            what = "a packed data set already"
        elif all(re.fullmatch(rf"{PACKING}|(train|val)/(\d{{5}}\.parquet|_index\.csv)", path) for path in found):
            what += ", of a pack that was interrupted or is still running"
        raise ConfigError(f"{store.uri} must be empty, got {what}: choose another place, or empty this one first")


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Keep other packs away from `store`: they would replace files that this one's dataset.json names."""
    if not store.create(PACKING, uuid.uuid4().hex.encode()):
        _check_empty(store)
        raise ConfigError(
            f"{store.uri} must be empty, but another pack is running there: wait, or choose another place"
        )
    try:
        _check_empty(store, PACKING)  # another pack may have written since the first check
        yield
    finally:
        with contextlib.suppress(StorageError):
            store.delete(PACKING)


def _pack_split(
    store: Store,
    split: str,
    images: Scan,
    names: list[str],
    limit: int,
    packing: Packing,
    on_rows: Callable[[int], None],
) -> None:
    order, index = fixed_order(images.labels), list[pa.Table]()
    with ThreadPoolExecutor(REQUESTS) as readers, ThreadPoolExecutor(1) as uploader:
        upload, shard = None, _Shard()
        for first in range(0, len(order), BLOCK_ROWS):
            rows = order[first : first + BLOCK_ROWS]
            contents = list(readers.map(lambda i: _read(os.path.join(images.folder, names[i])), rows))
            index.append(shard.append([names[i] for i in rows], images.labels[rows], contents))
            on_rows(first + len(rows))
            if shard.size >= limit or first + BLOCK_ROWS >= len(order):
                if len(packing.files) == FILES:
                    raise ConfigError(f"{split} has more than {FILES:,} files of --shard-mb {limit // MB}: choose more")
                if upload:
                    upload.result()  # upload one file while the next is made, not more
                rows_and_bytes, data = shard.finish()
                upload = uploader.submit(store.write, shard_file(split, len(packing.files)), data)
                packing.files.append(rows_and_bytes)
                shard = _Shard()
        if upload:
            upload.result()
    written = index_bytes(pa.concat_tables(index).combine_chunks())
    store.write(index_file(split), written)
    packing.index = hashlib.sha256(written).hexdigest()


class _Shard:
    """Write one Parquet file, without compression, because images are compressed already, and without statistics."""

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._rows = 0
        self._writer = pq.ParquetWriter(
            self._sink,
            SCHEMA,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
        )

    @property
    def size(self) -> int:
        return self._sink.tell()

    def append(self, names: list[str], labels: Array, images: list[bytes]) -> pa.Table:
        """Append one block. Return the index of its rows."""
        begin = self._sink.tell()
        self._writer.write_table(pa.table([names, labels, images], schema=SCHEMA), row_group_size=BLOCK_ROWS)
        self._rows += len(images)
        with self._sink.getbuffer() as written:
            starts = [begin + start for start in _places(images, written[begin:])]
        sizes, sums = [len(image) for image in images], [zlib.crc32(image) for image in images]
        return pa.table([names, labels, starts, sizes, sums], schema=INDEX_SCHEMA)

    def finish(self) -> tuple[tuple[int, int], memoryview]:
        """End the file. Return (number of rows, number of bytes), and its content."""
        self._writer.close()
        data = self._sink.getbuffer()
        return (self._rows, data.nbytes), data


def _places(images: list[bytes], written: memoryview) -> Iterator[int]:
    """Yield the offset of each image in `written`; its length and sometimes a Parquet page header come before it."""
    place = 0
    for image in images:
        while written[place : place + 16] != image[:16] or bytes(written[place : place + len(image)]) != image:
            place += 1
            assert place < len(written)
        yield place
        place += len(image)


def _text(images: Scan) -> list[str]:
    try:
        names = [name.decode() for name in images.names.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"file names must be UTF-8 to be packed, got {error.object!r} in {images.folder}") from None
    if images.names.nbytes + NUMBERS * len(names) > INDEX_BYTES:
        raise DataError(f"the index of {images.folder} would have more than {INDEX_BYTES:,} bytes: pack it in parts")
    return names


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            if (size := os.fstat(opened.fileno()).st_size) > IMAGE_BYTES:
                raise DataError(
                    f"{file} has {size:,} bytes, at most {IMAGE_BYTES:,} can be packed: train from the folder instead"
                )
            content = opened.read()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            check_depth(image)
            image.verify()  # checks the header and any checksums; decoding would take 5 to 50 times as long
    except DepthError as error:
        raise DataError(f"{file} cannot be packed: {error}") from None
    except Exception as error:  # decoders raise many types
        raise DataError(
            f"{file} is not an image, or is damaged ({type(error).__name__}): put the image there again, or remove it"
        ) from error
    return content
