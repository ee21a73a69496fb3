"""What a report says: medians, the recommended round, and text that shows names as they are."""

import csv
import dataclasses
import io
import random
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.errors import DamagedError, OrchestratorError
from orchestrator.record import MODEL, OPTIMIZER, Blob, Record
from orchestrator.report import path_records, print_status, print_table, save_csv, summary
from orchestrator.report.summary import search_cost
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.work import TrainState


def record(round=0, seed=0, val=0.9, test=0.9, experiment="digits", density=None, key=None, **changes) -> Record:
    density = 0.5**round if density is None else density
    values = {
        "key": key or f"{experiment}-{seed}-{round}", "parent": None, "experiment": experiment, "round": round,
        "technique": "LearningRateRewinding" if round else "Dense", "density": density, "kept": int(density * 4096),
        "prunable": 4096, "seed": seed, "history": [], "layers": {}, "dead_layers": [], "epochs": 30, "seconds": 83.0,
        "metrics": {"train_loss": 0.25, "val_accuracy": val, "test_accuracy": test}, "images_per_second": 1.0,
        "attempts": 1, "gap_seconds": None, "workers": 1, "settings": {}, "versions": {}, "finished_at": "2026-01-01",
        "blobs": {MODEL: Blob("0" * 64, 16384 >> round)},
    }  # fmt: skip
    return Record(**{**values, **changes})


def path(vals, seed=0, **changes):
    return [record(r, seed, val, **changes) for r, val in enumerate(vals) if val is not None]


def recommended(records):
    return [(row.experiment, row.round) for row in summary(records) if row.recommended]


# Which round is recommended.

NAN = float("nan")


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([[0.950, 0.960, 0.949]], 2),
        ([[0.950, 0.960, 0.940]], 1),
        ([[0.950, 0.945, 0.9449]], 1),  # half a point below is still good
        ([[627 / 5000, 602 / 5000]], 1),  # as binary fractions, 0.1254 - 0.005 > 0.1204
        ([[0.950, 0.900, 0.950, 0.100]], 2),  # a bad round in between does not matter
        ([[0.950, 0.100, 0.100]], 0),
        ([[0.950, NAN, 0.945]], 2),
        ([[0.950, 0.950, NAN]], 1),
        ([[0.950, 0.950], [0.950, 0.100], [0.950, 0.950]], 1),  # the median of the seeds counts
        ([[0.950, 0.950], [0.950, 0.100], [0.950, 0.100]], 0),
        ([[0.900, 0.920, 0.920], [0.960, 0.930, None], [0.960, 0.940, None]], 0),  # one lucky seed is not enough
        ([[0.900, 0.920, 0.920], [0.920, 0.930, None], [0.920, 0.940, None]], 1),
        ([[None, 0.990, 0.990]], None),  # nothing to compare with
    ],
)
def test_the_smallest_network_that_is_good_enough_on_validation_is_recommended(seeds, expected):
    records = [record for seed, vals in enumerate(seeds) for record in path(vals, seed)]
    assert recommended(records) == ([] if expected is None else [("digits", expected)])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_test_accuracy_never_decides(values):
    as_measured = [record(r, val=val, test=test) for r, (val, test, _) in enumerate(values)]
    otherwise = [record(r, val=val, test=other) for r, (val, _, other) in enumerate(values)]
    assert recommended(as_measured) == recommended(otherwise)
    best = recommended(as_measured)[0][1]
    assert all(val < values[0][0] - 0.005 for val, _, _ in values[best + 1 :])


def test_each_experiment_has_its_own_recommendation():
    records = path([0.9, 0.9], experiment="b") + path([0.9, 0.1], experiment="a")
    assert recommended(records) == [("a", 0), ("b", 1)]


# The median over the seeds.


