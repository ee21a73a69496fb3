"""Whatever happens to any file of a storage, `verify` names it; and nothing else uses it in silence."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from pathlib import Path

import pytest
from s3_server import FaultProxy
from storage.whole import EXPERIMENT, KEYS, STOP, commit, experiment, whole_storage

from orchestrator.__main__ import main
from orchestrator.errors import StorageError
from orchestrator.record import MODEL
from orchestrator.report import path_records
from orchestrator.report.status import StorageView, changes, read_view
from orchestrator.sealed import seal, unseal
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.local import LocalStore
from orchestrator.storage.opening import open_store
from orchestrator.storage.verify import verify


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return whole_storage(open_store(str(tmp_path / "runs")))


def problems(ledger: Ledger) -> dict[str, str]:
    return {finding.path: finding.problem for finding in verify(ledger) if finding.problem}


def test_a_whole_storage_is_read_whole(ledger: Ledger) -> None:
    found = list(verify(ledger))
    assert sorted(finding.path for finding in found) == ledger.store.list()
    assert {(finding.problem, finding.kind) for finding in found} == {(None, "checked")}


def test_one_flipped_bit_of_any_file_is_found(ledger: Ledger) -> None:
    for path in ledger.store.list():
        file = Path(ledger.store.uri, path)
        whole = file.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert list(problems(ledger)) == [path], at
        file.write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"name": "e"}'])
def test_any_file_of_other_content_is_found(ledger: Ledger, content: bytes) -> None:
    for path in ledger.store.list():
        file = Path(ledger.store.uri, path)
        whole = file.read_bytes()
        file.write_bytes(content)
        assert list(problems(ledger)) == [path]
        file.write_bytes(whole)


def test_any_flipped_bit_of_a_sealed_file_is_found_or_changes_nothing() -> None:
    """White space apart. In an experiment's file it would make another network the recommended one."""
    content = {"name": "e", "seed": 0, "densities": [1.0, 0.8], "keys": KEYS[:2], "rewinds_to": []}
    whole = seal(content)
    for at, bit in itertools.product(range(len(whole)), range(8)):
        with contextlib.suppress(ValueError):
            assert unseal(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]) == content


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (EXPERIMENT, f"{EXPERIMENT} is missing, though rounds were trained for it: run its job again"),
        (f"rounds/{KEYS[1]}/record.json", "is missing, though the round's tensors are there: restore it, or run"),
        (f"rounds/{KEYS[0]}/record.json", f"goes on from rounds/{KEYS[0]}, which is missing"),
    ],
)
def test_a_deleted_file_is_told(ledger: Ledger, path: str, words: str) -> None:
    ledger.store.delete(path)
    assert words in "\n".join(problems(ledger).values())


def test_a_file_without_its_sha256_is_damage(ledger: Ledger) -> None:
    files = {EXPERIMENT, STOP, f"rounds/{KEYS[3]}/failed.json", *ledger.store.list("claims")}
    for path in files:
        content = unseal(ledger.store.read(path))
        ledger.store.write(path, json.dumps(content).encode())
    assert problems(ledger).keys() == files


@pytest.mark.parametrize("index", [0, 1])
def test_a_path_is_held_against_the_records(ledger: Ledger, index: int) -> None:
    experiment(ledger, keys=[*KEYS[:index], "f" * 64, *KEYS[index + 1 :]])
    commit(ledger, 2)
    assert (
        f"has rounds/{KEYS[index + 1]} as its round {index + 1}, but its record disagrees"
        in problems(ledger)[EXPERIMENT]
    )


def test_a_path_under_another_name_is_damage(ledger: Ledger) -> None:
    ledger.store.write("experiments/copy.0.json", ledger.store.read(EXPERIMENT))
    assert "it is the path of 'e', seed 0; delete it" in problems(ledger)["experiments/copy.0.json"]
    told: list[str] = []
    records, _ = path_records(ledger, told)
    assert [record.key for record in records] == KEYS[:2], "each round once"
    assert told[0].startswith("experiments/copy.0.json is damaged")


