from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import FaultProxy, S3Server
from waiting import PATIENCE_S, wait_for

from orchestrator.errors import ConfigError, StorageError
from orchestrator.sealed import sha256_of
from orchestrator.storage.claims import Claims
from orchestrator.storage.local import LocalStore
from orchestrator.storage.opening import open_store
from orchestrator.storage.process import this_process
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.store import Store

NEVER = 600.0  # a lease that does not end in a test
LEASES = (0.5, 2.0, 8.0, 30.0)  # tried until one is kept: a machine that stands still for a whole lease ends any claim
LOOKS = 6  # a waiter that sees no heartbeat takes a claim over in five
ELSEWHERE = "4321 99 pid:[1] another-boot"

# Obeys lines "method key instant"; its clocks may run `ahead` of ours.
WORKER = """
import sys, time
uri, owner, lease, ahead = sys.argv[1:]
now = time.monotonic
for clock in "time", "monotonic":
    setattr(time, clock, lambda right=getattr(time, clock): right() + float(ahead))
from orchestrator.storage.claims import Claims
from orchestrator.storage.opening import open_store
claims = Claims(open_store(uri), owner, lease_seconds=float(lease))
print("ready", flush=True)
for line in sys.stdin:
    method, key, instant = line.split()
    while now() < float(instant):
        pass
    print(getattr(claims, method)(key), flush=True)
"""


class Worker:
    """Another process that has claims."""

    def __init__(self, uri: str, owner: str, lease: float, ahead: float = 0.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, uri, owner, str(lease), str(ahead)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def tell(self, method: str, key: str, instant: float = 0.0) -> None:
        assert self.process.stdin is not None
        print(method, key, instant, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, method: str, key: str) -> str:
        self.tell(method, key)
        return self.answer()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["local", "s3", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "local" else request.getfixturevalue(f"{request.param}_uri")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "runs"))


@pytest.fixture
def workers() -> Iterator[Callable[..., list[Worker]]]:
    """Starts one worker for each owner, all at once, and returns when they are ready."""
    started: list[Worker] = []

    def start(uri: str, *owners: str, lease: float, ahead: tuple[float, ...] = ()) -> list[Worker]:
        new = [Worker(uri, owner, lease, sum(ahead[i : i + 1])) for i, owner in enumerate(owners)]
        started.extend(new)
        assert [worker.answer() for worker in new] == ["ready"] * len(new)
        return new

    yield start
    for worker in started:
        worker.end()


@pytest.fixture
def claims_of() -> Iterator[Callable[..., Claims]]:
    opened: list[Claims] = []

    def start(store: Store, owner: str, lease: float = NEVER) -> Claims:
        opened.append(Claims(store, owner, lease_seconds=lease))
        return opened[-1]

    yield start
    for claims in opened:
        claims.close()


def wait_until(true: Callable[[], bool]) -> float:
    """Seconds that it took."""
    started = time.monotonic()
    wait_for(true, "what the test waits for", pause=0.02)
    return time.monotonic() - started


def is_always(true: Callable[[], bool], seconds: float) -> bool:
    deadline, looks = time.monotonic() + seconds, 0
    while time.monotonic() < deadline or looks < LOOKS:
        if not true():
            return False
        looks += 1
        time.sleep(0.02)
    return True


def put_link(store: Store, key: str, number: int = 1, **changes: Any) -> None:
    """A link as another process would write it, on another machine unless told otherwise."""
    link = {
        "owner": "another",
        "host": "node-7",
        "process": ELSEWHERE,
        "instance": "i",
        "lease_seconds": 0.2,
        "released": False,
    }
    content = {**link, **changes}
    store.write(f"claims/{key}/{number}.json", json.dumps({**content, "sha256": sha256_of(content)}).encode())


def links(store: Store, key: str) -> list[int]:
    return sorted(int(Path(path).stem) for path in store.list(f"claims/{key}"))


