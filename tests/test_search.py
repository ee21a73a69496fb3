"""The search for the smallest density that holds, against accuracy curves of known form."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.driver import Driver
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.pruning import Explicit, Filters, Geometric, NofM, OneShot, kept_count
from orchestrator.rounds import EpochMetrics, RoundResult, TrainState
from orchestrator.search import PATIENCE, Found, search_density
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger, Record
from orchestrator.storage.store import open_store

Curve = Callable[[float, int], float]
"""(density, seed) -> validation accuracy."""

PROBLEM = Problem({"w": (1_000_000,)}, "model", "data", 10, (3, 8, 8))
TINY = dataclasses.replace(tiny.EXPERIMENT, path=Geometric(remove=0.5, rounds=5))


class Lab:
    """Trains by a curve, as a driver with a floor would, and counts what that costs."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.ledger: dict[str, Record] = {}
        self.asked: list[Experiment] = []

    def train(self, experiment: Experiment, floor: Floor) -> list[list[Record]]:
        self.asked.append(experiment)
        return [self.path(replicate, floor) for replicate in experiment.replicates()]

    def path(self, replicate: Experiment, floor: Floor) -> list[Record]:
        records: list[Record] = []
        for r, key in enumerate(round_keys(round_settings(replicate, PROBLEM))):
            if key not in self.ledger:
                self.ledger[key] = self.record(replicate, r, key)
            records.append(self.ledger[key])
            newest = records[-floor.patience :]
            if len(newest) == floor.patience and all(accuracy(n) < floor.of(accuracy(records[0])) for n in newest):
                break
        return records

    def record(self, replicate: Experiment, r: int, key: str) -> Record:
        density = replicate.densities()[r]
        metrics = {"train_loss": 0.0, "val_accuracy": self.curve(density, replicate.seed), "test_accuracy": math.nan}
        return Record(
            key=key, parent=None, experiment=replicate.name, round=r, technique="", density=density,
            kept=kept_count(density, 1_000_000), prunable=1_000_000, seed=replicate.seed, metrics=metrics, history=[],
            layers={}, dead_layers=[], epochs=4, seconds=0.0, images_per_second=0.0, attempts=1, gap_seconds=None,
            workers=1, settings={}, versions={}, finished_at="",
        )  # fmt: skip


def accuracy(record: Record) -> float:
    return record.metrics["val_accuracy"]


def search(curve: Curve, floor: Floor, experiment: Experiment = TINY, probes: int = 4) -> tuple[Found, Lab]:
    lab = Lab(curve)
    found = search_density(experiment, floor, lab.train, probes=probes)
    assert found.rounds == len(lab.ledger), "rounds are counted once"
    assert found.epochs == 4 * found.rounds
    return found, lab


def cliff(at: float) -> Curve:
    """0.9 down to density `at`, and 0.5 below it."""
    return lambda density, seed: 0.9 if density >= at else 0.5


def smallest(found: Found) -> float:
    (density,) = {record.density for record in found.records}
    assert density in found.experiment.densities()
    return density


@given(st.floats(0.032, 0.999), st.integers(0, 7))
def test_each_probe_is_one_round_and_halves_the_gap_in_log_compression(at: float, probes: int) -> None:
    found, lab = search(cliff(at), Floor(drop=0.1), probes=probes)
    octave = math.floor(-math.log2(at))  # the last round that holds, at 2^-octave; the next one falls
    assert found.rounds == 1 + min(5, octave + PATIENCE) + probes
    assert len(lab.asked) == 1 + probes
    compression = math.log2(1 / smallest(found))
    exact = math.log2(1 / at)
    assert found.holds
    assert compression <= exact + 1e-9
    assert exact < compression + 0.5**probes + 1e-9
    steps = (compression - octave) * 2**probes
    assert steps == pytest.approx(round(steps), abs=1e-6), "the answer lies on the grid of halvings"


def test_where_it_probes_and_what_it_says() -> None:
    found, lab = search(cliff(0.2), Floor(accuracy=0.8), probes=3)
    half = math.sqrt(0.5)
    assert [e.densities() for e in lab.asked] == [
        (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125),
        pytest.approx((1.0, 0.5, 0.25, 0.25 * half)),  # falls
        pytest.approx((1.0, 0.5, 0.25, 0.25 * half**0.5)),  # holds at 0.2102
        pytest.approx((1.0, 0.5, 0.25, 0.25 * half**0.75)),  # falls at 0.1928
    ]
    assert [e.name for e in lab.asked] == ["tiny", "tiny-5.65685x", "tiny-4.75683x", "tiny-5.18736x"]
    assert found.experiment == lab.asked[2]
    assert smallest(found) == lab.asked[2].densities()[-1]
    assert found.reason == "density 0.21 holds and 0.193 does not"
    for asked in lab.asked[1:]:
        assert dataclasses.replace(asked, name=TINY.name, path=TINY.path) == TINY, "only name and path differ"


