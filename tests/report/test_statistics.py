"""What the page counts: the choice, the Pareto front, paired differences, what sharing saved: closed forms."""

import dataclasses
import itertools
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.synthetic import path_of

from orchestrator.report.choice import choose, pareto
from orchestrator.report.curves import layers, round_curves
from orchestrator.report.paired import bootstrap, paired_differences
from orchestrator.report.sharing import sharing
from orchestrator.report.summary import summary
from orchestrator.report.tasks import MOST_SHOWN, tasks

NAMES = ["learning-rate-rewinding", "fine-tuning", "weight-rewinding"]


def paths(names=NAMES, seeds=3, rounds=6, **options):
    return [
        record for name in names for seed in range(seeds) for record in path_of(name, seed, rounds, epochs=4, **options)
    ]


def with_accuracy(records, accuracy):
    """`records` with the test accuracy that `accuracy(record)` says."""
    return [
        dataclasses.replace(record, metrics={**record.metrics, "test_accuracy": accuracy(record)}) for record in records
    ]


# The choice and the front.


def test_the_choice_is_the_smallest_good_one_of_all_experiments():
    rows = summary(paths())
    choice = choose(rows)
    dense = max(row.validation.median for row in rows if row.round == 0)
    good = [row for row in rows if row.validation.median >= dense - 0.005]
    assert choice.row.weights_kept == min(row.weights_kept for row in good)
    assert choice.good == len(good)
    assert f"{100 * (dense - 0.005):.2f} %" in choice.reason


def test_the_choice_reads_no_test_accuracy():
    chance = random.Random(0)
    records = paths()
    chosen = choose(summary(records)).row
    for _ in range(5):
        other = choose(summary(with_accuracy(records, lambda record: chance.random()))).row
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
    assert choose(rows).row.experiment == "weight-rewinding"


def test_nothing_is_chosen_without_a_dense_round():
    assert choose([row for row in summary(paths()) if row.round]) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    first = summary(path_of("fine-tuning", 0, 0))[0]
    rows = [
        dataclasses.replace(first, bytes=size, validation=dataclasses.replace(first.validation, median=accuracy / 10))
        for size, accuracy in points
    ]
    found = {(row.bytes, row.validation.median) for row in pareto(rows)}
    everything = {(row.bytes, row.validation.median) for row in rows}
    unbeaten = {
        (size, accuracy)
        for size, accuracy in everything
        if not any(s <= size and a >= accuracy and (s, a) != (size, accuracy) for s, a in everything)
    }
    assert found == unbeaten
    assert [row.bytes for row in pareto(rows)] == sorted(size for size, _ in unbeaten)


# The bootstrap.


@pytest.mark.parametrize(
    ("sample", "interval"),
    [
        ([], None),
        ([0.3], None),
        ([0.25, 0.25, 0.25], (0.25, 0.25)),
        ([0.0, 1.0], (0.0, 1.0)),  # each end is the mean of a quarter of the resamples
        ([-2.0, 4.0], (-2.0, 4.0)),
        ([0.0, 0.0, 3.0], (0.0, 3.0)),  # 8/27 and 1/27 of them: both above 2.5 %
    ],
)
def test_the_interval_where_it_is_known(sample, interval):
    assert bootstrap([sample]) == [pytest.approx(interval) if interval else None]


def test_the_interval_of_four_values_is_that_of_all_256_resamples():
    sample = [0.1, 0.2, 0.4, 0.8]
    means = sorted(statistics.fmean(drawn) for drawn in itertools.product(sample, repeat=4))
    (interval,) = bootstrap([sample])
    assert interval == pytest.approx((means[round(0.025 * 256)], means[round(0.975 * 256)]), abs=0.03)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    chance = random.Random(1)
    sample = [chance.gauss(5, 2) for _ in range(400)]
    half = 1.96 * statistics.pstdev(sample) / 20
    (interval,) = bootstrap([sample])
    assert interval == pytest.approx((statistics.fmean(sample) - half, statistics.fmean(sample) + half), abs=0.02)


def test_an_interval_depends_on_its_sample_alone():
    samples = [[0.1, 0.5, 0.7], [1.0, 2.0], [0.3, 0.2, 0.9]]
    assert bootstrap(samples) == [bootstrap([sample])[0] for sample in samples] == bootstrap(samples)


# Paired differences.


def test_differences_are_paired_by_seed():
    records = with_accuracy(
        paths(NAMES[:2]), lambda r: 0.1 * r.seed + (0.02 + 0.001 * r.round if r.experiment == NAMES[0] else 0)
    )
    found = paired_differences(records, NAMES[:2])
    assert [difference.density for difference in found] == pytest.approx([0.8**r for r in range(1, 7)])
    for r, difference in enumerate(found, start=1):
        assert (difference.first, difference.second, difference.seeds) == (*NAMES[:2], (0, 1, 2))
        # Seeds differ by ten points, pairs not at all.
        assert (difference.mean, difference.low, difference.high) == pytest.approx((0.02 + 0.001 * r,) * 3)
        assert not difference.clear, "three signs agree by chance in one case of four"


