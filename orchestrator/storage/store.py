"""Where bytes live: one small interface over a local folder and an S3-compatible bucket."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from orchestrator.errors import DamagedError, StorageError

JSON_BYTES = 64 << 20  # the most of a file that is not tensors, which is read whole
CONNECTIONS = 16  # requests on their way at a time, of one process to a store in the network
TEMPORARY = ".tmp-"  # names a local write that is not finished; hidden from `list`, refused in a path

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class MissingError(StorageError):
    """Nothing is stored under this path."""


@dataclass(frozen=True)
class File:
    """A file in a store, or a write that has not ended. `modified`: seconds since the epoch, by the storage's clock."""

    path: str
    bytes: int
    modified: float
    upload: str = ""  # S3's id of a write that has not ended


Files = list[File]  # inside a store, `list` is a method


class Store(Protocol):
    """Files under relative POSIX paths (`rounds/ab12/record.json`); every method may raise StorageError.

    A path that is absolute, or has an empty part, ".", "..", a backslash or an unprintable character, is
    refused. Nobody ever sees a file half-written. A store can be pickled, and holds no secret.
    """

    is_local: bool

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store, on any node; a relative local folder made absolute."""

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file. Raises MissingError, or DamagedError if it has more than `max_bytes`."""

    def read_part(self, path: str, start: int, size: int) -> bytes:
        """`size` (1 or more) bytes from byte `start` on. Raises MissingError, DamagedError if the file ends before."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Create or replace the file, atomically."""

    def create(self, path: str, data: bytes) -> bool:
        """Create the file unless it exists: of racing writers exactly one gets True."""

    def exists(self, path: str) -> bool:
        """Whether a file (not a folder) has this path."""

    def list(self, prefix: str = "") -> list[str]:
        """All files below the folder `prefix` whose path is not refused, sorted, relative to the store's root."""

    def delete(self, path: str) -> None:
        """Remove the file; fine if there is none."""

    def delete_tree(self, prefix: str) -> None:
        """Remove all files below the folder `prefix`, which must not be empty."""

    def files(self, prefix: str = "") -> tuple[Files, Files]:
        """What `list` names, with sizes and times; and the folders, as files of 0 bytes, that cannot be read."""

    def unfinished(self) -> Files:
        """Writes that have not ended: they are under way, or were cut off by a kill."""

    def discard(self, file: File) -> None:
        """Remove one of the `unfinished`; fine if it is gone."""

    def check(self) -> None:
        """Try everything on a small file that is then removed. Raises StorageError, at once for a wrong setting.

        A storage that fails for a moment, or cannot be reached, is waited for: less long than in mid-run.
        """


def clean_path(path: str) -> str:
    """`path` itself, if it may name a file in a store; StorageError otherwise."""
    if not _is_plain(path):
        raise StorageError(f"a path in storage is relative and plain, rounds/ab12/record.json, got {path!r}")
    if not path.isprintable():
        raise StorageError(f"a path in storage has printable characters only, got {path!r}")
    return path


def is_clean(path: str) -> bool:
    """Whether `path` may name a file in a store; what others put under another name is not listed."""
    return _is_plain(path) and path.isprintable()


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return "\\" not in path and not any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in parts)


def clean_folder(prefix: str) -> str:
    """`prefix` with exactly one slash at its end, or "" for everything."""
    return clean_path(prefix.removesuffix("/")) + "/" if prefix else ""


def check_size(place: str, size: int, max_bytes: int | None) -> None:
    """Raise DamagedError for a file that has more than `max_bytes` bytes, if that is given."""
    if max_bytes is not None and size > max_bytes:
        raise DamagedError(f"{place} is damaged: it has {size:,} bytes, at most {max_bytes:,} belong there")


def side_by_side(store: Store, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`call` of each item, in their order: several at a time where each waits for the answers of `store`."""
    # A folder has nothing to wait for: there threads would only take turns, in more time than one needs.
    with ThreadPoolExecutor(1 if store.is_local else CONNECTIONS) as pool:
        return list(pool.map(call, items))


def listed(store: Store, prefix: str, problems: list[str] | None) -> list[str]:
    """`store.list(prefix)`; a folder that cannot be read is a sentence in `problems`, if that is given."""
    if problems is None:
        return store.list(prefix)
    files, refused = store.files(prefix)
    problems += map(unreadable, refused)
    return [file.path for file in files]


def unreadable(folder: File) -> str:
    """A sentence about a folder of the second list of `files`."""
    return f"{folder.path} cannot be read: let this user read the folder and what is in it"


def read_each(
    store: Store, read: Callable[[str], T | None], items: Iterable[str], problems: list[str] | None
) -> list[T]:
    """What `read` gives for each item, without None; its errors are sentences in `problems`, if that is given."""

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
    """What is wrong with a file that `read` reads, as a sentence; None if nothing is."""
    try:
        read(*args, **kwargs)
    except StorageError as error:
        return str(error)
    return None


def whole_part(data: bytes, place: str, start: int, size: int) -> bytes:
    """`data` itself, if it is all of the part that was asked for; DamagedError otherwise."""
    if len(data) != size:
        raise DamagedError(f"{place} ends before byte {start + size}: it was cut off; put it there again")
    return data


def clock(store: Store) -> float:
    """Return the time by the clock of `store`, in seconds since the epoch: that of a small file, which is removed.

    The clock of this machine may differ from it. Raises StorageError.
    """
    folder, path = _probe_file()
    store.write(path, b"")
    try:
        files, _ = store.files(folder)
    finally:
        store.delete_tree(folder)
    if not files:
        raise StorageError(f"{store.uri} does not show what was just written: use another storage")
    return files[0].modified


def _probe_file() -> tuple[str, str]:
    folder = f"probe-{uuid.uuid4().hex}"
    return folder, f"{folder}/file"


def probe(store: Store) -> None:
    """Do with `store` all that a run does, on one small file; StorageError if anything goes wrong."""
    folder, path = _probe_file()
    created = store.create(path, b"first")  # if this fails there is nothing to remove
    try:
        if not created or store.create(path, b"second"):
            raise StorageError(
                f"{store.uri} does not keep two writers apart: it must honour If-None-Match on writes; "
                "use AWS S3 or a recent S3-compatible server"
            )
        store.write(path, b"third")
        if store.list(folder) != [path] or store.read(path) != b"third":
            raise StorageError(f"{store.uri} does not show what was just written: use another storage")
        if _part(store, path, 1, 3) != b"hir":
            raise StorageError(f"{store.uri} does not give parts of a file (Range on reads): use another storage")
    except BaseException:
        with contextlib.suppress(StorageError):
            store.delete(path)  # listing may be what failed
            store.delete_tree(folder)
        raise
    store.delete_tree(folder)


def _part(store: Store, path: str, start: int, size: int) -> bytes | None:
    with contextlib.suppress(DamagedError):  # a part of another size
        return store.read_part(path, start, size)
    return None
