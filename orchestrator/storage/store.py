"""Define a store of files: one small interface to a local folder and to an S3-compatible bucket."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from orchestrator.errors import DamagedError, StorageError

JSON_BYTES = 64 << 20  # the maximum size of a file without tensors, which is read whole
CONNECTIONS = 16  # simultaneous requests of one process to a store in the network
TEMPORARY = ".tmp-"  # begins the name of an unfinished local write; hidden from `list`, refused in a path

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class MissingError(StorageError):
    """Say that a file does not exist."""


@dataclass(frozen=True)
class File:
    """Name a file in a store, or an unfinished write. `modified`: seconds since the epoch, by the storage's clock."""

    path: str
    bytes: int
    modified: float
    upload: str = ""  # S3's id of an unfinished write


Files = list[File]  # inside a store, `list` is a method


class Store(Protocol):
    """Store files under relative POSIX paths (`rounds/ab12/record.json`); every method may raise StorageError.

    A path that is absolute, or has an empty part, ".", "..", a backslash or an unprintable character, is
    refused. A half-written file is never visible. A store can be pickled, and holds no secret.
    """

    is_local: bool

    @property
    def uri(self) -> str:
        """Return the uri with which `open_store` opens this store on any node; a local folder is absolute."""

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file. Raises MissingError, or DamagedError if it has more than `max_bytes`."""

    def read_part(self, path: str, start: int, size: int) -> bytes:
        """Return `size` >= 1 bytes from `start` on. Raises MissingError, or DamagedError if the file is shorter."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Create or replace the file, atomically."""

    def create(self, path: str, data: bytes) -> bool:
        """Create the file unless it exists. Return True to exactly one of several simultaneous writers."""

    def exists(self, path: str) -> bool:
        """Return whether a file (not a folder) has this path."""

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted paths of all files below the folder `prefix`, without those that would be refused."""

    def delete(self, path: str) -> None:
        """Remove the file if it exists."""

    def delete_tree(self, prefix: str) -> None:
        """Remove all files below the folder `prefix`. Raises StorageError for the empty prefix."""

    def files(self, prefix: str = "") -> tuple[Files, Files]:
        """Return the files of `list` with sizes and times, and the unreadable folders, as files of 0 bytes."""

    def unfinished(self) -> Files:
        """Return the unfinished writes: those that are running, and those that a kill has cut off."""

    def discard(self, file: File) -> None:
        """Remove one of the `unfinished` writes, if it still exists."""

    def check(self) -> None:
        """Try every operation on a small file, then remove it. Raises StorageError, at once for a wrong setting.

        Retries while the storage fails or cannot be reached, for a shorter time than during a run.
        """


def clean_path(path: str) -> str:
    """Return `path`. Raises StorageError unless it may name a file in a store."""
    if not _is_plain(path):
        raise StorageError(f"a path in storage is relative and plain, rounds/ab12/record.json, got {path!r}")
    if not path.isprintable():
        raise StorageError(f"a path in storage has printable characters only, got {path!r}")
    return path


def is_clean(path: str) -> bool:
    """Return whether `path` may name a file in a store; files that others put under other names are not listed."""
    return _is_plain(path) and path.isprintable()


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return "\\" not in path and not any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in parts)


def clean_folder(prefix: str) -> str:
    """Return `prefix` with exactly one slash at its end, or "" for the whole store. Raises StorageError."""
    return clean_path(prefix.removesuffix("/")) + "/" if prefix else ""


def check_size(place: str, size: int, max_bytes: int | None) -> None:
    """Raise DamagedError if `max_bytes` is given and the file `place` has more bytes."""
    if max_bytes is not None and size > max_bytes:
        raise DamagedError(f"{place} is damaged: it has {size:,} bytes, at most {max_bytes:,} are allowed")


def side_by_side(store: Store, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `call(item)` of each item, in order; several run at a time if `store` is in the network."""
    if store.is_local:  # it does not make threads wait, and a pool of one costs a fifth of reading 10,080 records
        return [call(item) for item in items]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(call, items))


def listed(store: Store, prefix: str, problems: list[str] | None) -> list[str]:
    """Return `store.list(prefix)`; if `problems` is given, append a sentence for each unreadable folder to it."""
    if problems is None:
        return store.list(prefix)
    files, refused = store.files(prefix)
    problems += map(unreadable, refused)
    return [file.path for file in files]


def unreadable(folder: File) -> str:
    """Return the message about an unreadable folder, one of the second list of `Store.files`."""
    return f"{folder.path} cannot be read: let this user read the folder and what is in it"


def read_each(
    store: Store, read: Callable[[str], T | None], items: Iterable[str], problems: list[str] | None
) -> list[T]:
    """Return `read(item)` of each item, without None; if `problems` is given, append its errors to it as sentences."""

    def attempt(item: str) -> T | StorageError | None:
        try:
            return read(item)
        except StorageError as error:
            if problems is None:
                raise
            return error

    found = side_by_side(store, attempt, items)
    if problems is not None:
        problems += [str(each) for each in found if isinstance(each, StorageError)]
    return [each for each in found if each is not None and not isinstance(each, StorageError)]


def problem_of(read: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str | None:
    """Return the StorageError of `read(...)` as a sentence, or None if it succeeds."""
    try:
        read(*args, **kwargs)
    except StorageError as error:
        return str(error)
    return None


def whole_part(data: bytes, place: str, start: int, size: int) -> bytes:
    """Return `data`. Raises DamagedError unless it has `size` bytes, the whole requested part."""
    if len(data) != size:
        raise DamagedError(f"{place} ends before byte {start + size}: it was cut off; copy it there again")
    return data


def clock(store: Store) -> float:
    """Return the time by the clock of `store`, in seconds since the epoch. Raises StorageError.

    It writes a small file and removes it. The clock of this machine may differ.
    """
    folder, path = _probe_file()
    store.write(path, b"")
    try:
        files, _ = store.files(folder)
    finally:
        store.delete_tree(folder)
    if not files:
        raise StorageError(f"{store.uri} does not show a file that was just written: use another storage")
    return files[0].modified


def _probe_file() -> tuple[str, str]:
    folder = f"probe-{uuid.uuid4().hex}"
    return folder, f"{folder}/file"


def probe(store: Store) -> None:
    """Do with `store` all that a run does, on one small file. Raises StorageError if anything fails."""
    folder, path = _probe_file()
    created = store.create(path, b"first")  # if this fails, nothing is left to remove
    try:
        if not created or store.create(path, b"second"):
            raise StorageError(
                f"{store.uri} does not keep two writers apart: it must honour If-None-Match on writes; "
                "use AWS S3 or a recent S3-compatible server"
            )
        store.write(path, b"third")
        if store.list(folder) != [path] or store.read(path) != b"third":
            raise StorageError(f"{store.uri} does not show a file that was just written: use another storage")
        if _part(store, path, 1, 3) != b"hir":
            raise StorageError(f"{store.uri} does not give parts of a file (Range on reads): use another storage")
    except BaseException:
        with contextlib.suppress(StorageError):
            store.delete(path)  # first, because the listing that delete_tree needs may be what failed
            store.delete_tree(folder)
        raise
    store.delete_tree(folder)


def _part(store: Store, path: str, start: int, size: int) -> bytes | None:
    with contextlib.suppress(DamagedError):  # the part has another size
        return store.read_part(path, start, size)
    return None
