"""A record exists when everything it names is safe; what is damaged is told, by the file's name, and never used."""

import dataclasses
import json

import pytest
import torch

from orchestrator.errors import DamagedError
from orchestrator.record import FORMAT, MODEL, OPTIMIZER, Record
from orchestrator.sealed import sha256_of
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import ACCURACY
from orchestrator.train_state import TrainState

KEY = "ab" * 32
MASKS = {"w": torch.tensor([[True, False, True], [False, False, True]])}
STATE = TrainState(
    {"w": torch.tensor([[1.0, 0, 2], [0, 0, 3]]), "b": torch.ones(2)}, {"w/m": torch.rand(2, 3) * MASKS["w"]}
)


def record(key: str = KEY, **changes) -> Record:
    values = {
        "key": key, "parent": None, "experiment": "e", "round": 1, "technique": "LearningRateRewinding", "density": 0.5,
        "kept": 3, "prunable": 6, "seed": 0, "metrics": {"train_loss": 0.5, "val_accuracy": 0.9, "test_accuracy": 0.8},
        "history": [], "layers": {"w": [3, 6]}, "dead_layers": [], "epochs": 2, "seconds": 1.0,
        "samples_per_second": 10.0, "attempts": 1, "workers": 1, "settings": {}, "versions": {},
        "finished_at": "2026-01-01", "objective": ACCURACY,
    }  # fmt: skip
    return Record(**{**values, **changes})


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_store(str(tmp_path / "runs")))


def test_commit_and_load_are_bit_equal(ledger):
    committed = ledger.commit(record(), STATE, MASKS)
    assert ledger.record(KEY) == committed
    state, masks = ledger.load(committed)
    assert all(torch.equal(state.model[n], STATE.model[n]) for n in STATE.model)
    assert torch.equal(state.optimizer["w/m"], STATE.optimizer["w/m"])
    assert torch.equal(masks["w"], MASKS["w"])
    assert set(committed.blobs) == {MODEL, OPTIMIZER}
    assert committed.model_bytes == len(ledger.store.read(committed.file(MODEL)))


def test_a_second_commit_changes_nothing(ledger):
    first = ledger.commit(record(), STATE, MASKS)
    other = TrainState({"w": STATE.model["w"] * 2, "b": STATE.model["b"]})
    assert ledger.commit(record(seconds=99.0), other, MASKS) == first
    assert torch.equal(ledger.load(first)[0].model["w"], STATE.model["w"])


def test_an_upload_that_arrives_after_another_owner_committed_other_bits_damages_nothing(ledger):
    """Two owners of a round may reach other bits: on GPUs, or with other numbers of workers."""
    other = TrainState({"w": STATE.model["w"] * 2, "b": STATE.model["b"]}, {"w/m": STATE.optimizer["w/m"] * 2})
    late, write, held = Ledger(ledger.store), ledger.store.write, []

    def hang(path, data):
        held.append((path, data))
        if len(held) == 2:  # cut off for longer than its lease: the round is trained and committed by another
            committed.append(Ledger(open_store(ledger.store.uri)).commit(record(), STATE, MASKS))
            for item in held:
                write(*item)

    late.store.write, committed = hang, []  # type: ignore[method-assign]
    assert late.commit(record(seconds=99.0), other, MASKS) == committed[0]
    assert not {file for file, _ in held} & {committed[0].file(name) for name in (MODEL, OPTIMIZER)}
    assert len(list(ledger.store.list(f"rounds/{KEY}/"))) == 3, "what was not committed is taken away"
    assert all(problem is None for _, problem in ledger.verify())
    state, _ = ledger.load(ledger.record(KEY))
    assert torch.equal(state.model["w"], STATE.model["w"])
    assert torch.equal(state.optimizer["w/m"], STATE.optimizer["w/m"])


def test_a_round_without_a_record_does_not_exist(ledger):
    ledger.store.write(f"rounds/{KEY}/model-0123456789abcdef.safetensors", b"the upload was killed after this")
    assert ledger.record(KEY) is None
    assert ledger.records() == []
    ledger.commit(record(), STATE, MASKS)
    assert [r.key for r in ledger.records()] == [KEY]
    assert all(problem is None for _, problem in ledger.verify())