def wait_for_heartbeat(store: Store, key: str) -> None:
    last = links(store, key)[-1]
    wait_until(lambda: links(store, key)[-1] > last)


class Disk:
    """A place for a store. Its swap takes no time: a heartbeat never finds a place to write between the two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "real").mkdir()
        (folder / "broken").write_text("a file where the folder was")
        self.swap("real")
        self.store = LocalStore(str(folder / "disk" / "runs"))

    def swap(self, to: str) -> None:
        (self._folder / "next").symlink_to(self._folder / to)
        os.replace(self._folder / "next", self._folder / "disk")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


# Races


def test_of_racing_processes_exactly_one_wins(uri: str, workers: Callable[..., list[Worker]]) -> None:
    store = open_store(uri)
    pid, _, machine = this_process().split(" ", 2)
    ended = f"{pid} 1 {machine}"  # its id is used again
    for race in range(20):
        if race % 3:  # the others are new
            put_link(store, f"k{race}", 7, released=race % 3 == 1, process=ended, lease_seconds=NEVER)
    racers = workers(uri, "a", "b", "c", lease=NEVER)
    for race in range(20):
        start = time.monotonic() + 0.01
        for racer in racers:
            racer.tell("acquire", f"k{race}", start)
        answers = [racer.answer() for racer in racers]
        assert sorted(answers) == ["False", "False", "True"]
        assert racers[0].ask("holder", f"k{race}") == "abc"[answers.index("True")]
        assert [racer.ask("holds", f"k{race}") for racer in racers] == answers
        assert [racer.ask("acquire", f"k{race}") for racer in racers] == answers


class Stalling(LocalStore):
    """Stands still at random, now and then for longer than a lease, before or after doing what it is told."""

    def __init__(self, folder: str, lease: float, seed: int) -> None:
        super().__init__(folder)
        self._lease, self._random = lease, random.Random(seed)

    def _stall(self) -> None:
        if self._random.random() < 0.08:
            time.sleep(self._random.choice([0.3, 1.5, 4.0]) * self._lease)

    def create(self, path: str, data: bytes) -> bool:
        self._stall()
        created = super().create(path, data)
        self._stall()
        return created

    def list(self, prefix: str = "") -> list[str]:
        self._stall()
        return super().list(prefix)


def test_two_never_hold_at_the_same_moment_however_storage_stalls(tmp_path: Path) -> None:
    lease, key, start = 0.1, "k", time.monotonic()
    everyone = [Claims(Stalling(str(tmp_path), lease, seed), f"o{seed}", lease_seconds=lease) for seed in range(4)]
    turns: list[str] = []
    wrong: list[str] = []

    def is_over() -> bool:  # a busy machine gets the time that it takes until each had its turn
        seconds = time.monotonic() - start
        return seconds > PATIENCE_S or (seconds > 3 and len(set(turns)) == len(everyone))

    def keep_trying(claims: Claims, owner: str) -> None:
        while not is_over():
            if claims.acquire(key) and turns[-1:] != [owner]:
                turns.append(owner)
            if random.random() < 0.05:
                claims.release(key)
            time.sleep(lease / 10)

    threads = [threading.Thread(target=keep_trying, args=(c, f"o{i}")) for i, c in enumerate(everyone)]
    for thread in threads:
        thread.start()
    while not is_over():
        for first, second in itertools.permutations(everyone, 2):
            # The first held before and after the second did, in less time than a release and a new claim take.
            before = time.monotonic()
            both = first.holds(key) and second.holds(key) and first.holds(key)
            if both and time.monotonic() - before < lease / 10:
                wrong.append(f"{turns[-2:]}")
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    for claims in everyone:
        claims.close()
    assert not wrong
    assert len(set(turns)) == 4, "somebody never had the claim: nothing was tried"


# Takeover


def test_the_claim_of_a_killed_process_on_this_machine_is_free_at_once(
    uri: str, workers: Callable[..., list[Worker]], claims_of: Callable[..., Claims]
) -> None:
    (owner,) = workers(uri, "owner", lease=NEVER)
    waiter = claims_of(open_store(uri), "waiter")
    assert owner.ask("acquire", "k") == "True"
    assert not waiter.acquire("k")
    assert waiter.holder("k") == "owner"
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    assert waiter.acquire("k")
    assert waiter.holder("k") == "waiter"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="another machine"),
        pytest.param({"process": this_process()}, id="a living process here that does not renew"),
        pytest.param({"process": "nonsense"}, id="no process"),
        pytest.param({"process": 5}, id="damaged: process"),
        pytest.param({"owner": None}, id="damaged: owner"),
        pytest.param({"lease_seconds": float("nan")}, id="damaged: lease not a number"),
        pytest.param({"lease_seconds": float("inf")}, id="damaged: lease endless"),
        pytest.param({"lease_seconds": -1.0}, id="damaged: lease negative"),
        pytest.param({"lease_seconds": "long"}, id="damaged: lease a word"),
        pytest.param({"released": "no"}, id="damaged: released"),
        *[pytest.param(text, id=f"damaged: {text!r:.12}") for text in (b"", b"{", b"[]", b"\xff\0", b"null", b"{}")],
        pytest.param(b"[" * 100_000, id="damaged: nested"),
    ],
)
def test_a_claim_that_is_not_renewed_is_taken_over_after_the_lease(
    local: LocalStore, claims_of: Callable[..., Claims], changes: dict[str, Any] | bytes
) -> None:
    if isinstance(changes, bytes):
        local.write("claims/k/3.json", changes)
    else:
        put_link(local, "k", 3, **changes)
    waiter = claims_of(local, "waiter", 0.2)
    assert waiter.holder("k") in ("another", "unknown")
    assert wait_until(lambda: waiter.acquire("k")) >= 0.2
    assert waiter.holder("k") == "waiter"


def test_the_lease_of_the_claim_counts_not_that_of_the_waiter(
    local: LocalStore, claims_of: Callable[..., Claims]
) -> None:
    put_link(local, "short", lease_seconds=0.3)
    put_link(local, "long", lease_seconds=NEVER)
    patient, hasty = claims_of(local, "patient", NEVER), claims_of(local, "hasty", 0.1)
    assert wait_until(lambda: patient.acquire("short")) >= 0.3
    assert is_always(lambda: not hasty.acquire("long"), 0.4)


def test_a_waiter_that_looks_seldom_does_not_mistake_a_pause_of_all_for_a_death(
    local: LocalStore, claims_of: Callable[..., Claims]
) -> None:
    put_link(local, "k", 1, lease_seconds=0.3)
    waiter = claims_of(local, "waiter", 0.3)
    assert not waiter.acquire("k")
    time.sleep(0.6)  # the machine slept, or the storage was away
    assert not waiter.acquire("k")
    put_link(local, "k", 2, lease_seconds=0.3)  # the first heartbeat after it
    assert not waiter.acquire("k")


@pytest.mark.parametrize(
    "stray", ["claims/k/notes.txt", "claims/k/09.json", "claims/k/-5.json", "claims/k/more/9.json"]
)
def test_other_files_are_no_links(local: LocalStore, claims_of: Callable[..., Claims], stray: str) -> None:
    local.write(stray, b"mine")
    claims = claims_of(local, "owner")
    assert claims.holder("k") is None
    assert claims.acquire("k")
    assert local.read(stray) == b"mine"


def test_the_same_owner_started_again_goes_on_and_its_old_self_has_lost(
    uri: str, workers: Callable[..., list[Worker]], claims_of: Callable[..., Claims]
) -> None:
    store = open_store(uri)
    (old,) = workers(uri, "owner", lease=3.0)
    wait_until(lambda: old.ask("acquire", "k") == "True")
    new = claims_of(store, "owner", 3.0)
    wait_until(lambda: new.acquire("k"))  # not at once if the old self's heartbeat came in between
    wait_until(lambda: old.ask("lost", "k") == "True")
    assert old.ask("holds", "k") == "False"
    wait_for_heartbeat(store, "k")
    assert not new.lost("k")
    wait_until(lambda: new.holds("k"))


# Heartbeat


def test_a_heartbeat_keeps_a_claim_beyond_several_leases_whatever_the_clocks_say(
    uri: str, workers: Callable[..., list[Worker]]
) -> None:
    """Also: old links go."""
    store = open_store(uri)

    def all_keep_theirs(lease: float) -> bool:
        a, b, o = (f"{key}{lease:g}" for key in "abo")
        ahead, behind = workers(uri, "ahead", "behind", lease=lease, ahead=(1e6, -1e6))
        with Claims(store, "ours", lease_seconds=lease) as ours:

            def keep() -> bool:
                others = [ours.acquire(a), ours.acquire(b)]
                theirs = [ahead.ask("acquire", b), ahead.ask("acquire", o), behind.ask("acquire", a)]
                holds = [ahead.ask("holds", a), behind.ask("holds", b)]
                return not any(others) and theirs == ["False"] * 3 and holds == ["True"] * 2 and ours.holds(o)

            acquired = [ahead.ask("acquire", a), behind.ask("acquire", b), str(ours.acquire(o))]
            kept = acquired == ["True"] * 3 and is_always(keep, 2.5 * lease)
            for key in (a, b, o) if kept else ():
                wait_until(lambda key=key: (found := links(store, key))[-1] >= 6 and len(found) <= 3)
        for worker in (ahead, behind):
            worker.signal(signal.SIGKILL)
        return kept

    assert any(all_keep_theirs(lease) for lease in LEASES)


def test_a_stopped_owner_has_lost_when_it_goes_on(
    uri: str, workers: Callable[..., list[Worker]], claims_of: Callable[..., Claims]
) -> None:
    lease = 0.5 if "://" not in uri else 1.0
    (stopped,) = workers(uri, "stopped", lease=lease)
    waiter = claims_of(open_store(uri), "waiter")
    wait_until(lambda: stopped.ask("acquire", "k") == "True")
    stopped.signal(signal.SIGSTOP)
    assert wait_until(lambda: waiter.acquire("k")) >= lease
    stopped.signal(signal.SIGCONT)
    assert is_always(lambda: stopped.ask("holds", "k") == "False" and waiter.holder("k") == "waiter", lease)
    wait_until(lambda: stopped.ask("lost", "k") == "True")
    assert not waiter.lost("k")
    waiter.release("k")
    assert is_always(lambda: stopped.ask("holds", "k") == "False" and waiter.holder("k") is None, 0.5 * lease)


@pytest.mark.parametrize("arrives", ["it", "its repetition"])
def test_a_heartbeat_that_arrives_late_revives_nothing(
    s3_uri: str, s3_server: S3Server, fault_proxy: FaultProxy, claims_of: Callable[..., Claims], arrives: str
) -> None:
    """A PUT hangs in the network until others took the claim over, went on, and removed what it was based on."""
    late = claims_of(S3Store(s3_uri), "late", 0.9)  # through the proxy
    direct = open_store(s3_uri)
    direct._client = s3_server.admin  # type: ignore[attr-defined]
    fault_proxy.inject("reset", method="PUT", part="claims/k/2.json", times=1_000_000)
    late.acquire("k")  # False if it takes longer than the lease, ours all the same
    sent = direct.read("claims/k/1.json")  # a heartbeat says the same
    wait_until(lambda: fault_proxy.faults_left < 1_000_000 and not late.holds("k"))
    for number in range(2, 10):
        put_link(direct, "k", number, owner="next", lease_seconds=NEVER)
    for number in range(1, 8):
        direct.delete(f"claims/k/{number}.json")
    if arrives == "it":
        assert direct.create("claims/k/2.json", sent)
    fault_proxy.heal()
    wait_until(lambda: late.holds("k") or late.lost("k"))
    assert links(direct, "k")[0] == 2, "it has arrived, in a gap"
    assert is_always(lambda: not late.holds("k") and late.holder("k") == "next" and not late.acquire("k"), 0.6)


# Storage that fails


def test_an_outage_longer_than_the_lease_in_which_nobody_took_over_is_no_loss(
    s3_uri: str, fault_proxy: FaultProxy, claims_of: Callable[..., Claims]
) -> None:
    claims = claims_of(S3Store(s3_uri), "cut off", 1.5)
    wait_until(lambda: claims.acquire("k"))
    fault_proxy.cut_off(NEVER)
    tries = fault_proxy.count("PUT")
    wait_until(lambda: not claims.holds("k") and fault_proxy.count("PUT") > tries + 1)
    assert not claims.lost("k"), "its round trains on"
    fault_proxy.heal()
    wait_until(lambda: claims.holds("k"))
    assert not claims.lost("k")


def test_an_outage_shorter_than_the_lease_loses_nothing(
    s3_uri: str, s3_server: S3Server, fault_proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """And is told once."""
    direct = open_store(s3_uri)
    direct._client = s3_server.admin  # type: ignore[attr-defined]

    def loses_nothing(lease: float) -> bool:
        key = f"k{lease:g}"
        with Claims(S3Store(s3_uri), "owner", lease_seconds=lease) as owner, Claims(direct, "waiter") as waiter:
            owner.acquire(key)
            caplog.clear()
            fault_proxy.cut_off(NEVER)
            tries = fault_proxy.count("PUT")
            wait_until(lambda: waiter.acquire(key) or fault_proxy.count("PUT") > tries + 5)
            told = [line for line in caplog.messages if "cannot renew the claims of owner" in line]
            fault_proxy.heal()
            healed = links(direct, key)[-1]
            wait_until(lambda: waiter.acquire(key) or links(direct, key)[-1] > healed)
            return len(told) == 1 and waiter.holder(key) == "owner"

    assert any(loses_nothing(lease) for lease in LEASES[1:])


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("drop", id="its answer is lost"),
        pytest.param("delay", id="it hangs"),
        pytest.param("status", id="it is refused"),
    ],
)
def test_a_heartbeat_that_fails_once_is_repeated(s3_uri: str, fault_proxy: FaultProxy, fault: str) -> None:
    store = S3Store(s3_uri)

    def is_repeated_in_time(lease: float) -> bool:
        key = f"k{lease:g}"
        link = f"claims/{key}/2.json"
        fault_proxy.inject(fault, seconds=3 * lease, method="PUT", part=link)
        with Claims(store, "owner", lease_seconds=lease) as owner, Claims(store, "waiter") as waiter:
            owner.acquire(key)
            wait_until(lambda: waiter.acquire(key) or links(store, key)[-1] > 2)
            tries = sum(method == "PUT" and path.endswith(link) for method, path in fault_proxy.seen)
            return tries > 1 and waiter.holder(key) == "owner"

    assert any(is_repeated_in_time(lease) for lease in LEASES[1:])


def test_an_outage_of_the_storage_for_all_ends_no_heartbeat_and_moves_no_claim(
    disk: Disk, claims_of: Callable[..., Claims], caplog: pytest.LogCaptureFixture
) -> None:
    owner, waiter = (claims_of(disk.store, name, 1.0) for name in ("owner", "waiter"))
    wait_until(lambda: owner.acquire("k"))
    wait_until(lambda: links(disk.store, "k")[-1] > 3)  # the first links are gone
    assert not waiter.acquire("k")
    disk.swap("broken")
    wait_until(lambda: not owner.holds("k"))
    with pytest.raises(StorageError, match="a file is in the place of a folder"):
        owner.acquire("k")
    time.sleep(1.0)
    disk.swap("real")
    assert not waiter.acquire("k")
    wait_until(lambda: owner.holds("k"))
    for _ in range(LOOKS):
        wait_for_heartbeat(disk.store, "k")
        assert not waiter.acquire("k")
    assert not owner.lost("k")
    assert [line for line in caplog.messages if "lost" in line] == []


def test_what_is_held_asks_no_storage(local: LocalStore, tmp_path: Path, claims_of: Callable[..., Claims]) -> None:
    owner = claims_of(local, "owner")
    assert owner.acquire("k")
    os.rename(tmp_path / "runs", tmp_path / "away")
    (tmp_path / "runs").write_text("a file where the folder was")
    assert owner.acquire("k")
    assert owner.holds("k")
    assert not owner.holds("another")


# Release


def test_release_lets_the_next_in_at_once(
    uri: str, workers: Callable[..., list[Worker]], claims_of: Callable[..., Claims]
) -> None:
    (next_one,) = workers(uri, "next", lease=NEVER)
    owner = claims_of(open_store(uri), "owner")
    for _ in range(2):
        assert owner.acquire("k")
        assert next_one.ask("acquire", "k") == "False"
        owner.release("k")
        assert owner.holder("k") is None
        assert not owner.holds("k")
        assert next_one.ask("acquire", "k") == "True"
        assert not owner.acquire("k")
        next_one.ask("release", "k")
    assert len(links(open_store(uri), "k")) == 2


def test_releasing_what_is_not_ours_changes_nothing(local: LocalStore, claims_of: Callable[..., Claims]) -> None:
    owner, other = claims_of(local, "owner"), claims_of(local, "other")
    assert owner.acquire("k")
    assert not other.acquire("k")
    other.release("k")
    other.release("never seen")
    assert owner.holder("k") == "owner"
    assert local.list() == ["claims/k/1.json"]


def test_a_release_that_fails_is_told_and_the_claim_expires(
    disk: Disk, claims_of: Callable[..., Claims], caplog: pytest.LogCaptureFixture
) -> None:
    owner, waiter = claims_of(disk.store, "owner", 0.5), claims_of(disk.store, "waiter")
    wait_until(lambda: owner.acquire("k"))
    disk.swap("broken")
    owner.release("k")
    assert "cannot release the claim" in caplog.text
    disk.swap("real")
    assert not waiter.acquire("k")
    wait_until(lambda: waiter.acquire("k"))


def test_close_releases_everything_and_stops_the_heartbeat(local: LocalStore) -> None:
    def heartbeats() -> int:
        return sum(thread.name == "claims of the closed one" for thread in threading.enumerate())

    with Claims(local, "the closed one", lease_seconds=NEVER) as claims:
        assert claims.acquire("a")
        assert claims.acquire("b")
        assert heartbeats() == 1
    assert heartbeats() == 0
    assert [claims.holder(key) for key in "ab"] == [None, None]
    claims.close()
    with pytest.raises(RuntimeError, match="closed"):
        claims.acquire("a")


@pytest.mark.parametrize(
    ("owner", "lease", "message"),
    [
        ("", 1.0, "owner must be a text that is not empty, got '': give a name that no"),
        ("a", 0.0, "lease_seconds must be a finite number above 0 and of 86400.0 or less, got 0.0"),
        ("a", -1.0, "got -1.0"),
        ("a", float("nan"), "got nan"),
        ("a", float("inf"), "got inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(local: LocalStore, owner: str, lease: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Claims(local, owner, lease_seconds=lease)


@pytest.mark.parametrize("key", ["", "..", "/etc", "a\\b"])
def test_a_key_that_is_no_name_is_refused(local: LocalStore, claims_of: Callable[..., Claims], key: str) -> None:
    with pytest.raises(StorageError, match="a path in storage is relative and plain"):
        claims_of(local, "owner").acquire(key)
