"""Store files in a local folder, the default storage."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator

from orchestrator.errors import StorageError
from orchestrator.files import expand_home
from orchestrator.storage.store import (
    TEMPORARY,
    File,
    Files,
    MissingError,
    check_size,
    clean_folder,
    clean_path,
    is_clean,
    probe,
    whole_part,
)

_WAY_OUT = {
    errno.ENOSPC: "the disk is full: free some space, or choose another storage",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another storage",
    errno.EFBIG: "the file is larger than this system allows: choose another storage",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another storage",
    errno.ENOTDIR: "a file is in the place of a folder: remove it, or choose another folder",
    errno.EEXIST: "a file is in the place of a folder: remove it, or choose another folder",
    errno.EISDIR: "a folder is in the place of a file: remove it, or choose another folder",
    errno.ENOTSUP: "the file system has no hard links, which keep two writers apart: choose another storage",
}
Names = list[str]  # inside the class, `list` is a method


class LocalStore:
    """Store files in a folder, which the first write creates. A relative folder is made absolute at once."""

    is_local = True

    def __init__(self, folder: str) -> None:
        self._root = os.path.abspath(expand_home(folder))

    def __repr__(self) -> str:
        return f"LocalStore({self._root!r})"

    @property
    def uri(self) -> str:
        """Return the absolute folder: Ray's workers have other working directories, where "./runs" is elsewhere."""
        return self._root

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        place = self._place(path)
        with _storage_error("read", place):
            try:
                with open(place, "rb") as file:
                    check_size(path, os.fstat(file.fileno()).st_size, max_bytes)
                    return file.read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise MissingError(f"file {place} does not exist") from None

    def read_part(self, path: str, start: int, size: int) -> bytes:
        place = self._place(path)
        with _storage_error("read", place):
            try:
                with open(place, "rb") as file:
                    data = b""
                    if start + size <= os.fstat(file.fileno()).st_size:  # else read() would allocate `size` bytes
                        file.seek(start)
                        data = file.read(size)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise MissingError(f"file {place} does not exist") from None
        return whole_part(data, place, start, size)

    def write(self, path: str, data: bytes | memoryview) -> None:
        place = self._place(path)
        with _storage_error("write", place), self._temporary(place, data) as temporary:
            os.replace(temporary, place)
            _sync_folder(place)

    def create(self, path: str, data: bytes) -> bool:
        place = self._place(path)
        with _storage_error("write", place), self._temporary(place, data) as temporary:
            try:
                os.link(temporary, place)
            except FileExistsError:
                # NFS may repeat a link() whose answer was lost: then the existing file is ours.
                return os.stat(temporary).st_nlink == 2
            _sync_folder(place)
            return True

    def exists(self, path: str) -> bool:
        place = self._place(path)
        with _storage_error("read", place):
            try:
                return stat.S_ISREG(os.stat(place).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def list(self, prefix: str = "") -> list[str]:
        top = os.path.join(self._root, clean_folder(prefix))
        with _storage_error("list", top):
            return sorted(path for path in self._walk(top, _unless_gone) if is_clean(path))

    def delete(self, path: str) -> None:
        place = self._place(path)
        with _storage_error("delete", place):
            try:
                os.unlink(place)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (IsADirectoryError, PermissionError):
                if not os.path.isdir(place):  # a folder is not a file: nothing to delete
                    raise

    def delete_tree(self, prefix: str) -> None:
        if not prefix:
            raise StorageError("delete_tree needs a folder: it never empties a whole store, got ''")
        top = os.path.join(self._root, clean_folder(prefix))
        with _storage_error("delete", top):
            for folder, _, names in os.walk(top, topdown=False, onerror=_unless_gone):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
                with contextlib.suppress(OSError):  # not empty: another process is writing here
                    os.rmdir(folder)

    def files(self, prefix: str = "") -> tuple[Files, Files]:
        top, refused = os.path.join(self._root, clean_folder(prefix)), []

        def note(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                refused.append(File(self._relative(str(error.filename)), 0, 0.0))

        with _storage_error("list", top):
            return self._measured(sorted(path for path in self._walk(top, note) if is_clean(path))), refused

    def unfinished(self) -> Files:
        with _storage_error("list", self._root):
            paths = self._walk(self._root, lambda _: None)  # skip folders that cannot be read
            return self._measured(sorted(path for path in paths if path.rpartition("/")[2].startswith(TEMPORARY)))

    def discard(self, file: File) -> None:
        place = os.path.join(self._root, file.path)
        with _storage_error("delete", place), contextlib.suppress(FileNotFoundError):
            os.unlink(place)

    def check(self) -> None:
        place = self._root
        with _storage_error("write", place):
            while _is_missing(place):  # probe where the folder will be made, because the run may still be refused
                place = os.path.dirname(place)
        try:
            probe(LocalStore(place))
        except StorageError as error:
            if place == self._root:
                raise
            raise StorageError(f"{self._root} cannot be made: {error}") from error

    def _walk(self, top: str, on_error: Callable[[OSError], None]) -> Iterator[str]:
        """Yield the path of every file below the folder `top`, of any name."""
        for folder, _, names in os.walk(top, onerror=on_error):
            yield from (self._relative(os.path.join(folder, name)) for name in names)

    def _relative(self, place: str) -> str:
        return os.path.relpath(place, self._root).replace(os.sep, "/")

    def _measured(self, paths: Names) -> Files:
        found = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # removed a moment ago
                stats = os.stat(os.path.join(self._root, path), follow_symlinks=False)
                found.append(File(path, stats.st_size, stats.st_mtime))
        return found

    def _place(self, path: str) -> str:
        return os.path.join(self._root, clean_path(path))

    @contextlib.contextmanager
    def _temporary(self, place: str, data: bytes | memoryview) -> Iterator[str]:
        """Write and sync `data` to a temporary file beside `place`; it is removed unless the process is killed."""
        folder = os.path.dirname(place)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


@contextlib.contextmanager
def _storage_error(action: str, place: str) -> Iterator[None]:
    """Turn an OSError into a StorageError of one sentence with the way out."""
    try:
        yield
    except OSError as error:
        reason = _WAY_OUT.get(error.errno or 0, error.strerror or str(error))
        if action in ("read", "list") and error.errno in (errno.EACCES, errno.EPERM):
            reason = "permission denied: choose a folder that you may read, or let this user read it"
        raise StorageError(f"cannot {action} {place}: {reason}") from error


def _is_missing(place: str) -> bool:
    """Return whether nothing is at `place`. Raises PermissionError if that cannot be known."""
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def _unless_gone(error: OSError) -> None:
    """Ignore the error of os.walk if the folder is missing, which is an empty one; raise any other."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _sync_folder(place: str) -> None:
    """Write the folder to disk, so that a new name survives a power cut and no record outlives its blobs."""
    folder = os.open(os.path.dirname(place), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
