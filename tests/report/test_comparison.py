"""Which experiments are compared, and their differences paired by seed: closed forms of the bootstrap."""

import dataclasses
import itertools
import random
import statistics

import pytest
from report.synthetic import THREE, digest, path_of, paths, record, with_test_accuracy

from orchestrator.report.comparison import MAX_SHOWN, bootstrap_intervals, comparisons, paired_differences

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
    assert bootstrap_intervals([sample]) == [pytest.approx(interval) if interval else None]


def test_the_interval_of_four_values_is_that_of_all_256_resamples():
    sample = [0.1, 0.2, 0.4, 0.8]
    means = sorted(statistics.fmean(drawn) for drawn in itertools.product(sample, repeat=4))
    (interval,) = bootstrap_intervals([sample])
    assert interval == pytest.approx((means[round(0.025 * 256)], means[round(0.975 * 256)]), abs=0.03)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    chance = random.Random(1)
    sample = [chance.gauss(5, 2) for _ in range(400)]
    half = 1.96 * statistics.pstdev(sample) / 20
    (interval,) = bootstrap_intervals([sample])
    assert interval == pytest.approx((statistics.fmean(sample) - half, statistics.fmean(sample) + half), abs=0.02)


def test_an_interval_depends_on_its_sample_alone():
    samples = [[0.1, 0.5, 0.7], [1.0, 2.0], [0.3, 0.2, 0.9]]
    assert (
        bootstrap_intervals(samples)
        == [bootstrap_intervals([sample])[0] for sample in samples]
        == bootstrap_intervals(samples)
    )


# Paired differences.


def test_differences_are_paired_by_seed():
    records = with_test_accuracy(
        paths(THREE[:2]), lambda r: 0.1 * r.seed + (0.02 + 0.001 * r.round if r.experiment == THREE[0] else 0)
    )
    found = paired_differences(records, THREE[:2])
    assert [difference.density for difference in found] == pytest.approx([0.8**r for r in range(1, 7)])
    for r, difference in enumerate(found, start=1):
        assert (difference.first, difference.second, difference.seeds) == (*THREE[:2], (0, 1, 2))
        # Seeds differ by ten points, pairs not at all.
        assert (difference.mean, difference.low, difference.high) == pytest.approx((0.02 + 0.001 * r,) * 3)
        assert not difference.clear, "three signs agree by chance in one case of four"


def test_a_difference_is_clear_from_six_pairs_on():
    for seeds, clear in ((5, False), (6, True)):
        both = [r for name in THREE[:2] for seed in range(seeds) for r in path_of(name, seed, 1)]
        records = with_test_accuracy(both, lambda r: 0.6 if r.experiment == THREE[0] else 0.5)
        (difference,) = paired_differences(records, THREE[:2])
        assert (len(difference.seeds), difference.clear) == (seeds, clear)


def test_only_seeds_that_both_have_make_a_pair():
    first, second = path_of(THREE[0], 0, 1), path_of(THREE[0], 1, 1)
    records = first + second + path_of(THREE[1], 1, 1) + path_of(THREE[1], 2, 1)
    (difference,) = paired_differences(records, THREE[:2])
    assert difference.seeds == (1,)
    assert (difference.low, difference.high, difference.clear) == (None, None, False)


def test_rounds_that_are_shared_or_of_another_network_are_no_pair():
    assert paired_differences(paths(THREE[:2], rounds=0), THREE[:2]) == []
    records = path_of(THREE[0], 0, 2) + path_of(THREE[1], 0, 2, model="resnet56")
    assert paired_differences(records, THREE[:2]) == []


def test_densities_that_count_different_things_are_no_pair():
    fewer = {"channels": {"unit": "macs"}}
    one = record(1, experiment="a", settings={"selection": {"type": "Channels", "unit": "macs"}}, **fewer)
    for unit, pairs in (("macs", 1), ("latency", 0), ("weights", 0)):
        other = record(1, experiment="b", settings={"selection": {"type": "Amc", "unit": unit}}, **fewer)
        assert len(paired_differences([one, other], ["a", "b"])) == pairs


def test_every_two_are_compared_at_each_density():
    found = paired_differences(paths(), THREE)
    assert len(found) == 3 * 6
    assert {(d.first, d.second) for d in found} == set(itertools.combinations(THREE, 2))


# Comparisons.


def test_experiments_with_another_model_or_other_data_are_another_comparison():
    wide = [
        dataclasses.replace(r, settings={**r.settings, "model_options": {"width": 32}})
        for r in paths(THREE[2:3], seeds=1)
    ]
    records = paths(THREE[:1]) + paths(THREE[1:2], data="digits") + wide + paths(["lottery-ticket"], model="resnet56")
    expected = [
        ("resnet20 on cifar10", THREE[:1]),
        ("resnet20 (width=32) on cifar10", THREE[2:3]),
        ("resnet56 on cifar10", ["lottery-ticket"]),
        ("resnet20 on digits", THREE[1:2]),
    ]
    found = comparisons(records)
    assert [(comparison.title, list(comparison.experiments)) for comparison in found] == expected
    assert [comparison.number for comparison in found] == [1, 2, 3, 4]
    leading = comparisons(records, first={wide[-1].key})
    assert [comparison.title for comparison in leading] == [expected[n][0] for n in (1, 0, 2, 3)]
    assert [comparison.number for comparison in leading] == [1, 2, 3, 4]


def test_the_chosen_rounds_are_those_of_the_recommended_row():
    (comparison,) = comparisons(paths(THREE, seeds=3))
    row = comparison.recommendation.row
    assert {(r.experiment, r.round) for r in comparison.recommended_records} == {(row.experiment, row.round)}
    accuracies = [r.metrics["val_accuracy"] for r in comparison.recommended_records]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(accuracies) == 3
    (nothing,) = comparisons([r for r in comparison.records if r.round])
    assert nothing.recommended_records == []


def test_of_many_experiments_the_best_are_shown():
    (comparison,) = comparisons(paths([f"trial-{number}" for number in range(30)], seeds=1, rounds=18))
    assert len(comparison.shown) == MAX_SHOWN
    assert comparison.recommendation.row.experiment in comparison.shown
    kept = {
        name: min(row.weights_kept for row in rows if row.recommended) for name, rows in comparison.experiments.items()
    }
    assert max(kept[name] for name in comparison.shown) <= min(
        kept[name] for name in kept if name not in comparison.shown
    )


def test_comparisons_of_the_same_names_have_titles_that_differ():
    """By what differs: the data's identity, the model's, options that no name shows."""
    small, other = path_of("fine-tuning", 0, 1), path_of("fine-tuning", 0, 1, model="resnet56")

    def titles(**changes):
        changed = [dataclasses.replace(record, settings={**record.settings, **changes}) for record in small]
        return [each.title for each in comparisons([*small, *changed, *other])]

    data, model = digest("cifar10")[:6], digest("resnet20")[:6]
    plain, wide = "resnet20 on cifar10", "resnet56 on cifar10"
    assert set(titles(data_identity="123456789")) == {f"{plain} (data {data})", f"{plain} (data 123456)", wide}
    assert set(titles(model_identity="123456789")) == {f"{plain} (model {model})", f"{plain} (model 123456)", wide}
    assert set(titles(data_options={"size": 8})) == {
        f"{plain} (data_options none)", f"{plain} (data_options size=8)", wide
    }  # fmt: skip
    assert titles() == [plain, wide]
