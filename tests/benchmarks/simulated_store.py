"""A storage that answers after a while on a clock of its own, and counts what it is asked by kind and by purpose."""

from __future__ import annotations

import time
from collections import Counter

from orchestrator.storage.store import MissingError, check_size, clean_folder, clean_path

PAGE = 1000  # names in one answer to a listing, and files in one deletion of many, as S3 has it


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class RealClock:
    """Seconds that really pass: for what several threads do at a time."""

    @property
    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class SimulatedStore:
    """Every request takes `latency` seconds. Requests are those that S3Store would make for the same call.

    `purpose` names what the requests of this moment are for; `rates` has, per second, reads (GET and LIST) and writes
    (PUT and DELETE): the two that S3 limits.
    """

    is_local = False
    uri = "s3://simulated/runs"

    def __init__(self, clock: Clock | RealClock, latency: float) -> None:
        self.clock, self.latency = clock, latency
        self.files: dict[str, bytes] = {}
        self._folders: dict[str, set[str]] = {}
        self.purpose = ""
        self.requests: Counter[tuple[str, str]] = Counter()  # (purpose, kind)
        self.rates: Counter[tuple[str, int]] = Counter()  # ("reads" or "writes", second)

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        self._request("GET")
        if (data := self.files.get(clean_path(path))) is None:
            raise MissingError(f"file {path} does not exist")
        check_size(path, len(data), max_bytes)
        return data

    def write(self, path: str, data: bytes | memoryview) -> None:
        self._request("PUT")
        self._put(clean_path(path), bytes(data))

    def create(self, path: str, data: bytes) -> bool:
        self._request("PUT")
        if path in self.files:
            return False
        self._put(clean_path(path), data)
        return True

    def exists(self, path: str) -> bool:
        self._request("LIST")
        return path in self.files

    def list(self, prefix: str = "") -> list[str]:
        found = sorted(self._folders.get(clean_folder(prefix), ()))
        self._request("LIST", -(-len(found) // PAGE) or 1)
        return found

    def delete(self, path: str) -> None:
        self._request("DELETE")
        self._remove(path)

    def delete_tree(self, prefix: str) -> None:
        found = self.list(prefix)
        self._request("DELETE", -(-len(found) // PAGE))
        for path in found:
            self._remove(path)

    def check(self) -> None:
        return

    def _request(self, kind: str, count: int = 1) -> None:
        self.requests[self.purpose, kind] += count
        self.rates["reads" if kind in ("GET", "LIST") else "writes", int(self.clock.now)] += count
        self.clock.wait(count * self.latency)

    def _put(self, path: str, data: bytes) -> None:
        self.files[path] = data
        for folder in _folders(path):
            self._folders.setdefault(folder, set()).add(path)

    def _remove(self, path: str) -> None:
        if self.files.pop(path, None) is not None:
            for folder in _folders(path):
                self._folders[folder].discard(path)


def _folders(path: str) -> list[str]:
    """Of "a/b/c": "", "a/" and "a/b/"."""
    parts = path.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:end]) for end in range(len(parts) + 1)]
