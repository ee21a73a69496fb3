"""The floor by a table, and a driver that cuts a path at it, with a stand-in for training."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import measured

from orchestrator.distributed.flags import Flags
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError
from orchestrator.experiment import Problem
from orchestrator.objective import Objective
from orchestrator.pruning import Explicit
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import ACCURACY
from orchestrator.train_state import TrainState
from orchestrator.work.train import EpochMetrics, Train, Trained


@pytest.mark.parametrize(
    ("floor", "dense", "lowest"),
    [
        (Floor(target=0.9), 0.95, 0.9),
        (Floor(target=0.9), 0.5, 0.9),
        (Floor(0.9), 0.95, 0.9),
        (Floor(target=0), 0.95, 0.0),
        (Floor(target=1), 0.95, 1.0),
        (Floor(drop=0.02), 0.95, 0.93),
        (Floor(drop=0), 0.95, 0.95),
        (Floor(drop=0.5), 0.25, -0.25),
    ],
)
def test_the_floor(floor: Floor, dense: float, lowest: float) -> None:
    assert floor.of(dense, ACCURACY) == pytest.approx(lowest, abs=1e-8)
    assert floor.margin(lowest, dense, ACCURACY) >= 0, "exactly at the floor is not below it"


@given(st.integers(1, 10_000_000), st.data())
def test_a_drop_is_exact_to_a_sample(samples: int, data: st.DataObject) -> None:
    """Of accuracies k/n, a drop of d/n allows k - d right answers, and not one less, whatever the rounding."""
    dense = data.draw(st.integers(1, samples))
    drop = data.draw(st.integers(0, dense - 1))
    floor, start = Floor(drop=drop / samples), dense / samples
    assert floor.margin((dense - drop) / samples, start, ACCURACY) >= 0
    assert floor.margin((dense - drop - 1) / samples, start, ACCURACY) < 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a floor is either a target or a drop below dense, got neither"),
        (
            {"target": 0.9, "drop": 0.1},
            "a target or a drop below dense, got {'target': 0.9, 'drop': 0.1}",
        ),
        ({"target": 91.5}, r"floor.target must be a number in \[0, 1\], got 91.5"),
        ({"target": -0.1}, r"floor.target must be a number in \[0, 1\], got -0.1"),
        ({"target": float("nan")}, "floor.target must be a finite number, got nan"),
        ({"drop": "2%"}, "floor.drop must be a finite number of 0 or more, got '2%'"),
        ({"drop": True}, "floor.drop must be a finite number of 0 or more, got True"),
    ],
)
def test_what_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Floor(**given).check(ACCURACY)


# A driver with a floor.

SHAPES = {"fc.weight": (10, 20)}
PROBLEM = Problem(SHAPES, "model", "data", ACCURACY)
EXPERIMENT = dataclasses.replace(tiny.EXPERIMENT, path=Explicit([0.8, 0.6, 0.4, 0.2]))


def driver_of(folder: Path, floor: Floor | None) -> Driver:
    return Driver(EXPERIMENT, Ledger(open_store(str(folder))), PROBLEM, floor=floor)


def fake_train(request: Train, accuracy: float) -> Trained:
    """Random weights; only the last epoch's validation accuracy is `accuracy`, those before it and test's are not."""
    weights = torch.rand(SHAPES["fc.weight"]) * request.structure.tensors().get("fc.weight", 1)
    metrics = [
        EpochMetrics(e, 0.1, 1.0, measured(accuracy if e == request.epochs - 1 else 0.0)) for e in range(request.epochs)
    ]
    return Trained(
        TrainState({"fc.weight": weights}),
        tuple(metrics),
        measured(0.01),
        seconds=1.0,
        samples_per_second=1.0,
    )


def train_rounds(driver: Driver, accuracies: list[float], limit: int = 99) -> list[int]:
    """The rounds trained, of `accuracies` by round, at most `limit` of them."""
    trained: list[int] = []
    while len(trained) < limit and (request := driver.next_work()) is not None:
        assert not driver.is_over()
        trained.append(request.round)
        driver.finish(request, fake_train(request, accuracies[request.round]))
    return trained


ACCURACIES = [0.90, 0.91, 0.88, 0.80, 0.89]  # it would recover in the last round


@pytest.mark.parametrize(
    ("floor", "last"),
    [
        (None, 4),
        (Floor(target=0.8), 4),
        (Floor(target=0.81), 3),
        (Floor(target=0.89), 2),
        (Floor(target=0.905), 0),
        (Floor(drop=0.1), 4),
        (Floor(drop=0.02), 3),
        (Floor(drop=0.015), 2),
        (Floor(drop=0.0), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3, 5])
def test_a_path_is_cut_after_the_first_round_below_also_when_it_is_resumed(
    floor: Floor | None, last: int, stopped_after: int, tmp_path: Path
) -> None:
    first = train_rounds(driver_of(tmp_path, floor), ACCURACIES, limit=stopped_after)
    driver = driver_of(tmp_path, floor)
    assert first + train_rounds(driver, ACCURACIES) == list(range(last + 1))
    for finished in (driver, driver_of(tmp_path, floor)):
        assert finished.is_over()
        assert finished.next_work() is None
        assert [record.round for record in finished.records()] == list(range(last + 1))
        assert finished.failure("job") is None


def test_another_floor_goes_on_where_the_first_one_cut(tmp_path: Path) -> None:
    assert train_rounds(driver_of(tmp_path, Floor(target=0.89)), ACCURACIES) == [0, 1, 2]
    assert train_rounds(driver_of(tmp_path, Floor(target=0.85)), ACCURACIES) == [3]
    assert train_rounds(driver_of(tmp_path, Floor(target=0.89)), ACCURACIES) == []
    assert train_rounds(driver_of(tmp_path, None), ACCURACIES) == [4]
    assert driver_of(tmp_path, Floor(target=0.99)).is_over()


def test_the_floor_decides_no_key(tmp_path: Path) -> None:
    keys = [driver_of(tmp_path, floor).keys for floor in (None, Floor(0.5), Floor(drop=0.1))]
    assert all(a == b for a, b in itertools.pairwise(keys))


@pytest.mark.parametrize("patience", [0, -1, 1.5, "2", True])
def test_patience_is_a_number_of_rounds(patience):
    with pytest.raises(ConfigError, match=rf"floor.patience must be a whole number of 1 or more, got {patience!r}"):
        Floor(drop=0.1, patience=patience)


@pytest.mark.parametrize(("patience", "rounds"), [(1, 1), (2, 2), (3, 3), (4, 4), (9, 5)])
def test_a_path_is_cut_after_as_many_rounds_below_the_floor_as_its_patience(tmp_path, patience, rounds):
    """A floor that no round reaches, the dense one included."""
    driver = driver_of(tmp_path, Floor(1.0, patience=patience))
    assert train_rounds(driver, ACCURACIES) == list(range(rounds))


@pytest.mark.parametrize(
    ("flags", "floor"),
    [
        ({}, None),
        ({"target": 97.0}, Floor(target=0.97)),
        ({"target": 100.0}, Floor(target=1.0)),
        ({"max_drop": 0.5}, Floor(drop=0.005)),
        ({"max_drop": 0.0}, Floor(drop=0.0)),
    ],
)
def test_both_flags_of_the_floor_are_in_per_cent(flags: dict[str, float], floor: Floor | None) -> None:
    assert Flags(**flags).stop(ACCURACY) == floor


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"target": 0.993}, "--target must be in per cent, above 1 and up to 100, got 0.993: 97 is"),
        ({"target": 101.0}, "--target must be in per cent, above 1 and up to 100, got 101: 97 is"),
        ({"target": float("nan")}, "--target must be in per cent, .* got nan"),
        ({"max_drop": 0.005}, "--max-drop must be in per cent, 0 or from 0.1 to 100, got 0.005: .* 0.5 is one of 200"),
        ({"max_drop": -1.0}, "--max-drop must be in per cent, 0 or from 0.1 to 100, got -1"),
        ({"max_drop": 1.0, "target": 97.0}, "give --target or --max-drop, not both, got 97 and 1"),
    ],
)
def test_a_floor_in_another_unit_is_refused(flags: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Flags(**flags).stop(ACCURACY)


@pytest.mark.parametrize("tenths", range(11, 1001, 89))
def test_an_accuracy_in_per_cent_is_exact_to_a_sample(tenths: int) -> None:
    floor = Flags(target=tenths / 10).stop(ACCURACY)
    assert floor is not None
    assert floor.margin(tenths / 1000, 1.0, ACCURACY) >= 0
    assert floor.margin((tenths - 1) / 1000, 1.0, ACCURACY) < 0


BITS = Objective("bits_per_character", higher_is_better=False)


def test_a_floor_of_an_objective_that_goes_down_is_a_ceiling() -> None:
    """In the objective's own unit: 2 bits per character, or 0.1 more than the dense network has."""
    assert Flags(target=2.0).stop(BITS) == Floor(target=2.0)
    assert Flags(max_drop=0.1).stop(BITS) == Floor(drop=0.1)
    floor = Floor(drop=0.25)
    assert floor.of(1.5, BITS) == 1.75
    assert [floor.margin(value, 1.5, BITS) >= 0 for value in (1.25, 1.75, 1.76)] == [True, True, False]
    assert floor.cuts(1.5, [1.5, 1.76], BITS)
    assert not floor.cuts(1.5, [1.76, 1.5], BITS)
    assert not Floor(target=1.75, patience=2).cuts(1.5, [1.5, 1.76], BITS)
