"""Claim rounds, so that rounds with equal keys are trained once.

The claim on a key is a chain of small files `claims/<key>/<number>.json`; the highest link counts. Every link is made
with create-if-absent, so of all who want to append the next one exactly one succeeds. The owner appends a link as its
heartbeat, a new owner appends one to take over, and a release appends one that says so. The highest link is never
removed and numbers never go down: a process that stalled and continues from an old number sees a higher link, and
knows that it has lost the claim.

A claim is a lease (Gray and Cheriton, "Leases", SOSP 1989) that never compares the clocks of different nodes: a waiter
measures with its own clock how long the chain has not grown.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import threading
import time
import uuid
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from orchestrator.decode import Rule, decode
from orchestrator.errors import DamagedError, StorageError
from orchestrator.sealed import seal, unseal
from orchestrator.storage.process import is_alive, is_gone, this_process
from orchestrator.storage.store import File, MissingError, Store, side_by_side
from orchestrator.validate import finite, text

BEATS = 3  # heartbeats per lease
RETRIES = 20  # tries per lease while the storage fails
MAX_LEASE = 86_400.0  # seconds; a link with a longer lease is damaged
_Lease = Annotated[float, Rule("a lease", lambda seconds: 0 < seconds <= MAX_LEASE)]
LINK_BYTES = 1 << 16
LINK = re.compile(r"claims/([^/]+)/([1-9][0-9]*)\.json")
SWEPT = 20  # old links that one heartbeat removes at most; there is one, unless the folder was filled from outside

log = logging.getLogger(__name__)


class Claims:
    """Hold the claims of one owner. Safe for threads; a daemon thread renews the held claims until `close`.

    `owner` must be unique among living processes: another process with the same name counts as this owner started
    again, and takes its claims over at once. Raises ConfigError for an empty owner or a lease that is not positive.
    """

    def __init__(self, store: Store, owner: str, *, lease_seconds: float = 30.0) -> None:
        text("owner", owner, way_out="give a name that no other living process has")
        finite("lease_seconds", lease_seconds, above=0, maximum=MAX_LEASE)
        self._store = store
        self._impatient = _impatient(store, lease_seconds / BEATS)
        self._me = _Link(
            owner=owner,
            host=platform.node(),
            process=this_process(),
            instance=uuid.uuid4().hex,
            lease_seconds=float(lease_seconds),
            released=False,
        )
        self._chains: dict[str, _Chain] = {}
        self._closed = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name=f"claims of {owner}", daemon=True)
        self._heartbeat.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def acquire(self, key: str) -> bool:
        """Try once to claim `key`, without waiting. Return whether the claim is now ours.

        To wait, call it repeatedly, at least `BEATS` times per lease: a claim is free when it was released, when its
        process on this machine has ended, or when these calls saw no heartbeat for the length of its lease.
        Raises StorageError.
        """
        if self._closed.is_set():
            raise RuntimeError("these claims are closed")
        return self._chain(key).acquire()

    def holds(self, key: str) -> bool:
        """Return whether the claim on `key` is certainly ours at this moment, without asking the storage.

        False as soon as a heartbeat finds it taken over, and while no heartbeat has succeeded for a whole lease. In
        the latter case it is True again if the storage comes back before another owner takes over.
        """
        chain = self._chains.get(key)
        return chain is not None and chain.holds()

    def lost(self, key: str) -> bool:
        """Return whether a heartbeat found our claim on `key` taken over, without asking the storage."""
        chain = self._chains.get(key)
        return chain is not None and chain.lost

    def holder(self, key: str) -> str | None:
        """Return the owner, dead or alive, of the claim on `key`, or "unknown" if it is damaged.

        None if the claim is free. Raises StorageError.
        """
        return self._chain(key).holder()

    def release(self, key: str) -> None:
        """Release the claim on `key` if it is ours. If the storage fails, the claim expires instead."""
        self._chain(key).release()

    def close(self) -> None:
        """Stop the heartbeat and release every claim."""
        self._closed.set()
        self._heartbeat.join()
        for chain in list(self._chains.values()):
            chain.release()

    def _chain(self, key: str) -> _Chain:
        return self._chains.setdefault(key, _Chain(self._store, self._impatient, key, self._me))

    def _beat(self) -> None:
        lease, fails = self._me.lease_seconds, False
        while not self._closed.wait(lease / (RETRIES if fails else BEATS)):
            fails = not self._renew(quiet=fails)

    def _renew(self, quiet: bool = False) -> bool:
        """Send one heartbeat for every held claim. Return whether all succeeded."""
        failed = False
        for chain in list(self._chains.values()):
            try:
                chain.renew()
            except StorageError as error:
                if not (quiet or failed):
                    log.warning("cannot renew the claims of %s: %s (trying again)", self._me.owner, error)
                failed = True
        return not failed


@dataclass(frozen=True, kw_only=True)
class _Link:
    """Hold the content of a link: its owner, and for how long it counts. Links of one `Claims` share its `instance`."""

    owner: str
    host: str
    process: str
    instance: str
    lease_seconds: _Lease
    released: bool

    def to_json(self) -> bytes:
        return seal(asdict(self))

    @staticmethod
    def from_json(text: bytes) -> _Link | None:
        """Parse a link. Return None if it is malformed."""
        try:
            return decode(_Link, unseal(text), more_fields=True)
        except ValueError:
            return None


class _Chain:
    """Hold one key's chain, as far as this process knows it. The lock lets one thread at a time take a step."""

    def __init__(self, store: Store, hasty: Store, key: str, me: _Link) -> None:
        self._store, self._impatient, self._key, self._me = store, hasty, key, me
        self._lock = threading.Lock()
        self._number = 0  # of the highest link seen; 0 before the first
        self._link: _Link | None = None  # its content; None: it is damaged
        self._looked = self._unchanged = 0.0  # when it was last read; seconds for which it was seen not to change
        self._mine = self.lost = False
        self._renewed = 0.0

    def holds(self) -> bool:
        return self._mine and time.monotonic() - self._renewed < self._me.lease_seconds

    def holder(self) -> str | None:
        number = max(self._numbers(self._store), default=0)
        if number == 0:
            return None
        link = self._read(self._store, number)
        if link is None:
            return "unknown"
        return None if link.released else link.owner

    def acquire(self) -> bool:
        with self._lock:
            if not self.holds():
                self._look()
                self._mine = self._is_free() and self._append(self._store, self._me)
                self.lost = self.lost and not self._mine
            return self.holds()

    def renew(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # `acquire` or `release` is running
        try:
            if self._mine:
                self._mine = self._append(self._impatient, self._me)
                if not self._mine:
                    self.lost = True
                    log.warning("%s has lost its claim on %s: it was taken over", self._me.owner, self._key)
        finally:
            self._lock.release()

    def release(self) -> None:
        with self._lock:
            if self._mine:
                self._mine = False
                try:
                    self._append(self._impatient, replace(self._me, released=True))
                except StorageError as error:
                    log.warning("cannot release the claim on %s, it will expire instead: %s", self._key, error)

    def _look(self) -> None:
        # A chain is never empty again: if its folder is gone, the disk is not mounted.
        number = max(self._numbers(self._store), default=self._number)
        now = time.monotonic()
        if number == self._number:
            # A gap longer than a heartbeat counts as one heartbeat: the storage, or all nodes, may have been paused.
            self._unchanged += min(now - self._looked, self._lease() / BEATS)
        else:
            self._number, self._link, self._unchanged = number, self._read(self._store, number), 0.0
        self._looked = now

    def _is_free(self) -> bool:
        if self._number == 0 or self._unchanged >= self._lease():
            return True
        link = self._link
        return link is not None and (link.released or link.owner == self._me.owner or is_gone(link.process))

    def _lease(self) -> float:
        return (self._link or self._me).lease_seconds

    def _append(self, store: Store, link: _Link) -> bool:
        """Make `link` the next one. Return False if another owner has done so first."""
        started = time.monotonic()
        while not store.create(self._path(self._number + 1), link.to_json()):
            found = self._read(store, self._number + 1)
            if found is None or found.instance != self._me.instance:
                return False
            self._number, self._link = self._number + 1, found  # ours: it was written, though the answer was lost
        self._number, self._link, self._unchanged = self._number + 1, link, 0.0
        numbers = self._numbers(store)
        if max(numbers, default=0) != self._number:  # we appended to an old link, so ours fills a gap
            return False
        self._renewed = started  # no waiter can have begun to watch this link earlier
        with contextlib.suppress(StorageError):  # the next heartbeat removes what is left
            old = [number for number in numbers if number < self._number - 1]
            for number in old[:SWEPT]:  # one old link stays, so that no listing in between is empty
                store.delete(self._path(number))
        return True

    def _read(self, store: Store, number: int) -> _Link | None:
        try:
            return _Link.from_json(store.read(self._path(number), LINK_BYTES))
        except (MissingError, DamagedError):  # removed because the chain has just grown, or too large for a link
            return None

    def _numbers(self, store: Store) -> list[int]:
        names = (path.removeprefix(f"claims/{self._key}/") for path in store.list(f"claims/{self._key}"))
        links = (re.fullmatch(r"([1-9][0-9]*)\.json", name) for name in names)
        return [int(link[1]) for link in links if link]

    def _path(self, number: int) -> str:
        return _path(self._key, number)


def holders(store: Store, *, finished: Container[str] = ()) -> dict[str, str]:
    """Return {key: owner}, dead or alive, of every claim that was not released, except for `finished` rounds.

    Raises StorageError.
    """
    newest = _newest(store.list("claims"))
    newest = {key: number for key, number in newest.items() if key not in finished}
    links = zip(newest, side_by_side(store, lambda key: _read_newest(store, key, newest[key]), newest), strict=True)
    return {key: link.owner for key, link in links if not link.released}


def living(store: Store, files: Iterable[File], now: float, patience: float) -> dict[str, str]:
    """Return {key: owner} of the claims among `files` whose owner may be alive. Raises StorageError.

    For a process of this machine the system decides: it may have been silent because the machine slept. Any other
    owner may be alive if the claim was renewed within its lease or `patience` seconds before `now`, by the storage's
    clock.
    """
    renewed = {file.path: file.modified for file in files}
    newest = _newest(renewed)

    def owner(key: str) -> str | None:
        link = _read_newest(store, key, newest[key])
        silent = now - renewed[_path(key, newest[key])]
        silent_too_long = silent > max(patience, link.lease_seconds) and not is_alive(link.process)
        return None if link.released or is_gone(link.process) or silent_too_long else link.owner

    owners = zip(newest, side_by_side(store, owner, newest), strict=True)
    return {key: found for key, found in owners if found is not None}


def is_link(text: bytes) -> bool:
    """Return whether `text` is a well-formed link."""
    return _Link.from_json(text) is not None


def _newest(paths: Iterable[str]) -> dict[str, int]:
    """Return {key: number of its highest link}."""
    newest: dict[str, int] = {}
    for path in paths:
        if found := LINK.fullmatch(path):
            newest[found[1]] = max(newest.get(found[1], 0), int(found[2]))
    return newest


def _read_newest(store: Store, key: str, number: int) -> _Link:
    """Read a link. A damaged one has an "unknown" owner; one that a newer link replaced counts as released."""
    unknown = _Link(owner="unknown", host="", process="", instance="", lease_seconds=1.0, released=False)
    try:
        return _Link.from_json(store.read(_path(key, number), LINK_BYTES)) or unknown
    except MissingError:
        return replace(unknown, released=True)
    except DamagedError:  # larger than any link
        return unknown


def _path(key: str, number: int) -> str:
    return f"claims/{key}/{number}.json"


def _impatient(store: Store, seconds: float) -> Store:
    """Return the same storage without retries and with a time limit: a hanging request must not cost the claim."""
    if store.is_local:
        return store
    from orchestrator.storage.s3 import S3Store  # boto3 takes a second to import

    return S3Store(store.uri, patience_s=0, answer_s=seconds)
