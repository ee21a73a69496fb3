"""What killed jobs left goes; what a living job, or an unfinished experiment, may still read stays."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from storage.test_ledger import MASKS, STATE, record
from storage.whole import EXPERIMENT, KEYS, checkpoint, commit, experiment, whole_storage

from orchestrator.__main__ import main
from orchestrator.errors import StorageError
from orchestrator.storage.claims import Claims
from orchestrator.storage.clean import PATIENCE_SECONDS, Leftovers, leftovers, remove
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.local import LocalStore
from orchestrator.storage.opening import open_store
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.store import File, Store
from orchestrator.storage.verify import verify
from orchestrator.train_state import TrainState
from orchestrator.work.snapshot import snapshot_key

RUN = f"train/e.0-{'a' * 32}"
PROBE = f"probe-{'b' * 32}/file"
LATER = 2 * PATIENCE_SECONDS


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "runs"))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return whole_storage(open_store(str(tmp_path / "runs")))


def found(ledger: Ledger, *, snapshots: bool = False, now: float | None = None) -> Leftovers:
    return leftovers(ledger, snapshots=snapshots, now=time.time() + LATER if now is None else now)


def paths(ledger: Ledger, **options: bool) -> set[str]:
    return {leftover.file.path for leftover in found(ledger, **options).found}


def killed_jobs(store: Store) -> set[str]:
    """Leave what kills leave, and return the paths."""
    for path in (
        f"probe-{'b' * 32}/file",
        f"{RUN}/.validate_storage_marker",
        f"{RUN}/checkpoint_manager_snapshot.json",
    ):
        store.write(path, b"left")
    store.write(f"rounds/{KEYS[0]}/model-{'c' * 16}.safetensors", b"another owner's bits")
    store.write(f"rounds/{KEYS[1]}/failed.json", b"{}")
    checkpoint(store, KEYS[1])
    checkpoint(store, snapshot_key(KEYS[0], 2))
    if isinstance(store, S3Store):
        upload = {"Bucket": store.bucket, "Key": f"{store._root}rounds/{KEYS[2]}/model-{'d' * 16}.safetensors"}
        store._client.create_multipart_upload(**upload)
        store._client.create_multipart_upload(Bucket=store.bucket, Key=f"{store._root}not-ours")
        unended = {upload["Key"].removeprefix(store._root)}
    else:
        Path(store.uri, f"rounds/{KEYS[1]}/.tmp-{'e' * 32}").write_bytes(b"half")
        unended = {f"rounds/{KEYS[1]}/.tmp-{'e' * 32}"}
    return (
        unended
        | {path for path in store.list() if path.startswith(("probe-", RUN))}
        | {
            f"rounds/{KEYS[0]}/model-{'c' * 16}.safetensors",
            f"rounds/{KEYS[1]}/failed.json",
            *store.list(f"train/{KEYS[1]}"),
            *store.list(f"train/{snapshot_key(KEYS[0], 2)}"),
            *store.list(f"claims/{KEYS[0]}"),
            *store.list(f"claims/{KEYS[1]}"),
        }
    )


def test_what_kills_leave_is_removed_and_nothing_else(store: Store) -> None:
    ledger = whole_storage(store)
    before = set(store.list())
    left = killed_jobs(store)
    if store.is_local:  # moto begins every upload in 2010
        assert found(ledger, now=time.time()).found == (), "a job may be writing it"
        assert found(ledger, now=time.time()).fresh == len(left)
    assert paths(ledger) == left
    remove(store, found(ledger).found)
    assert set(store.list()) == before - {path for path in before if path.startswith("claims/") and KEYS[2] not in path}
    assert store.unfinished() == [] or [file.path for file in store.unfinished()] == ["not-ours"]
    assert found(ledger).found == ()
    assert not [finding for finding in verify(ledger) if finding.problem]


def test_what_a_living_owner_has_claimed_stays(ledger: Ledger) -> None:
    """Its files are older than the patience: it is alive by its claim alone, renewed a moment ago."""
    left = killed_jobs(ledger.store)
    with Claims(ledger.store, "e.0 on here, 2", lease_seconds=3600) as claims:
        assert all(claims.acquire(key) for key in KEYS)
        claimed = {path for path in {*left, *ledger.store.list()} if path.startswith("claims/")}
        for path in {*left, *ledger.store.list()} - claimed:
            os.utime(Path(ledger.store.uri, path), (0, 0))
        kept = {leftover.file.path for leftover in leftovers(ledger, snapshots=True).found}
        assert kept == {PROBE, f"rounds/{KEYS[1]}/failed.json"}, "which no claim is about"


def test_beside_a_job_that_runs_its_next_round_finishes(ledger: Ledger) -> None:
    killed_jobs(ledger.store)
    with Claims(ledger.store, "e.0 on here, 2", lease_seconds=3600) as claims:
        assert claims.acquire(KEYS[2])
        under_way = ledger.store.list(f"train/{KEYS[2]}")
        remove(ledger.store, found(ledger, snapshots=True).found)
        assert ledger.store.list(f"train/{KEYS[2]}") == under_way
        assert ledger.snapshot(KEYS[0], "2").model.keys() == STATE.model.keys()
        assert claims.holds(KEYS[2])
        commit(ledger, 2)
    assert {finding.problem for finding in verify(ledger)} == {None}


def test_a_claim_that_was_not_renewed_within_its_lease_is_dead(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.claims.this_process", lambda: "")  # of a machine that does not say
    with Claims(ledger.store, "e.0 elsewhere", lease_seconds=LATER + 600) as claims:
        assert claims.acquire(KEYS[1])
        assert not paths(ledger) & set(ledger.store.list(f"claims/{KEYS[1]}"))
        later = {each.file.path for each in found(ledger, now=time.time() + LATER + 700).found}
        assert set(ledger.store.list(f"claims/{KEYS[1]}")) <= later


def test_each_record_is_read_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage in the network answers each after a while."""
    read, seen = LocalStore.read, []

    def noted(self: LocalStore, path: str, max_bytes: int | None = None) -> bytes:
        seen.append(path)
        return read(self, path, max_bytes)

    monkeypatch.setattr(LocalStore, "read", noted)
    found(ledger, snapshots=True)
    assert sorted(path for path in seen if path.endswith("/record.json")) == [
        f"rounds/{key}/record.json" for key in KEYS[:2]
    ]


