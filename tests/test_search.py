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
from tiny import measured

from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DensityError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.pruning import Explicit, Filters, Geometric, NofM, OneShot, kept_count
from orchestrator.pruning import Path as SparsityPath
from orchestrator.pruning.path import longer
from orchestrator.record import Record
from orchestrator.search import PATIENCE, SearchResult, search_density
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import ACCURACY
from orchestrator.train_state import TrainState
from orchestrator.work.train import EpochMetrics, Trained

Curve = Callable[[float, int], float]
"""(density, seed) -> validation accuracy."""

PROBLEM = Problem({"w": (1_000_000,)}, "model", "data", ACCURACY)
TINY = dataclasses.replace(tiny.EXPERIMENT, path=Geometric(remove=0.5, rounds=5))


class Lab:
    """Trains by a curve, as a driver with a floor would, and counts what that costs.

    A density that keeps less than one weight is refused before anything is trained.
    """

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.ledger: dict[str, Record] = {}
        self.asked: list[Experiment] = []

    def train(self, experiment: Experiment, floor: Floor) -> list[list[Record]]:
        if not kept_count(experiment.densities()[-1], 1_000_000):
            raise DensityError("density must keep at least 1 weight")
        self.asked.append(experiment)
        return [self.path(replicate, floor) for replicate in experiment.replicates()]

    def path(self, replicate: Experiment, floor: Floor) -> list[Record]:
        records: list[Record] = []
        for r, key in enumerate(round_keys(round_settings(replicate, PROBLEM))):
            if key not in self.ledger:
                if records and floor.cuts(records[0].val, [record.val for record in records], ACCURACY):
                    break
                self.ledger[key] = self.record(replicate, r, key)
            records.append(self.ledger[key])
        return records

    def record(self, replicate: Experiment, r: int, key: str) -> Record:
        density = replicate.densities()[r]
        metrics = {"train_loss": 0.0, "val_accuracy": self.curve(density, replicate.seed), "test_accuracy": math.nan}
        return Record(
            key=key, parent=None, experiment=replicate.name, round=r, technique="", density=density,
            kept=kept_count(density, 1_000_000), prunable=1_000_000, seed=replicate.seed, metrics=metrics, history=[],
            objective=ACCURACY,
            layers={}, dead_layers=[], epochs=4, seconds=0.0, samples_per_second=0.0, attempts=1,
            workers=1, settings={}, versions={}, finished_at="",
        )  # fmt: skip


def accuracy(record: Record) -> float:
    return record.metrics["val_accuracy"]


def search(curve: Curve, floor: Floor, experiment: Experiment = TINY, probes: int = 4) -> tuple[SearchResult, Lab]:
    lab = Lab(curve)
    found = search_density(experiment, floor, lab.train, probes=probes)
    assert found.rounds == len(lab.ledger), "rounds are counted once"
    assert found.epochs == 4 * found.rounds
    return found, lab


def cliff(at: float) -> Curve:
    """0.9 down to density `at`, and 0.5 below it."""
    return lambda density, seed: 0.9 if density >= at else 0.5


def smallest(found: SearchResult) -> float:
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
    found, lab = search(cliff(0.2), Floor(target=0.8), probes=3)
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


@pytest.mark.parametrize(
    ("floor", "stored", "density"),
    [
        (Floor(target=0.8), 6, 0.5**5),  # dense holds, 0.25 to 0.0625 fall, and storage knows what comes after
        (Floor(target=0.95), 6, 0.5**5),  # not even dense holds
        (Floor(target=0.8), 4, 0.5),  # storage ends before the round that holds
        (Floor(target=0.8), 0, 0.5),
    ],
)
def test_a_round_beyond_the_cut_counts_where_storage_holds_it(floor: Floor, stored: int, density: float) -> None:
    """Rounds 2 to 4 fall, which ends a walk that has to train them."""
    accuracies = {1.0: 0.9, 0.5: 0.9, 0.5**5: 0.97}
    lab = Lab(lambda density, seed: accuracies.get(density, 0.5))
    if stored:
        lab.path(dataclasses.replace(TINY, path=Geometric(0.5, stored - 1)), Floor(target=0.0))
    found = search_density(TINY, floor, lab.train, probes=0)
    assert (smallest(found), found.holds) == (density, True)


@settings(max_examples=60)
@given(st.floats(0.05, 0.45), st.floats(0.3, 4), st.floats(0.0, 0.4))
def test_a_smooth_curve_is_found_to_the_width_of_the_last_gap(mid: float, slope: float, drop: float) -> None:
    """A logistic curve in log density, whose crossing with the floor is known in closed form."""
    curve: Curve = lambda density, seed: 1 / (1 + (mid / density) ** slope)  # noqa: E731
    floor = Floor(drop=drop)
    crossing = mid / (1 / (floor.of(curve(1.0, 0), ACCURACY) - 1e-9) - 1) ** (1 / slope)  # solved for density
    found, _ = search(curve, floor, probes=6)
    assert crossing <= smallest(found) * (1 + 1e-9)
    if crossing > 1e-3:  # below, the numbers of weights lie further apart
        assert smallest(found) <= crossing * 2 ** (0.5**6) * (1 + 1e-9)


