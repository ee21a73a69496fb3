"""A space of experiments, searched by Optuna on a real Ray."""

import sys
from dataclasses import replace

import pytest
import tiny
from ray import tune

from orchestrator.distributed import cluster
from orchestrator.distributed.space import sweep_space
from orchestrator.errors import ConfigError
from orchestrator.pruning import OneShot
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.techniques import FineTuning, LearningRateRewinding

SPACE = {"density": tune.uniform(0.05, 0.9), "rewinds": tune.choice([True, False])}


def build(point):
    technique = LearningRateRewinding() if point["rewinds"] else FineTuning()
    return replace(tiny.EXPERIMENT, path=OneShot(point["density"]), technique=technique)


@pytest.mark.ray
@pytest.mark.slow
def test_optuna_chooses_the_points_and_the_same_seed_chooses_them_again(ray, tmp_path):
    first = sweep_space(build, SPACE, str(tmp_path), samples=2, max_concurrent=1, seed=7)
    assert [outcome.state for outcome in first.outcomes] == ["finished"] * 2
    names = {outcome.experiment.name for outcome in first.outcomes}
    assert len(names) == 2
    records = Ledger(open_store(str(tmp_path))).records()
    assert len(records) == 1 + 2, "the points share their dense run"
    again = sweep_space(build, SPACE, str(tmp_path), samples=2, max_concurrent=1, seed=7)
    assert {outcome.experiment.name for outcome in again.outcomes} == names
    assert Ledger(open_store(str(tmp_path))).records() == records, "nothing is trained twice"


@pytest.mark.parametrize(
    ("space", "samples", "message"),
    [({}, 3, "at least one parameter, got none"), *((SPACE, n, f"samples must be .*, got {n}") for n in (0, True))],
)
def test_a_space_needs_something_to_choose(space, samples, message, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "connect", lambda address: pytest.fail("Ray was started"))
    with pytest.raises(ConfigError, match=message):
        sweep_space(build, space, str(tmp_path), samples=samples)


def test_without_optuna_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.samplers", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[optuna\]'"):
        sweep_space(build, SPACE, str(tmp_path))
