"""Which records make up an experiment, and what sharing rounds saved."""

import pytest
import torch
from report.synthetic import paths, record

from orchestrator.errors import DamagedError
from orchestrator.record import MODEL, OPTIMIZER, Blob
from orchestrator.report import path_records
from orchestrator.report.page import count_sharing
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.train_state import TrainState


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_store(str(tmp_path / "runs")))


def commit(ledger, name, keys, *, write=True):
    state = TrainState({"w": torch.ones(3)})
    for r, key in enumerate(keys):
        ledger.commit(record(r, experiment=name, key=key, blobs={}), state, {})
    if write:
        ledger.write_experiment(name, 0, {"name": name, "seed": 0, "densities": [], "keys": keys})


def found(ledger):
    records, left_out = path_records(ledger)
    return sorted((r.experiment, r.round, r.key) for r in records), left_out


def test_a_shared_round_is_part_of_every_path(ledger):
    commit(ledger, "rewinding", ["dense", "r1"])
    commit(ledger, "finetuning", ["dense", "f1", "f2"])
    rewinding = [("rewinding", 0, "dense"), ("rewinding", 1, "r1")]
    finetuning = [("finetuning", 0, "dense"), ("finetuning", 1, "f1"), ("finetuning", 2, "f2")]
    assert found(ledger) == (finetuning + rewinding, 0)
    assert [r.experiment for r in ledger.records() if r.round == 0] == ["rewinding"]


def test_a_new_name_for_finished_rounds(ledger):
    commit(ledger, "old", ["dense", "r1"])
    commit(ledger, "new", ["dense", "r1"])
    assert {name for name, _, _ in found(ledger)[0]} == {"old", "new"}


def test_rounds_of_earlier_settings_are_left_out_and_counted(ledger):
    commit(ledger, "digits", ["dense", "r1", "r2"])
    commit(ledger, "digits", ["dense", "s1"])
    assert found(ledger) == ([("digits", 0, "dense"), ("digits", 1, "s1")], 2)


def test_records_without_a_path_stand_for_themselves(ledger):
    commit(ledger, "lost", ["dense", "r1"], write=False)
    assert found(ledger) == ([("lost", 0, "dense"), ("lost", 1, "r1")], 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metrics": {"train_loss": 1.0}}, "metrics other than"),
        (
            {"metrics": {"train_loss": 1.0, "val_accuracy": "high", "test_accuracy": 1}},
            "val_accuracy.* must be a number",
        ),
        ({"history": [{"train_loss": 10**400, "val_accuracy": 0.5}]}, "history"),
        ({"history": {"train_loss": 1}}, "history"),
        ({"layers": {"w": [3]}}, "layers"),
        ({"layers": {"w": [5, 4]}}, "layers"),
        ({"layers": []}, "layers"),
        ({"density": 0}, "density"),
        ({"experiment": ["a"]}, "experiment must be a text"),
        ({"parent": []}, "parent must be a text"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"settings": None}, "settings"),
    ],
)
def test_a_record_that_no_report_can_be_made_of_is_named(ledger, change, words):
    odd = record(key="odd", blobs={name: Blob("0" * 64, 1) for name in (MODEL, OPTIMIZER)}, **change)
    ledger.store.create("rounds/odd/record.json", odd.to_json())
    with pytest.raises(DamagedError, match=rf"rounds/odd/record\.json is not a record \(.*{words}.*\); restore it"):
        path_records(ledger)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"name": 1, "seed": 0, "keys": []}', b"\xff", b'{"name": "a'])
def test_a_damaged_path_is_named(ledger, content):
    ledger.store.write("experiments/digits.0.json", content)
    with pytest.raises(DamagedError, match=r"experiments/digits\.0\.json"):
        path_records(ledger)


def test_a_shared_round_is_asked_by_each_and_trained_once():
    found = count_sharing(paths(seeds=2, rounds=3))
    lengths = {"learning-rate-rewinding": 4, "fine-tuning": 4, "weight-rewinding": 164}
    pruned = 2 * 3 * sum(lengths.values())
    assert (found.rounds_asked, found.rounds_trained) == (3 * 2 * 4, 3 * 2 * 3 + 2)
    assert (found.epochs_asked, found.epochs_trained) == (pruned + 3 * 2 * 4, pruned + 2 * 4)
    assert found.saved == pytest.approx(1 - (pruned + 8) / (pruned + 24))
    assert count_sharing([]).saved == 0