@pytest.mark.parametrize("path", [OneShot(0.1), Explicit([0.1])])
@pytest.mark.parametrize(
    ("at", "probes", "density", "rounds"),
    [
        (0.5, 0, 1.0, 2),
        (0.5, 1, 1.0, 3),  # the probe at 0.316 falls
        (0.3, 1, math.sqrt(0.1), 3),
        (0.5, 2, 0.1**0.25, 4),
        (0.05, 3, 0.1**1.25, 6),  # a second round is added, and falls
        (0.1, 3, 0.1, 6),
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


@pytest.mark.parametrize(
    ("path", "last", "longest"),
    [
        (Geometric(remove=0.5, rounds=3), 0.0625, 0.03125),
        (Explicit([0.9, 0.36]), 0.36**3, 0.36**3.5),  # by its mean step, 0.6
        (OneShot(0.25), 0.0625, 0.015625),
        (OneShot(0.97), 0.97 * 0.8**14, 0.97 * 0.8**15),  # by a step that leads somewhere
        (Explicit([0.97, 0.95]), 0.95 * 0.8**14, 0.95 * 0.8**15),
    ],
)
def test_a_path_whose_last_round_holds_is_lengthened_until_one_falls(
    path: SparsityPath, last: float, longest: float
) -> None:
    found, lab = search(cliff(0.04), Floor(drop=0.1), dataclasses.replace(TINY, path=path), probes=0)
    assert smallest(found) == pytest.approx(last)
    assert found.reason == f"density {last:.3g} holds and {longest:.3g} does not"
    assert lab.asked[-1].densities()[-1] == pytest.approx(longest)
    assert [asked.name for asked in lab.asked] == ["tiny"] + ["tiny-longer"] * (len(lab.asked) - 1)
    assert found.experiment == lab.asked[-1]


def test_a_longer_geometric_path_shares_its_rounds_with_one_of_that_length() -> None:
    path = Geometric(0.2, 3)
    assert longer(path).densities() == Geometric(0.2, 4).densities()
    assert longer(path).densities()[:3] == path.densities()


def test_a_floor_that_no_round_falls_below_ends_at_the_last_weight() -> None:
    found, lab = search(lambda density, seed: 0.9, Floor(drop=0.1))
    assert ([record.kept for record in found.records], found.holds, len(lab.ledger)) == ([1], True, 21)
    assert found.reason == (
        "the last round holds and a smaller one cannot be made: the next round would keep 0 weights in 1 layers"
    )


def test_a_selection_that_refuses_a_longer_path_ends_the_search() -> None:
    """As channels do, of which every layer keeps some: its words, and nothing is trained for it."""
    lab = Lab(cliff(0.0))

    def train(experiment: Experiment, floor: Floor) -> list[list[Record]]:
        if experiment.densities()[-1] < 0.02:
            raise DensityError("round 6: the smallest density is 0.02")
        return lab.train(experiment, floor)

    found = search_density(TINY, Floor(drop=0.1), train)
    assert (smallest(found), found.holds, found.rounds) == (0.5**5, True, 6)
    assert found.reason.endswith("a smaller one cannot be made: round 6: the smallest density is 0.02")


def test_an_error_that_is_not_about_a_density_is_raised() -> None:
    lab = Lab(cliff(0.0))

    def train(experiment: Experiment, floor: Floor) -> list[list[Record]]:
        if lab.asked:
            raise ConfigError("storage must be a folder")
        return lab.train(experiment, floor)

    with pytest.raises(ConfigError, match="storage must be a folder"):
        search_density(TINY, Floor(drop=0.1), train)


def test_a_driver_refuses_a_density_by_its_own_error(tmp_path: Path) -> None:
    experiment = dataclasses.replace(TINY, min_kept_per_layer=30, path=OneShot(0.02))
    with pytest.raises(DensityError, match=r"round 1: .*min_kept_per_layer"):
        Driver(experiment, Ledger(open_store(str(tmp_path))), Problem({"w": (1000,)}, "model", "data", ACCURACY))


@pytest.mark.parametrize("floor", [Floor(target=0.9), Floor(drop=0.0), Floor(drop=0.4)])
def test_a_round_exactly_at_the_floor_holds(floor: Floor) -> None:
    found, _ = search(cliff(0.2), floor, probes=0)
    assert smallest(found) == (0.5**20 if floor.drop == 0.4 else 0.25)


def test_a_target_above_what_dense_reaches_gives_the_best_and_says_so() -> None:
    found, lab = search(cliff(0.2), Floor(target=0.95))
    assert (smallest(found), found.holds, found.rounds, len(lab.asked)) == (1.0, False, PATIENCE, 1)
    assert found.reason == (
        "the floor, 95.00 %, is better than the dense network's 90.00 %; "
        "the best of 3 rounds, of density 1, reaches 90.00 %"
    )


def test_the_best_may_be_a_round_that_was_trained_before_without_a_floor() -> None:
    lab = Lab(lambda density, seed: 0.9 + (density == 0.25) * 0.03)
    lab_without = lambda experiment, floor: lab.train(experiment, Floor(target=0.0))  # noqa: E731
    found = search_density(TINY, Floor(target=0.95), lab_without)
    assert (smallest(found), found.holds) == (0.25, False)
    assert found.reason.endswith("the best of 6 rounds, of density 0.25, reaches 93.00 %")


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
    curve: Curve = lambda density, seed: 0.5 if density in falls or density < 0.03 else 0.9  # noqa: E731
    found, lab = search(curve, Floor(drop=0.1), probes=0)
    assert smallest(found) == density
    assert len(lab.ledger) == (4 if len(falls) == 3 else 7 if density == 0.03125 else 6)


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
    curve: Curve = lambda density, seed: 0.5 + 0.4 * noise(density + salt, seed) if density > 0.02 else -1  # noqa: E731
    floor = Floor(drop=drop)
    found, lab = search(curve, floor, experiment, probes)
    assert len(lab.asked) <= 2 + probes
    assert found.rounds <= replicates * (len(TINY.densities()) + 1 + probes)
    assert found.holds
    above = [floor.margin(record.val, curve(1.0, record.seed), ACCURACY) for record in found.records]
    above += [-math.inf] * (replicates - len(above))
    assert statistics.median(above) >= 0
    falls = lambda value, seed: floor.margin(value, curve(1.0, seed), ACCURACY) < 0  # noqa: E731
    passed = min(
        next((r for r, density in enumerate(TINY.densities()) if falls(curve(density, seed), seed)), 6)
        for seed in range(replicates)
    )
    assert smallest(found) <= TINY.densities()[passed - 1], "every replicate passed this one without a fall"
    assert search_density(experiment, floor, lab.train, probes=probes) == found, "the same again"


@pytest.mark.parametrize(
    ("cliffs", "density"),
    [
        ([0.3], 0.5),
        ([0.3, 0.1, 0.04], 0.125),  # the one in the middle decides
        ([0.04, 0.3, 0.1], 0.125),
        ([0.6, 0.01, 0.01], 0.015625),  # one that fails does not end the path of the others
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
    found, _ = search(lambda d, seed: cliff(0.2)(d, seed) - 0.1 * seed, Floor(target=0.86), experiment, probes=0)
    assert not found.holds, "0.9 and 0.8 have the median 0.85"


def test_a_little_above_makes_up_for_a_little_below() -> None:
    """Three replicates at 0.25 by +0.02, -0.01, +0.01 above their floors: the median holds."""
    gains = {0: 0.02, 1: -0.01, 2: 0.01}
    experiment = dataclasses.replace(TINY, path=OneShot(0.25), seeds=(0, 1, 2))
    found, _ = search(
        lambda d, seed: {1: 0.9, 0.25: 0.8 + gains[seed]}.get(d, 0), Floor(drop=0.1), experiment, probes=0
    )
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
    names = [asked.name for asked in lab.asked] + [
        asked.name for asked in search(cliff(0.9), Floor(drop=0.1), experiment, probes=0)[1].asked[1:2]
    ]
    assert len(set(names)) == 11
    assert max(map(len, names)) <= 100


@pytest.mark.parametrize(
    ("change", "probes", "message"),
    [
        ({}, -1, "probes must be a whole number of 0 or more, got -1"),
        ({"selection": NofM(4)}, 1, r"NofM\(m=4\) has only fixed densities, so probes must be 0, got 1"),
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
    problem = Problem(shapes, "model", "data", ACCURACY)
    ledger = Ledger(open_store(str(tmp_path)))
    trained: list[str] = []

    def train(experiment: Experiment, floor: Floor) -> list[list[Record]]:
        paths = []
        for replicate in experiment.replicates():
            driver = Driver(replicate, ledger, problem, floor=floor)
            while (request := driver.next_work()) is not None:
                trained.append(request.key)
                weights = {n: torch.rand(shape) * request.structure.tensors().get(n, 1) for n, shape in shapes.items()}
                metrics = EpochMetrics(0, 0.1, 1.0, measured(cliff(0.2 + 0.1 * replicate.seed)(request.density, 0)))
                driver.finish(request, Trained(TrainState(weights), (metrics,) * 4, measured(0.5), 1.0, 1.0))
            paths.append(driver.records())
        return paths

    experiment = dataclasses.replace(TINY, seeds=(0, 1, 2))
    found = search_density(experiment, Floor(drop=0.1), train, probes=2)
    assert smallest(found) == pytest.approx(0.5**1.5), "0.354 holds and 0.297 does not: the median cliff is at 0.3"
    assert found.rounds == len(trained) == len(set(trained)) == len(ledger.records())
    assert search_density(experiment, Floor(drop=0.1), train, probes=2) == found
    assert found.rounds == len(trained)
