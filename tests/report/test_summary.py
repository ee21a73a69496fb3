"""What a report says: medians over the seeds, the recommended round, and the Pareto front."""

import dataclasses
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.synthetic import path, path_of, paths, record, with_test_accuracy

from orchestrator.report import summary
from orchestrator.report.summary import pareto_front, recommend, retraining_epochs


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


def test_retraining_epochs_add_up_along_the_parents():
    records = [
        record(0, key="d", epochs=100),
        record(1, key="a1", parent="d", epochs=30), record(2, key="a2", parent="a1", epochs=40),
        record(1, key="b1", parent="d", epochs=7, experiment="b"),
        record(2, key="b2", parent="b1", epochs=7, experiment="b"),
    ]  # fmt: skip
    assert retraining_epochs(reversed(records)) == {"d": 0, "a1": 30, "a2": 70, "b1": 7, "b2": 14}
    assert [(row.experiment, row.retraining_epochs) for row in summary(records)] == [
        ("b", 7), ("b", 14), ("digits", 0), ("digits", 30), ("digits", 70),
    ]  # fmt: skip


def test_nothing_gives_nothing():
    assert summary([]) == []


# The recommended row of several experiments, and the Pareto front.


def test_the_choice_is_the_smallest_good_one_of_all_experiments():
    rows = summary(paths())
    choice = recommend(rows)
    dense = max(row.validation.median for row in rows if row.round == 0)
    good = [row for row in rows if row.validation.median >= dense - 0.005]
    assert choice.row.weights_kept == min(row.weights_kept for row in good)
    assert choice.acceptable == len(good)
    assert f"{100 * (dense - 0.005):.2f} %" in choice.reason


def test_the_choice_reads_no_test_accuracy():
    chance = random.Random(0)
    records = paths()
    chosen = recommend(summary(records)).row
    for _ in range(5):
        other = recommend(summary(with_test_accuracy(records, lambda record: chance.random()))).row
        assert (other.experiment, other.round) == (chosen.experiment, chosen.round)


def test_of_equally_small_networks_the_better_one_is_chosen():
    records = paths(["fine-tuning", "weight-rewinding"], rounds=1)
    rows = [
        dataclasses.replace(row, validation=dataclasses.replace(row.validation, median=0.9)) for row in summary(records)
    ]
    better = next(row for row in rows if row.experiment == "weight-rewinding" and row.round == 1)
    rows[rows.index(better)] = dataclasses.replace(
        better, validation=dataclasses.replace(better.validation, median=0.91)
    )
    assert recommend(rows).row.experiment == "weight-rewinding"


def test_nothing_is_chosen_without_a_dense_round():
    assert recommend([row for row in summary(paths()) if row.round]) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    first = summary(path_of("fine-tuning", 0, 0))[0]
    rows = [
        dataclasses.replace(first, bytes=size, validation=dataclasses.replace(first.validation, median=accuracy / 10))
        for size, accuracy in points
    ]
    found = {(row.bytes, row.validation.median) for row in pareto_front(rows)}
    everything = {(row.bytes, row.validation.median) for row in rows}
    unbeaten = {
        (size, accuracy)
        for size, accuracy in everything
        if not any(s <= size and a >= accuracy and (s, a) != (size, accuracy) for s, a in everything)
    }
    assert found == unbeaten
    assert [row.bytes for row in pareto_front(rows)] == sorted(size for size, _ in unbeaten)
