"""A space of experiments, searched by Optuna on a real Ray."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
from ray import tune

from orchestrator.distributed import cluster, space, sweep
from orchestrator.distributed.space import sweep_space
from orchestrator.distributed.sweep import sweep_paths
from orchestrator.distributed.trial import metrics_of
from orchestrator.errors import ConfigError
from orchestrator.pruning import AtMost, Blocks, Global, OneShot, kept_count
from orchestrator.runner import run
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


PATTERNS = {"masks": None, "blocks": Blocks(3), "2-of-4": AtMost(2, of=4)}


def pruned_by(point):
    path = OneShot(point.get("density", 0.4))
    return replace(tiny.EXPERIMENT, name=point["pattern"], path=path, selection=Global(PATTERNS[point["pattern"]]))


def here(path_of, sweep, space, config, **_):
    """Do what Ray Tune does with a sweep, in this process and one path after another."""
    searcher = config.search_alg
    if searcher is None:
        points = [{"path": label} for label in space["path"]["grid_search"]]
    else:
        searcher.set_search_properties(None, None, space)
        points = (searcher.suggest(str(number)) for number in range(config.num_samples))
    for number, point in enumerate(points):
        path = path_of(point)
        *_, last = run(path.experiment, sweep.storage)
        if searcher is not None:
            searcher.on_trial_complete(str(number), metrics_of(last, path.label, rounds=1))
        yield SimpleNamespace(config=point, metrics={}, error=None)


@pytest.mark.parametrize("chosen_by", ["a list", "Optuna"])
def test_sweeps_take_patterns_as_any_selection(chosen_by, tmp_path, monkeypatch):
    if chosen_by == "a list":
        monkeypatch.setattr(sweep, "run_paths", here)
        result = sweep_paths([pruned_by({"pattern": name}) for name in PATTERNS], str(tmp_path))
    else:
        monkeypatch.setattr(space, "run_paths", here)
        dimensions = {"pattern": tune.choice(list(PATTERNS)), "density": tune.uniform(0.3, 0.5)}
        result = sweep_space(pruned_by, dimensions, str(tmp_path), samples=10, seed=0)
    ledger, names = Ledger(open_store(str(tmp_path))), set()
    for outcome in result.outcomes:
        assert outcome.state == "finished"
        pattern, last = outcome.experiment.selection.pattern, outcome.records[-1]
        masks = ledger.load(last)[1]
        assert kept_count(last.density, last.prunable) == sum(int(mask.sum()) for mask in masks.values())
        assert last.unstructured == ([] if pattern is None else ["0.weight"]), "which has one input and 8 outputs"
        linear = masks["6.weight"]  # (3, 32)
        whole_blocks, pairs = linear.sum(0) % 3 == 0, linear.unflatten(1, (-1, 4)).sum(2) <= 2
        holds = {Blocks: bool(whole_blocks.all()), AtMost: bool(pairs.all())}
        assert not holds[Blocks] if pattern is None else holds[type(pattern)]
        names.add(type(pattern))
    assert names == {type(None), Blocks, AtMost}
    assert sum(record.round == 0 for record in ledger.records()) == 1, "all share their dense run"


@pytest.mark.parametrize(
    ("dimensions", "samples", "message"),
    [({}, 3, "at least one parameter, got none"), *((SPACE, n, f"samples must be .*, got {n}") for n in (0, True))],
)
def test_a_space_needs_something_to_choose(dimensions, samples, message, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "connect", lambda address: pytest.fail("Ray was started"))
    with pytest.raises(ConfigError, match=message):
        sweep_space(build, dimensions, str(tmp_path), samples=samples)


def test_without_optuna_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.samplers", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[optuna\]'"):
        sweep_space(build, SPACE, str(tmp_path))