def test_a_difference_is_clear_from_six_pairs_on():
    for seeds, clear in ((5, False), (6, True)):
        both = [r for name in NAMES[:2] for seed in range(seeds) for r in path_of(name, seed, 1)]
        records = with_accuracy(both, lambda r: 0.6 if r.experiment == NAMES[0] else 0.5)
        (difference,) = paired_differences(records, NAMES[:2])
        assert (len(difference.seeds), difference.clear) == (seeds, clear)


def test_only_seeds_that_both_have_make_a_pair():
    first, second = path_of(NAMES[0], 0, 1), path_of(NAMES[0], 1, 1)
    records = first + second + path_of(NAMES[1], 1, 1) + path_of(NAMES[1], 2, 1)
    (difference,) = paired_differences(records, NAMES[:2])
    assert difference.seeds == (1,)
    assert (difference.low, difference.high, difference.clear) == (None, None, False)


def test_rounds_that_are_shared_or_of_another_network_are_no_pair():
    assert paired_differences(paths(NAMES[:2], rounds=0), NAMES[:2]) == []
    records = path_of(NAMES[0], 0, 2) + path_of(NAMES[1], 0, 2, model="resnet56")
    assert paired_differences(records, NAMES[:2]) == []


def test_every_two_are_compared_at_each_density():
    found = paired_differences(paths(), NAMES)
    assert len(found) == 3 * 6
    assert {(d.first, d.second) for d in found} == set(itertools.combinations(NAMES, 2))


# Sharing, tasks, curves.


def test_a_shared_round_is_asked_by_each_and_trained_once():
    found = sharing(paths(seeds=2, rounds=3))
    lengths = {"learning-rate-rewinding": 4, "fine-tuning": 4, "weight-rewinding": 164}
    pruned = 2 * 3 * sum(lengths.values())
    assert (found.rounds_asked, found.rounds_trained) == (3 * 2 * 4, 3 * 2 * 3 + 2)
    assert (found.epochs_asked, found.epochs_trained) == (pruned + 3 * 2 * 4, pruned + 2 * 4)
    assert found.saved == pytest.approx(1 - (pruned + 8) / (pruned + 24))
    assert sharing([]).saved == 0


def test_experiments_with_another_model_or_other_data_are_another_task():
    wide = [
        dataclasses.replace(r, settings={**r.settings, "model_options": {"width": 32}})
        for r in paths(NAMES[2:3], seeds=1)
    ]
    records = paths(NAMES[:1]) + paths(NAMES[1:2], data="digits") + wide + paths(["lottery-ticket"], model="resnet56")
    expected = [
        ("resnet20 on cifar10", NAMES[:1]),
        ("resnet20 (width=32) on cifar10", NAMES[2:3]),
        ("resnet56 on cifar10", ["lottery-ticket"]),
        ("resnet20 on digits", NAMES[1:2]),
    ]
    found = tasks(records)
    assert [(task.title, list(task.experiments)) for task in found] == expected
    assert [task.number for task in found] == [1, 2, 3, 4]
    leading = tasks(records, first={wide[-1].key})
    assert [task.title for task in leading] == [expected[n][0] for n in (1, 0, 2, 3)]
    assert [task.number for task in leading] == [1, 2, 3, 4]


def test_the_chosen_rounds_are_those_of_the_recommended_row():
    (task,) = tasks(paths(NAMES, seeds=3))
    row = task.choice.row
    assert {(r.experiment, r.round) for r in task.chosen} == {(row.experiment, row.round)}
    accuracies = [r.metrics["val_accuracy"] for r in task.chosen]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(accuracies) == 3
    (nothing,) = tasks([r for r in task.records if r.round])
    assert nothing.chosen == []


def test_of_many_experiments_the_best_are_shown():
    (task,) = tasks(paths([f"trial-{number}" for number in range(30)], seeds=1, rounds=18))
    assert len(task.shown) == MOST_SHOWN
    assert task.choice.row.experiment in task.shown
    kept = {name: min(row.weights_kept for row in rows if row.recommended) for name, rows in task.experiments.items()}
    assert max(kept[name] for name in task.shown) <= min(kept[name] for name in kept if name not in task.shown)


def test_curves_follow_each_other_and_layers_keep_their_order():
    records = paths(NAMES[:1], rounds=2)
    rows = summary(records)
    found = round_curves(records, rows)
    assert [(lesson.start, len(lesson.val_accuracy)) for lesson in found] == [(0, 4), (4, 4), (8, 4)]
    assert [lesson.val_accuracy[-1] for lesson in found] == [row.validation for row in rows]
    assert [layer.name for layer in layers(records, rows[1])] == list(records[0].layers)
    for layer in layers(records, rows[1]):
        shares = [r.layers[layer.name][0] / layer.weights for r in records if r.round == 1]
        assert (layer.density.median, layer.density.low) == (statistics.median(shares), min(shares))
