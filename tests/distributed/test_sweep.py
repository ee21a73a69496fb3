"""Sweeps on a real Ray: rounds shared, paths cut, failed and killed; bad input refused before Ray starts."""

import contextlib
import math
from dataclasses import replace

import pytest
import tiny

from orchestrator.distributed import cluster, sweep
from orchestrator.distributed.deployment import Deployment
from orchestrator.distributed.sweep import _paths, checked_sweep, search, sweep_paths
from orchestrator.distributed.trial import metrics_of
from orchestrator.distributed.tuner import ShowRounds
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, OrchestratorError, StorageError
from orchestrator.objective import Objective
from orchestrator.problem import load_problem
from orchestrator.pruning import Channels, Explicit, Geometric, OneShot
from orchestrator.runner import run
from orchestrator.schedules import Constant
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.techniques import WeightRewinding

TINY = replace(tiny.EXPERIMENT, path=Geometric(remove=0.3, rounds=2))


@pytest.mark.ray
def test_a_path_is_cut_at_the_floor_and_one_that_fails_does_not_stop_the_others(ray, tmp_path):
    good = replace(TINY, name="good", path=Geometric(remove=0.3, rounds=1))
    run(good, str(tmp_path))
    cut = replace(TINY, name="cut", path=Explicit([0.02, 0.01, 0.005]))
    bad = tiny.with_training(replace(TINY, name="bad"), schedule=Constant(1e12))
    twin = replace(bad, name="twin", path=OneShot(0.5))  # shares the round that diverges
    result = sweep_paths([good, cut, bad, twin], str(tmp_path), max_concurrent=2, floor=Floor(drop=0.1))
    outcomes = {outcome.experiment.name: outcome for outcome in result.outcomes}
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "good": "finished",
        "cut": "cut",
        "bad": "failed",
        "twin": "failed",
    }
    assert 2 <= len(outcomes["cut"].records) < 4
    assert "worse than the floor of" in outcomes["cut"].reason
    assert "diverged" in outcomes["bad"].reason
    assert outcomes["twin"].reason == outcomes["bad"].reason, "a failure is not repeated by those who share it"


@pytest.mark.ray
@pytest.mark.slow
def test_asha_stops_the_weaker_path(ray, tmp_path):
    # It is stopped after round 1: three further rounds last longer than that message travels, on any machine.
    slow = tiny.with_training(replace(tiny.PACED, path=Geometric(remove=0.3, rounds=4)), epochs=20)
    weak = tiny.with_training(replace(slow, name="weak"), schedule=Constant(1e-7))
    paths = [replace(slow, name="strong"), weak]
    first = sweep_paths(paths, str(tmp_path), max_concurrent=1, asha=True)
    assert [outcome.state for outcome in first.outcomes] == ["finished", "cut"]
    assert "ASHA" in first.outcomes[1].reason

    rounds = len(Ledger(open_store(str(tmp_path))).records())
    again = sweep_paths(paths, str(tmp_path), max_concurrent=1, asha=True)
    assert [outcome.state for outcome in again.outcomes] == ["finished", "cut"]
    assert len(Ledger(open_store(str(tmp_path))).records()) == rounds, "what was stopped is not taken up again"


@pytest.mark.ray
@pytest.mark.slow
def test_search_finds_where_the_accuracy_ends(ray, tmp_path):
    found = search(replace(TINY, path=Explicit([0.5, 0.02])), Floor(drop=0.15), str(tmp_path), probes=2)
    assert found.holds
    assert found.rounds == 3 + 2, "each probe costs one round"
    (record,) = found.records
    assert 0.02 < record.density <= 0.5