def test_a_process_of_this_machine_is_alive_however_long_it_was_silent(ledger: Ledger) -> None:
    """The machine may have slept, and the job goes on."""
    with Claims(ledger.store, "e.0 on here, 2", lease_seconds=3600) as claims:
        assert claims.acquire(KEYS[2])
        under_way = ledger.store.list(f"train/{KEYS[2]}")
        for path in ledger.store.list():
            os.utime(Path(ledger.store.uri, path), (0, 0))
        experiment(ledger, keys=KEYS[:2])
        assert not paths(ledger, snapshots=True) & set(under_way)


def test_a_claim_is_as_old_as_the_clock_of_the_storage_says(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server may be 20 minutes behind: what it has just written is not old."""
    monkeypatch.setattr("orchestrator.storage.claims.this_process", lambda: "")
    measured = LocalStore._measured

    def behind(self: LocalStore, paths: list[str]) -> list[File]:
        return [replace(file, modified=file.modified - LATER) for file in measured(self, paths)]

    monkeypatch.setattr(LocalStore, "_measured", behind)
    killed_jobs(ledger.store)
    with Claims(ledger.store, "e.0 elsewhere", lease_seconds=30) as claims:
        assert claims.acquire(KEYS[1])
        assert leftovers(ledger, snapshots=True).found == ()
    assert [path for path in ledger.store.list() if path.startswith("probe-")] == [PROBE], "the clock left no file"


SNAPSHOT = f"snapshots/{KEYS[0]}/2.safetensors"
GRADIENTS = f"snapshots/{KEYS[1]}/gradients.safetensors"


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({}, set()),
        ({"rewinds_to": [3]}, {SNAPSHOT}),
        ({"rewinds_to": []}, {SNAPSHOT}),
        ({"rewinds_to": None}, set()),  # written by an earlier version: any epoch may be needed
        ({"keys": KEYS[:2]}, {SNAPSHOT, GRADIENTS}),  # finished
    ],
)
def test_snapshots_go_when_no_unfinished_experiment_rewinds_to_them(
    ledger: Ledger, change: dict, gone: set[str]
) -> None:
    ledger.write_snapshot(KEYS[1], "gradients", TrainState(STATE.model))
    experiment(ledger, **change)
    assert paths(ledger, snapshots=True) & {SNAPSHOT, GRADIENTS} == gone
    assert not paths(ledger) & {SNAPSHOT, GRADIENTS}
    experiment(ledger, name="other")
    assert SNAPSHOT not in paths(ledger, snapshots=True), "another experiment still rewinds to it"


def test_what_is_left_of_rounds_that_no_experiment_asks_for(ledger: Ledger) -> None:
    half = f"rounds/{'7' * 64}/model-{'7' * 16}.safetensors"
    for path in (half, *(f"rounds/{'8' * 64}/{kind}-{'8' * 16}.safetensors" for kind in ("model", "optimizer"))):
        ledger.store.write(path, b"")
    other = checkpoint(ledger.store, "7" * 64)
    asked = set(ledger.store.list(f"train/{KEYS[2]}"))
    before, after = paths(ledger), paths(ledger, snapshots=True)
    assert after - before == {half, other}
    assert not after & asked
    experiment(ledger, keys=KEYS[:2])
    assert asked <= paths(ledger, snapshots=True)


def test_snapshots_stay_where_it_is_not_known_who_needs_them(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.commit(record("9" * 64, experiment="lost"), STATE, MASKS)
    before = ledger.store.list()
    assert main(["clean", ledger.store.uri, "--snapshots"]) == 1
    assert "experiments/lost.0.json is missing" in capsys.readouterr().err
    ledger.store.write(EXPERIMENT, b"{")
    with pytest.raises(StorageError, match=EXPERIMENT):
        leftovers(ledger, snapshots=True)
    assert ledger.store.list() == before


def test_the_command_says_what_it_removes(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    marker = f"{RUN}/.validate_storage_marker"
    ledger.store.write(marker, b"1234")
    assert main(["clean", ledger.store.uri]) == 0
    told, kept = capsys.readouterr().out.splitlines()
    assert told == f"nothing to remove in {ledger.store.uri}"
    assert kept.startswith("kept: 5 files of the last ten minutes")
    os.utime(Path(ledger.store.uri, marker), (0, 0))
    assert main(["clean", ledger.store.uri, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would remove: 1 files of Ray Train, 4 B\nkept: 4 files")
    assert ledger.store.exists(marker)
    assert main(["clean", ledger.store.uri]) == 0
    assert capsys.readouterr().out.startswith("removed: 1 files of Ray Train, 4 B\n")
    assert not Path(ledger.store.uri, RUN).exists()


def test_without_leave_to_list_uploads_the_rest_is_cleaned(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: object) -> None:
        raise StorageError("no permission s3:ListBucketMultipartUploads")

    killed_jobs(ledger.store)
    monkeypatch.setattr(type(ledger.store), "unfinished", refused)
    assert PROBE in paths(ledger)
    assert main(["clean", ledger.store.uri]) == 1
    assert capsys.readouterr().err == "error: no permission s3:ListBucketMultipartUploads\n"