def test_what_cannot_be_read_is_counted_and_the_rest_goes_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, files = LocalStore.read, ledger.store.list()
    bad = {f"rounds/{KEYS[0]}/record.json", EXPERIMENT, f"claims/{KEYS[1]}/1.json", f"rounds/{KEYS[3]}/failed.json"}

    def broken(self: LocalStore, path: str, max_bytes: int | None = None) -> bytes:
        if path in bad:
            raise StorageError(f"cannot read {path}: {os.strerror(errno.EIO)}")
        return read(self, path, max_bytes)

    monkeypatch.setattr(LocalStore, "read", broken)
    assert problems(ledger).keys() == bad
    assert main(["verify", ledger.store.uri]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{len(files)} files checked, 4 damaged"
    assert main(["status", ledger.store.uri]) == 1
    out, err = capsys.readouterr()
    assert "LearningRateRewinding" in out
    assert err.count(os.strerror(errno.EIO)) == 3  # a claim that cannot be read counts as none


def test_an_object_that_is_forbidden_is_told_and_the_rest_goes_on(s3_uri: str, fault_proxy: FaultProxy) -> None:
    ledger = whole_storage(open_store(s3_uri))
    path = f"rounds/{KEYS[1]}/record.json"
    fault_proxy.inject("status", method="GET", part=path, status=403, code="AccessDenied", times=99)
    assert path in (told := problems(ledger))
    assert "s3:GetObject" in told[path]
    good: list[str] = []
    assert [record.key for record in ledger.records(good)] == [KEYS[0]]
    assert len(good) == 1


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_goes_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, scan = f"{ledger.store.uri}/rounds/{KEYS[1]}", os.scandir

    def denied(place: str) -> object:
        if place == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", denied)
    assert problems(ledger)[f"rounds/{KEYS[1]}"].startswith(f"rounds/{KEYS[1]} cannot be read: let this user read")
    assert main(["status", ledger.store.uri, "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["key"] for line in out.splitlines()] == [KEYS[0]]
    assert f"error: rounds/{KEYS[1]} cannot be read" in err
    assert main(["clean", ledger.store.uri]) == 1, "it may be a living job's"


def test_what_is_not_checked_is_said(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (
        "notes.txt",
        "experiments/.DS_Store",
        f"probe-{'0' * 32}/file",
        f"train/e.0-{'a' * 32}/.validate_storage_marker",
    ):
        ledger.store.write(path, b"")
    assert main(["verify", ledger.store.uri]) == 0
    left, foreign, count = capsys.readouterr().out.splitlines()
    assert left.startswith("not checked: 2 files of running or killed jobs")
    assert foreign == "not checked: 2 files that this program did not write: experiments/.DS_Store, notes.txt"
    assert count.endswith(" files checked, 0 damaged")
    told: list[str] = []
    assert path_records(ledger, told)[0]
    assert told == []


def test_the_tensors_of_a_damaged_record_are_held_against_their_names(ledger: Ledger) -> None:
    whole = ledger.record(KEYS[1])
    assert whole is not None
    for path in (f"rounds/{KEYS[1]}/record.json", whole.file(MODEL)):
        ledger.store.write(path, ledger.store.read(path)[:-1])
    assert problems(ledger).keys() == {f"rounds/{KEYS[1]}/record.json", whole.file(MODEL)}


def test_a_round_behind_a_gap_is_no_part_of_the_report(ledger: Ledger) -> None:
    commit(ledger, 2)
    ledger.store.delete(f"rounds/{KEYS[1]}/record.json")
    told: list[str] = []
    records, left_out = path_records(ledger, told)
    assert [record.key for record in records] == [KEYS[0]]
    assert left_out == 0
    assert f"{EXPERIMENT} has rounds/{KEYS[1]} as its round 1: it is missing or damaged" in told[0]


def test_an_experiment_without_its_file_has_the_rounds_that_another_one_trained(ledger: Ledger) -> None:
    """Else it would have no dense round, and another network would be recommended."""
    commit(ledger, 2)
    ledger.store.delete(EXPERIMENT)
    experiment(ledger, keys=KEYS[:2], name="other")
    records, _ = path_records(ledger, [])
    assert [record.key for record in records if record.experiment == "e"] == KEYS[:3]


def test_follow_tells_damage_once_and_goes_on(ledger: Ledger) -> None:
    ledger.store.write(f"rounds/{KEYS[1]}/record.json", b"{")
    before = read_view(ledger, StorageView({}, {}, {}, {}))
    told = list(changes(StorageView({}, {}, {}, {}), before))
    assert [line for line in told if line.startswith(f"error: rounds/{KEYS[1]}/record.json is not a record")]
    assert not [line for line in changes(before, read_view(ledger, before)) if "error" in line]