@pytest.mark.parametrize("accuracies", [[0.5], [0.5, 0.75], [0.875, 0.5, 0.75], [0.25, 0.5, 0.875, 1.0]])
def test_a_row_is_the_median_over_seeds(accuracies):
    records = [record(2, seed, val=a, test=a / 2, seconds=10.0 * seed, epochs=30) for seed, a in enumerate(accuracies)]
    (row,) = summary(records)
    assert dataclasses.astuple(row.validation) == (statistics.median(accuracies), min(accuracies), max(accuracies))
    assert row.test.median == statistics.median(accuracies) / 2
    assert row.seeds == tuple(range(len(accuracies)))
    assert row.seconds == 5.0 * (len(accuracies) - 1)
    assert (row.density, row.compression, row.weights_kept, row.prunable, row.bytes) == (0.25, 4.0, 1024, 4096, 4096)


def test_the_order_of_the_records_does_not_matter():
    records = [r for seed in range(3) for name in "ba" for r in path([0.9, 0.89, 0.8], seed, experiment=name)]
    rows = summary(records)
    assert [(row.experiment, row.round) for row in rows] == [(name, r) for name in "ab" for r in range(3)]
    for _ in range(5):
        random.shuffle(records)
        assert summary(records) == rows


def test_other_densities_are_other_rows():
    rows = summary([record(1, seed=0, density=0.5), record(1, seed=1, density=0.8)])
    assert [(row.density, row.seeds) for row in rows] == [(0.8, (1,)), (0.5, (0,))]


def test_search_cost_is_the_retraining_along_the_parents():
    records = [
        record(0, key="d", epochs=100),
        record(1, key="a1", parent="d", epochs=30), record(2, key="a2", parent="a1", epochs=40),
        record(1, key="b1", parent="d", epochs=7, experiment="b"),
        record(2, key="b2", parent="b1", epochs=7, experiment="b"),
    ]  # fmt: skip
    assert search_cost(reversed(records)) == {"d": 0, "a1": 30, "a2": 70, "b1": 7, "b2": 14}
    assert [(row.experiment, row.cost) for row in summary(records)] == [
        ("b", 7), ("b", 14), ("digits", 0), ("digits", 30), ("digits", 70),
    ]  # fmt: skip


def test_nothing_gives_nothing():
    assert summary([]) == []