@pytest.mark.parametrize(
    ("experiments", "options", "error", "message"),
    [
        ([], {}, ConfigError, "at least one experiment, got an empty list"),
        ([TINY, replace(TINY, path=OneShot(0.5))], {}, ConfigError, "two different ones are named 'tiny'"),
        ([replace(TINY, seeds=(1, 2)), replace(TINY, seed=2, criterion="magnitude", exclude=("6.*",))], {}, ConfigError,
         "two different ones are named 'tiny'"),
        ([TINY, replace(TINY, name="other", exclude=("nothing.*",))], {}, OrchestratorError, "nothing"),
        ([TINY, tiny.with_training(replace(TINY, name="other"), batch_size=97)], {}, OrchestratorError, "batch"),
        ([TINY], {"max_concurrent": 0}, ConfigError, "max_concurrent must be a whole number of 1 or more, got 0"),
        ([replace(TINY, model="tiny:nothing")], {}, ConfigError, "nothing"),
        ([replace(TINY, exclude=("nothing.*",))], {}, OrchestratorError, "nothing"),
        ([TINY], {"storage": "ftp://x"}, ConfigError, "storage must be"),
        ([TINY], {"storage": "/proc/nowhere"}, StorageError, "/proc/nowhere"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_ray_starts(experiments, options, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "connect", lambda address: pytest.fail("Ray was started"))
    with pytest.raises(error, match=message):
        sweep_paths(experiments, **{"storage": str(tmp_path), **options})


@pytest.mark.parametrize("order", [1, -1])
def test_every_path_of_a_sweep_has_the_problem_of_its_own_experiment(tmp_path, order):
    """What is excluded, and whether whole channels go, differ within one sweep; keys are those of a single run."""
    kinds = {"all": {}, "part": {"exclude": ("6.*",)}, "channels": {"selection": Channels(round_to=1)}}
    experiments = [replace(TINY, name=name, path=OneShot(0.5), **changes) for name, changes in kinds.items()]
    paths = {path.experiment.name: path for path in _paths(experiments[::order], Deployment())}
    for experiment in experiments:
        problem, _ = load_problem(experiment)
        assert paths[experiment.name].problem == problem
    assert "6.weight" not in paths["part"].problem.prunable
    assert paths["channels"].problem.channels is not None


def test_a_dense_round_keeps_no_epoch_that_only_another_dense_round_trains():
    kinds = {"measured": {"dense_epochs": 0}, "rewinds": {"technique": WeightRewinding(1)}, "goes-on": {}}
    experiments = [replace(TINY, name=name, **changes) for name, changes in kinds.items()]
    kept = {path.experiment.name: path.keep for path in _paths(experiments, Deployment())}
    assert kept == {"measured": (), "rewinds": (3,), "goes-on": (3,)}


def test_tune_sees_the_same_measures_of_every_round(tmp_path):
    measured, trained = run(replace(TINY, dense_epochs=0, path=OneShot(0.5)), str(tmp_path))
    first, second = (metrics_of(record, "tiny.0", rounds=1) for record in (measured, trained))
    assert first.keys() == second.keys()
    assert math.isnan(first["train_loss"])


def test_each_round_is_shown_by_the_objective_of_its_own_task(tmp_path, capsys):
    _, record = run(replace(TINY, path=OneShot(0.5)), str(tmp_path))
    other = replace(
        record, objective=Objective("rmse", higher_is_better=False), metrics={"val_rmse": 2.0, "test_rmse": 3.0}
    )
    show = ShowRounds(checked_sweep(str(tmp_path), None, None, None, record.objective))
    for label, each in (("tiny.0", record), ("other.0", other)):
        show.on_trial_result(0, [], None, metrics_of(each, label, rounds=1))
    first, second = capsys.readouterr().out.splitlines()
    text = record.objective.text
    assert f"val {text(record.val)}  test {text(record.test)}" in first
    assert "other.0: round 1/1" in second
    assert f"val {other.objective.text(2.0)}  test {other.objective.text(3.0)}" in second


def test_a_search_loads_its_problem_once(tmp_path, monkeypatch):
    looks = [replace(TINY, path=Explicit(densities)) for densities in ([0.7], [0.7, 0.5])]
    run(looks[1], str(tmp_path))
    loaded = []
    monkeypatch.setattr(sweep, "load_problem", lambda *args: loaded.append(args) or load_problem(*args))
    monkeypatch.setattr(cluster, "connected", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(
        sweep, "search_density", lambda _, floor, train, probes: [len(train(look, floor)[0]) for look in looks]
    )
    assert search(looks[0], Floor(target=0.0), str(tmp_path)) == [2, 3]
    assert len(loaded) == 1


def test_the_same_experiment_twice_is_one_path(tmp_path):
    run(TINY, str(tmp_path))
    assert len(sweep_paths([TINY, TINY, replace(TINY, seeds=(0,))], str(tmp_path)).outcomes) == 1


def test_a_path_that_is_cut_leaves_the_checkpoints_of_others_alone(tmp_path):
    run(replace(TINY, path=Geometric(remove=0.3, rounds=1)), str(tmp_path))
    ledger = Ledger(open_store(str(tmp_path)))
    problem, _ = load_problem(TINY)
    file = f"train/{Driver(TINY, ledger, problem).keys[2]}/000001-00000000.safetensors"
    ledger.store.write(file, b"another job's")
    (cut,) = sweep_paths([TINY], str(tmp_path), floor=Floor(target=1.0)).outcomes
    assert (cut.state, len(cut.records)) == ("cut", 2)
    assert cut.reason.endswith("worse than the floor of 100.00 %, as is the dense network")
    assert ledger.store.exists(file)
    run(TINY, str(tmp_path))
    assert not ledger.store.exists(file), "it goes when its round is committed, whoever commits it"
