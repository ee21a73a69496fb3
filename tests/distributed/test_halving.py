"""ASHA's decisions when a sweep goes on: everything that was known stands in the rungs, nobody is judged twice."""

from types import SimpleNamespace

import pytest

from orchestrator.distributed.halving import Halving, Stops
from orchestrator.storage.opening import open_store
from orchestrator.task import ACCURACY

ROUNDS = 8
PATHS = {f"path-{i}": [0.9 - 0.01 * i - 0.001 * r for r in range(ROUNDS + 1)] for i in range(8)}


@pytest.fixture
def stops(tmp_path) -> Stops:
    return Stops(open_store(str(tmp_path)), PATHS)


def report(halving: Halving, path: str, round: int) -> str:
    result = {"path": path, "round": round, "rounds": ROUNDS, "val_accuracy": PATHS[path][round]}
    return halving.on_trial_result(None, SimpleNamespace(trial_id=path), result)


def begin(stops: Stops, before: dict[str, list[float]]) -> Halving:
    halving = Halving(stops, ROUNDS, before, ACCURACY)
    for path in PATHS:
        halving.on_trial_add(None, SimpleNamespace(trial_id=path))
    return halving


def test_the_weaker_half_stops_and_is_remembered(stops):
    halving = begin(stops, {})
    assert [report(halving, path, 1) for path in ("path-0", "path-7", "path-5")] == ["CONTINUE", "STOP", "STOP"]
    assert stops.paths() == {"path-7", "path-5"}


def test_what_storage_holds_is_not_judged_again_but_judges_others(stops):
    """All eight have passed round 1; whoever goes on is held against all of them at the next rung."""
    before = {path: accuracies[: 3 if path == "path-1" else 2] for path, accuracies in PATHS.items()}
    halving = begin(stops, before)
    assert {report(halving, path, round) for path in PATHS for round in (0, 1)} == {"CONTINUE"}
    assert stops.paths() == set()
    assert report(halving, "path-0", 2) == "CONTINUE", "better than path-1, which was there before"
    assert report(halving, "path-6", 2) == "STOP"
    assert stops.paths() == {"path-6"}


def test_a_path_that_joins_is_held_against_all_that_were_there(stops):
    before = {path: accuracies for path, accuracies in PATHS.items() if path != "path-7"}
    halving = begin(stops, before)
    assert report(halving, "path-7", 1) == "STOP"