# Which records make up an experiment.


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
        ({"metrics": {"train_loss": 1.0, "val_accuracy": "high", "test_accuracy": 1}}, "metrics other than"),
        ({"history": [{"train_loss": 10**400, "val_accuracy": 0.5}]}, "a history"),
        ({"history": {"train_loss": 1}}, "a history"),
        ({"layers": {"w": [3]}}, "layers"),
        ({"layers": {"w": [5, 4]}}, "layers"),
        ({"layers": []}, "layers"),
        ({"density": 0}, "density"),
        ({"experiment": ["a"]}, "its experiment"),
        ({"parent": []}, "its parent"),
        ({"epochs": True}, "its epochs"),
        ({"settings": None}, "settings"),
    ],
)
def test_a_record_that_no_report_can_be_made_of_is_named(ledger, change, words):
    odd = record(key="odd", blobs={name: Blob("0" * 64, 1) for name in (MODEL, OPTIMIZER)}, **change)
    ledger.store.create("rounds/odd/record.json", odd.to_json())
    with pytest.raises(DamagedError, match=rf"rounds/odd/record\.json has .*{words}.*: restore it"):
        path_records(ledger)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"name": 1, "seed": 0, "keys": []}', b"\xff", b'{"name": "a'])
def test_a_damaged_path_is_named(ledger, content):
    ledger.store.write("experiments/digits.0.json", content)
    with pytest.raises(DamagedError, match=r"experiments/digits\.0\.json"):
        path_records(ledger)


# Tables.

SEEDS = [r for seed in range(3) for r in path([0.95, 0.95 + seed / 100, 0.94], seed)]
ODD = "a[red]b[/] $x$ :smile: \x1b[2J\n"


def printed(show, *args, width=200, **console):
    out = io.StringIO()
    show(*args, Console(file=out, width=width, **console))
    return out.getvalue()


def line(output, round):
    return next(x for x in output.splitlines() if x.replace("*", " ").split()[:1] == [str(round)])


def test_the_table_of_one_seed():
    output = printed(print_table, path([0.95, 0.9612, 0.94], test=0.9))
    assert "digits: LearningRateRewinding, seed 0, 4,096 prunable weights" in output
    assert " ".join(line(output, 0).split()) == "0 1 1.0x 4,096 95.00 90.00 30 1 m 23 s 16.4 kB"
    assert " ".join(line(output, 1).split()) == "* 1 0.5 2.0x 2,048 96.12 90.00 30 1 m 23 s 8.19 kB"
    assert "validation accuracy is at most half a point below the dense one's" in output
    assert "Test accuracy is shown, never used to choose" in output
    assert ".." not in output


def test_the_table_of_several_seeds_gives_median_and_range():
    output = printed(print_table, SEEDS)
    assert "seeds 0, 1, 2" in output
    assert "96.00 (95.00..97.00)" in line(output, 1)
    assert "Median over the seeds" in output
    assert line(output, 1).split()[0] == "*"


def test_the_recommended_line_stands_out():
    lines = printed(print_table, SEEDS, force_terminal=True, color_system="standard").splitlines()
    assert [("* 1" in x) for x in lines if "\x1b[1;32m" in x] == [True]


def test_one_table_for_each_experiment():
    output = printed(print_table, path([0.9], experiment="a") + path([0.9], experiment="b"))
    assert [x for x in output.splitlines() if "prunable weights" in x] == [
        "a: dense, seed 0, 4,096 prunable weights",
        "b: dense, seed 0, 4,096 prunable weights",
    ]


def test_without_a_dense_round_nothing_is_recommended():
    output = printed(print_table, path([None, 0.9]))
    assert "*" not in output
    assert "Nothing is recommended" in output


@pytest.mark.parametrize("show", [lambda r, c: print_table(r, c), lambda r, c: print_status(r, [], c)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_terminal_of_80_columns_shows_whole_numbers(show, seeds):
    records = [r for r in SEEDS if r.seed < seeds]
    narrow, wide = printed(show, records, width=80), printed(show, records, width=200)
    assert max(map(len, narrow.splitlines())) <= 80
    for r in range(3):
        cells = [cell for cell in line(narrow, r).split() if "Learning" not in cell]
        assert not any("…" in cell for cell in cells)
        assert set(cells) <= set(line(wide, r).split())


def test_names_are_shown_as_they_are_but_on_one_line():
    records = path([0.9, 0.9], experiment=ODD, technique=ODD)
    failure = {"experiment": ODD, "seed": 0, "round": 2, "reason": ODD}
    tables = printed(print_table, records) + printed(print_status, records, [failure])
    assert tables.count("a[red]b[/] $x$ :smile:  [2J") == 2 + 1 + 2 + 2  # title twice, section, technique, failure
    assert "\x1b" not in tables


def test_a_failed_round_is_told_in_red():
    failure = {"experiment": "digits", "seed": 3, "round": 2, "reason": "the loss of epoch 4 is nan"}
    output = printed(print_status, [], [failure, {}], width=30, force_terminal=True, color_system="standard")
    first, second = output.splitlines()
    assert first == "\x1b[31mfailed: digits, seed 3, round 2: the loss of epoch 4 is nan\x1b[0m"
    assert "seed ?, round ?: no reason was written" in second


# Files.


def test_the_csv_holds_every_record(tmp_path):
    file = save_csv(SEEDS, tmp_path / "new" / "report.csv")
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(r["key"], float(r["val_accuracy"]), int(r["bytes"]), float(r["compression"])) for r in rows] == [
        (r.key, r.metrics["val_accuracy"], r.model_bytes, 2.0**r.round) for r in SEEDS
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "two\nlines", "\ud800", "plain"])
def test_a_name_in_the_csv_is_no_formula_and_one_line(tmp_path, name):
    file = save_csv([record(experiment=name)], tmp_path / "report.csv")
    with open(file, newline="", encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    assert row["experiment"] in (f"'{name}", name.replace("\n", " ").replace("\ud800", " "))
    assert row["experiment"][0] not in "=+-@"


def test_a_csv_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OrchestratorError, match=r"cannot write .*/file/x\.csv .*choose another folder"):
        save_csv(path([0.9]), tmp_path / "file" / "x.csv")