def test_the_answer_is_the_same_whatever_storage_holds_already() -> None:
    """One lucky round beyond the cut counts for nothing, also where another job has trained it."""
    curve: Curve = lambda density, seed: 0.9 if density >= 0.5 or density == 0.5**5 else 0.5  # noqa: E731
    found, lab = search(curve, Floor(accuracy=0.8), probes=2)
    full = Lab(curve)

    def train(experiment: Experiment, floor: Floor) -> list[list[Record]]:
        return full.train(experiment, dataclasses.replace(floor, patience=100))  # never cut

    again = search_density(lab.asked[0], Floor(accuracy=0.8), train, probes=2)
    assert smallest(again) == smallest(found) == 0.5
    assert again.reason == found.reason


@settings(max_examples=60)
@given(st.floats(0.05, 0.45), st.floats(0.3, 4), st.floats(0.0, 0.4))
def test_a_smooth_curve_is_found_to_the_width_of_the_last_gap(mid: float, slope: float, drop: float) -> None:
    """A logistic curve in log density, whose crossing with the floor is known in closed form."""
    curve: Curve = lambda density, seed: 1 / (1 + (mid / density) ** slope)  # noqa: E731
    floor = Floor(drop=drop)
    crossing = mid / (1 / floor.of(curve(1.0, 0)) - 1) ** (1 / slope)  # solved for density
    found, _ = search(curve, floor, probes=6)
    if crossing <= 0.5**5:
        assert found.reason.startswith("the path's last round holds")
        assert smallest(found) == 0.5**5
    else:
        assert crossing <= smallest(found) * (1 + 1e-9)
        assert smallest(found) <= crossing * 2 ** (0.5**6) * (1 + 1e-9)


@pytest.mark.parametrize("path", [OneShot(0.1), Explicit([0.1])])
@pytest.mark.parametrize(
    ("at", "probes", "density", "rounds"),
    [
        (0.5, 0, 1.0, 2),
        (0.5, 1, 1.0, 3),  # the probe at 0.316 falls
        (0.3, 1, math.sqrt(0.1), 3),
        (0.5, 2, 0.1**0.25, 4),
        (0.05, 3, 0.1, 2),  # the whole path holds: nothing to probe
        (0.1, 3, 0.1, 2),
    ],
)
def test_a_path_of_one_round(path: OneShot, at: float, probes: int, density: float, rounds: int) -> None:
    found, _ = search(cliff(at), Floor(drop=0.1), dataclasses.replace(TINY, path=path), probes)
    assert smallest(found) == pytest.approx(density)
    assert (found.rounds, found.holds) == (rounds, True)


def test_without_probes_the_answer_is_a_round_of_the_path() -> None:
    found, lab = search(cliff(0.2), Floor(drop=0.1), probes=0)
    assert (smallest(found), found.experiment, len(lab.asked)) == (0.25, TINY, 1)
    assert found.reason == "density 0.25 holds and 0.125 does not"


def test_a_whole_path_that_holds_is_said_to_be_too_short() -> None:
    found, lab = search(cliff(0.01), Floor(drop=0.1))
    assert (smallest(found), found.holds, len(lab.asked)) == (0.5**5, True, 1)
    assert found.reason == "the path's last round holds: make it longer to find where it ends"


@pytest.mark.parametrize("floor", [Floor(accuracy=0.9), Floor(drop=0.0), Floor(drop=0.4)])
def test_a_round_exactly_at_the_floor_holds(floor: Floor) -> None:
    found, _ = search(cliff(0.2), floor, probes=0)
    assert smallest(found) == (1 / 32 if floor.drop == 0.4 else 0.25)


def test_a_target_above_what_dense_reaches_gives_the_best_and_says_so() -> None:
    found, lab = search(cliff(0.2), Floor(accuracy=0.95))
    assert (smallest(found), found.holds, found.rounds, len(lab.asked)) == (1.0, False, PATIENCE, 1)
    assert found.reason == (
        "the floor, 95.00%, is above the dense network's 90.00%; the best round, of density 1, reaches 90.00%"
    )