def damage(ledger, name, change):
    path = f"rounds/{KEY}/{name}" if name == "record.json" else ledger.record(KEY).file(name)
    ledger.store.write(path, change(ledger.store.read(path)))


DAMAGE = {
    "one bit": (MODEL, lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "truncated": (MODEL, lambda data: data[: len(data) // 2]),
    "longer": (OPTIMIZER, lambda data: data + b"x"),
    "empty": (OPTIMIZER, lambda data: b""),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_blob_is_named_and_not_used(ledger, case):
    committed = ledger.commit(record(), STATE, MASKS)
    name, change = DAMAGE[case]
    damage(ledger, name, change)
    with pytest.raises(DamagedError, match=f"{committed.file(name)} is damaged"):
        ledger.load(committed)
    assert [file for file, problem in ledger.verify() if problem] == [committed.file(name)]


def test_a_missing_blob_is_named(ledger):
    committed = ledger.commit(record(), STATE, MASKS)
    ledger.store.delete(committed.file(OPTIMIZER))
    with pytest.raises(DamagedError, match=f"{committed.file(OPTIMIZER)} is missing, though its record names it"):
        ledger.load(committed)


def rewritten(**changes):
    """A record with other fields and a sha256 that fits them: made by another version, or on purpose."""

    def change(data: bytes) -> bytes:
        value = {**json.loads(data), **changes}
        del value["sha256"]
        return json.dumps({**value, "sha256": sha256_of(value)}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:50], "is not a record"),
        (lambda data: b"", "is not a record"),
        (lambda data: b"[]", "is not a record"),
        (lambda data: b"{}", "is not a record"),
        (lambda data: data.replace(b"0.9", b"0.99"), "does not match its sha256"),
        (lambda data: data.replace(b'"sha256": ', b'"sha": '), "is not a record"),
        (rewritten(format=FORMAT + 1), "update rewind-orchestrator"),
        (rewritten(format=FORMAT - 1), "written by an earlier version"),
        (rewritten(key="cd" * 32), "another round, cd"),
        (rewritten(key="../../x"), "is not a record"),
        (rewritten(blobs={"../x": {}}), "is not a record"),
        (rewritten(blobs={}), "is not a record"),
    ],
    ids=[
        "truncated",
        "empty",
        "a list",
        "no field",
        "a digit",
        "no sha256",
        "newer format",
        "older format",
        "another key",
        "a path for a key",
        "a path for a blob",
        "no blobs",
    ],
)
def test_a_bad_record_is_named(ledger, change, words):
    ledger.commit(record(), STATE, MASKS)
    damage(ledger, "record.json", change)
    with pytest.raises(DamagedError, match=f"rounds/{KEY}/record.json") as caught:
        ledger.record(KEY)
    assert words in str(caught.value)
    assert any(problem and file == f"rounds/{KEY}/record.json" for file, problem in ledger.verify())


def test_fields_of_a_later_version_of_the_same_format_are_ignored(ledger):
    committed = ledger.commit(record(), STATE, MASKS)
    damage(ledger, "record.json", rewritten(new=1))
    assert ledger.record(KEY) == committed


def test_a_failure_is_listed_until_the_round_commits(ledger):
    ledger.write_failure(KEY, {"key": KEY, "reason": "diverged"})
    assert [f["reason"] for f in ledger.failures()] == ["diverged"]
    assert ledger.records() == []
    ledger.commit(record(), STATE, MASKS)
    assert ledger.failures() == []


def test_records_are_sorted_by_experiment_seed_and_round(ledger):
    for index, (name, seed, r) in enumerate([("b", 0, 0), ("a", 1, 1), ("a", 1, 0), ("a", 0, 2)]):
        ledger.commit(dataclasses.replace(record(f"{index:064}"), experiment=name, seed=seed, round=r), STATE, MASKS)
    assert [(r.experiment, r.seed, r.round) for r in ledger.records()] == [
        ("a", 0, 2),
        ("a", 1, 0),
        ("a", 1, 1),
        ("b", 0, 0),
    ]