def test_the_best_may_be_a_round_that_was_trained_before_without_a_floor() -> None:
    lab = Lab(lambda density, seed: 0.9 + (density == 0.25) * 0.03)
    lab_without = lambda experiment, floor: lab.train(experiment, Floor(accuracy=0.0))  # noqa: E731
    found = search_density(TINY, Floor(accuracy=0.95), lab_without)
    assert (smallest(found), found.holds) == (0.25, False)
    assert found.reason.endswith("the best round, of density 0.25, reaches 93.00%")


@pytest.mark.parametrize(
    ("falls", "density"),
    [
        ((0.25, 0.0625), 0.03125),  # one bad round is passed over
        ((0.25, 0.125), 0.03125),  # and two in a row
        ((0.5, 0.25, 0.125), 1.0),  # three end the walk, whatever would have come
        ((0.03125,), 0.0625),
    ],
)
def test_a_curve_that_recovers_counts_to_its_last_round_that_holds(falls: tuple[float, ...], density: float) -> None:
    found, lab = search(lambda density, seed: 0.5 if density in falls else 0.9, Floor(drop=0.1), probes=0)
    assert smallest(found) == density
    assert len(lab.ledger) == (4 if len(falls) == 3 else 6)


def noise(density: float, seed: int) -> float:
    """In [0, 1), of no form at all, and the same every time."""
    digest = hashlib.sha256(repr((density, seed)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


@settings(max_examples=100)
@given(st.integers(0, 1000), st.integers(1, 4), st.floats(0, 0.6), st.integers(0, 5))
def test_whatever_the_noise_what_is_found_holds_and_ends_in_time(
    salt: int, replicates: int, drop: float, probes: int
) -> None:
    experiment = dataclasses.replace(TINY, seeds=tuple(range(replicates)))
    curve: Curve = lambda density, seed: 0.5 + 0.4 * noise(density + salt, seed)  # noqa: E731
    floor = Floor(drop=drop)
    found, lab = search(curve, floor, experiment, probes)
    assert len(lab.asked) <= 1 + probes
    assert found.rounds <= replicates * (len(TINY.densities()) + probes)
    assert found.holds
    above = [accuracy(record) - floor.of(curve(1.0, record.seed)) for record in found.records]
    above += [-math.inf] * (replicates - len(above))
    assert statistics.median(above) >= 0
    walked = lab.train(experiment, floor)
    held_in_walk = [d for r, d in enumerate(TINY.densities()) if all(len(path) > r + 1 for path in walked)]
    assert smallest(found) <= min(held_in_walk, default=1.0), "not larger than what every replicate passed in the walk"
    assert search_density(experiment, floor, lab.train, probes=probes) == found, "the same again"


@pytest.mark.parametrize(
    ("cliffs", "density"),
    [
        ([0.3], 0.5),
        ([0.3, 0.1, 0.04], 0.125),  # the one in the middle decides
        ([0.04, 0.3, 0.1], 0.125),
        ([0.6, 0.01, 0.01], 0.03125),  # one that fails does not end the path of the others
        ([0.6, 0.6, 0.01], 1.0),
        ([0.1, 0.2], 0.25),  # of two, both must hold: their mean would be far below
        ([0.01, 0.04, 0.1, 0.3], 0.125),  # of four, three
    ],
)
def test_the_median_of_the_replicates_decides(cliffs: list[float], density: float) -> None:
    experiment = dataclasses.replace(TINY, seeds=tuple(range(len(cliffs))))
    found, _ = search(lambda d, seed: cliff(cliffs[seed])(d, seed), Floor(drop=0.1), experiment, probes=0)
    assert smallest(found) == density
    assert [r.seed for r in found.records] == [s for s, at in enumerate(cliffs) if reaches(at, density)]


def reaches(at: float, density: float) -> bool:
    """Whether a replicate is trained at `density`: no PATIENCE rounds before it all fell."""
    return density == 1.0 or 2**PATIENCE * density >= at


def test_each_replicate_has_the_floor_of_its_own_dense_network() -> None:
    """Seed 1 is worse by 0.1 everywhere, which is no drop."""
    experiment = dataclasses.replace(TINY, seeds=(0, 1))
    found, _ = search(lambda d, seed: cliff(0.2)(d, seed) - 0.1 * seed, Floor(drop=0.05), experiment, probes=0)
    assert smallest(found) == 0.25
    found, _ = search(lambda d, seed: cliff(0.2)(d, seed) - 0.1 * seed, Floor(accuracy=0.86), experiment, probes=0)
    assert not found.holds, "0.9 and 0.8 have the median 0.85"


def test_a_little_above_makes_up_for_a_little_below() -> None:
    """Three replicates at 0.25 by +0.02, -0.01, +0.01 above their floors: the median holds."""
    gains = {0: 0.02, 1: -0.01, 2: 0.01}
    experiment = dataclasses.replace(TINY, path=OneShot(0.25), seeds=(0, 1, 2))
    found, _ = search(lambda d, seed: 0.9 if d == 1 else 0.8 + gains[seed], Floor(drop=0.1), experiment, probes=0)
    assert smallest(found) == 0.25
    assert [round(accuracy(r), 3) for r in found.records] == [0.82, 0.79, 0.81]


def test_probes_end_when_no_number_of_weights_lies_between() -> None:
    """Of 1,000,000 weights 250,000 hold and 249,990 do not: the nine numbers between are found in four probes."""
    experiment = dataclasses.replace(TINY, path=Explicit([0.25, 0.24999]))
    found, lab = search(cliff(0.2499965), Floor(drop=0.1), experiment, probes=50)
    assert [record.kept for record in found.records] == [249_997]
    assert len(lab.asked) - 1 <= 4


def test_names_tell_the_probes_apart_and_are_allowed_to_be_long() -> None:
    experiment = dataclasses.replace(TINY, name="n" * 100, path=Explicit([0.99, 0.98]))
    _, lab = search(cliff(0.9834), Floor(drop=0.1), experiment, probes=9)
    names = [asked.name for asked in lab.asked]
    assert len(set(names)) == 10
    assert max(map(len, names)) <= 100


@pytest.mark.parametrize(
    ("change", "probes", "message"),
    [
        ({}, -1, "probes must be 0 or more, got -1"),
        ({"selection": NofM(4)}, 1, r"NofM\(m=4\) has no density between two of its own, got probes=1: pass 0"),
    ],
)
def test_what_is_refused_before_training(change: dict[str, object], probes: int, message: str) -> None:
    lab = Lab(cliff(0.2))
    with pytest.raises(ConfigError, match=message):
        search_density(dataclasses.replace(TINY, **change), Floor(drop=0.1), lab.train, probes=probes)
    assert lab.asked == []


def test_other_selections_are_searched_and_n_of_m_by_its_path_alone() -> None:
    found, _ = search(cliff(0.2), Floor(drop=0.1), dataclasses.replace(TINY, selection=Filters()))
    assert smallest(found) == pytest.approx(0.25 * 0.5 ** (5 / 16))
    found, _ = search(
        cliff(0.3), Floor(drop=0.1), dataclasses.replace(TINY, selection=NofM(4), path=Explicit([0.5, 0.25])), 0
    )
    assert smallest(found) == 0.5


def test_with_real_drivers_each_round_is_trained_once_and_a_second_search_trains_none(tmp_path: Path) -> None:
    shapes = {"fc.weight": (40, 50)}
    problem = Problem(shapes, "model", "data", 10, (3, 8, 8))
    ledger = Ledger(open_store(str(tmp_path)))
    trained: list[str] = []

    def train(experiment: Experiment, floor: Floor) -> list[list[Record]]:
        paths = []
        for replicate in experiment.replicates():
            driver = Driver(replicate, ledger, problem, floor=floor)
            while (request := driver.next_round()) is not None:
                trained.append(request.key)
                weights = {n: torch.rand(shape) * request.masks.get(n, 1) for n, shape in shapes.items()}
                metrics = EpochMetrics(0, 0.1, 1.0, 1.0, cliff(0.2 + 0.1 * replicate.seed)(request.density, 0))
                driver.finish_round(request.key, RoundResult(TrainState(weights), (metrics,) * 4, 0.5, 1.0, 1.0))
            paths.append(driver.records())
        return paths

    experiment = dataclasses.replace(TINY, seeds=(0, 1, 2))
    found = search_density(experiment, Floor(drop=0.1), train, probes=2)
    assert smallest(found) == pytest.approx(0.5**1.5), "0.354 holds and 0.297 does not: the median cliff is at 0.3"
    assert found.rounds == len(trained) == len(set(trained)) == len(ledger.records())
    assert search_density(experiment, Floor(drop=0.1), train, probes=2) == found
    assert found.rounds == len(trained)
