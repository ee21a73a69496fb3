"""The flow of rounds, with a stand-in for training that returns known weights: no Ray, no gradient, no waiting."""

import dataclasses
import gc
import itertools
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from tiny import measured
from waiting import PATIENCE_S

from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError, OrchestratorError, StorageError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.pruning import Explicit, Geometric, OneShot
from orchestrator.pruning.structure import Dense
from orchestrator.record import MODEL, Record
from orchestrator.schedules import Constant
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import ACCURACY, Classification, Regression
from orchestrator.techniques import LearningRateRewinding, LinearRestart, WeightRewinding
from orchestrator.train_state import TrainState
from orchestrator.training.distillation import Distillation
from orchestrator.work.snapshot import snapshot_key
from orchestrator.work.train import EpochMetrics, Train, Trained

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (10, 20)}
PROBLEM = Problem(SHAPES, "model", "data", ACCURACY)
N = 4 * 27 + 200
EXPERIMENT = dataclasses.replace(tiny.EXPERIMENT, path=Geometric(remove=0.2, rounds=3))


def fake_train(request: Train) -> Trained:
    """Weights that depend on the round's key alone, masked as training would leave them."""
    generator = torch.Generator().manual_seed(int(request.key[:8], 16))
    model = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    model = {
        name: w * request.structure.tensors()[name] if request.structure.tensors() else w for name, w in model.items()
    }
    model["norm.mean"] = torch.randn(4, generator=generator)
    optimizer = {f"{name}/momentum_buffer": tensor * 0.5 for name, tensor in model.items() if name in SHAPES}
    history = tuple(EpochMetrics(request.first_epoch + e, 0.1, 1.0, measured(0.5)) for e in range(request.epochs))
    return Trained(TrainState(model, optimizer), history, measured(0.75), seconds=1.0, samples_per_second=1.0)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "runs"))


def driver_of(store, experiment: Experiment = EXPERIMENT, problem: Problem = PROBLEM) -> Driver:
    return Driver(experiment, Ledger(store), problem)


def finish_next(driver: Driver) -> Record:
    work = driver.next_work()
    return driver.finish(work, fake_train(work))


def run_all(driver: Driver) -> list[Train]:
    requests = []
    while (request := driver.next_work()) is not None:
        requests.append(request)
        driver.finish(request, fake_train(request))
    return requests


def test_a_path_is_dense_then_pruned_rounds_with_exact_nested_counts(store):
    driver = driver_of(store)
    requests = run_all(driver)
    assert [r.round for r in requests] == [0, 1, 2, 3]
    assert [r.kept for r in requests] == [N, round(0.8 * N), round(0.64 * N), round(0.512 * N)]
    assert [r.parent for r in requests] == [None, *driver.keys[:-1]]
    assert requests[0].start is None
    assert requests[0].structure.tensors() == {}
    for before, after in itertools.pairwise(requests[1:]):
        assert not any((after.structure.tensors()[n] & ~before.structure.tensors()[n]).any() for n in SHAPES)
    for request in requests[1:]:
        for name, mask in request.structure.tensors().items():
            assert not request.start.model[name][~mask].any()
            assert not request.start.optimizer[f"{name}/momentum_buffer"][~mask].any()
    records = driver.records()
    assert [r.kept for r in records] == [r.kept for r in requests]
    assert [r.technique for r in records] == ["Dense", *["LearningRateRewinding"] * 3]
    assert records[-1].metrics == {
        "train_loss": 1.0,
        "val_loss": 1.0,
        "val_accuracy": 0.5,
        "test_loss": 1.0,
        "test_accuracy": 0.75,
    }
    assert all(sum(kept for kept, _ in r.layers.values()) == r.kept for r in records)
    assert all(r.versions.keys() == {"python", "torch"} for r in records)


def test_a_round_starts_from_its_parents_final_weights_and_momentum(store):
    driver = driver_of(store)
    dense = fake_train(driver.next_work())
    driver.finish(driver.next_work(), dense)
    start = driver.next_work().start
    masks = driver.next_work().structure.tensors()
    for name, mask in masks.items():
        assert torch.equal(start.model[name][mask], dense.state.model[name][mask])
    assert torch.equal(start.model["norm.mean"], dense.state.model["norm.mean"])
    fresh = dataclasses.replace(EXPERIMENT, technique=LearningRateRewinding(optimizer_state="fresh"))
    assert driver_of(store, fresh).next_work().start.optimizer == {}


@pytest.mark.parametrize(("epochs", "first"), [(None, 0), (4, 0), (3, 1), (1, 3)])
def test_learning_rates_of_a_rewound_round_are_the_tail_of_the_originals(store, epochs, first):
    experiment = dataclasses.replace(EXPERIMENT, technique=LearningRateRewinding(epochs))
    driver = driver_of(store, experiment)
    finish_next(driver)
    request, training, steps = driver.next_work(), experiment.training, 6
    rates = lambda r: [  # noqa: E731
        r.schedule.lr_at(r.first_epoch + step / steps, training.epochs) for step in range(r.epochs * steps)
    ]
    original = [training.schedule.lr_at(step / steps, training.epochs) for step in range(training.epochs * steps)]
    assert request.first_epoch == first
    assert rates(request) == original[first * steps :]
    assert len(set(original)) > 3, "warm-up and drops are in the schedule"


def test_the_dense_round_teaches_every_later_one_and_is_not_taught(store):
    driver = driver_of(store, dataclasses.replace(EXPERIMENT, distillation=Distillation()))
    dense, *rounds = run_all(driver)
    assert dense.teacher is None
    for request in rounds:
        assert request.teacher.optimizer == {}
        expected = fake_train(dense).state.model
        assert request.teacher.model.keys() == expected.keys()
        assert all(torch.equal(request.teacher.model[name], tensor) for name, tensor in expected.items())
        assert dataclasses.replace(request, teacher=None).origin() != request.origin()
    assert all(request.teacher is None for request in run_all(driver_of(store)))


def test_next_round_repeats_itself_until_the_round_is_finished(store):
    driver = driver_of(store)
    assert driver.next_work() is driver.next_work()
    again = driver_of(store)
    assert again.next_work().key == driver.next_work().key
    dense = driver.next_work()
    first = driver.finish(dense, fake_train(dense))
    other = dataclasses.replace(
        fake_train(dataclasses.replace(driver.next_work(), structure=Dense())), test=measured(0.1)
    )
    assert driver.finish(dense, other) == first
    assert driver.next_work().round == 1
    assert again.next_work().round == 1, "a driver sees what another one committed"


@pytest.mark.parametrize("finished", range(5))
def test_a_driver_built_again_at_any_moment_ends_with_the_same_bits(store, tmp_path, finished):
    run_all(driver_of(store))
    other = open_store(str(tmp_path / "other"))
    driver = driver_of(other)
    for _ in range(finished):
        if request := driver.next_work():
            driver.finish(request, fake_train(request))
    run_all(driver_of(other))
    blobs = [[r.blobs for r in driver_of(s).records()] for s in (store, other)]
    assert blobs[0] == blobs[1]
    assert len(blobs[0]) == 4


def test_finished_rounds_are_shared_by_whoever_asks_for_them(store):
    run_all(driver_of(store))
    longer = dataclasses.replace(EXPERIMENT, name="longer", path=Geometric(remove=0.2, rounds=5))
    assert [r.round for r in run_all(driver_of(store, longer))] == [4, 5]
    one_shot = dataclasses.replace(EXPERIMENT, name="one-shot", path=OneShot(0.3))
    assert [r.round for r in run_all(driver_of(store, one_shot))] == [1], "the dense round is there"


def test_a_shared_round_stands_under_the_name_of_who_asks(store):
    run_all(driver_of(store))
    other = driver_of(store, dataclasses.replace(EXPERIMENT, name="other"))
    assert {r.experiment for r in other.records()} == {"other"}
    assert {r.experiment for r in Ledger(store).records()} == {EXPERIMENT.name}


def test_memory_does_not_grow_with_the_rounds(store):
    driver = driver_of(store, dataclasses.replace(EXPERIMENT, path=Geometric(remove=0.2, rounds=6)))
    alive = []
    while (request := driver.next_work()) is not None:
        result = fake_train(request)
        alive.append(weakref.ref(result.state.model["fc.weight"]))
        driver.finish(request, result)
    del request, result
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 1, "only the newest round stays in memory"


def test_the_result_of_a_round_that_is_not_next_is_refused(store):
    driver = driver_of(store)
    request = driver.next_work()
    with pytest.raises(OrchestratorError, match="before its parent was finished"):
        driver.finish(dataclasses.replace(request, key=driver.keys[2]), fake_train(request))
    with pytest.raises(OrchestratorError, match="no round of experiment 'tiny' has the key"):
        driver.finish(dataclasses.replace(request, key="00" * 32), fake_train(request))
    assert driver.records() == []


def test_next_round_sees_a_result_before_it_is_in_storage(store):
    """The upload of one round overlaps with the training of the next."""
    driver = driver_of(store)
    first = driver.next_work()
    result, seen = fake_train(first), []
    commit = driver.ledger.commit
    driver.ledger.commit = lambda *a: (seen.append(driver.next_work().round), commit(*a))[1]  # type: ignore[method-assign]
    driver.finish(first, result)
    assert seen == [1]


def test_a_damaged_parent_is_told_and_not_trained_again(store):
    driver = driver_of(store)
    file = finish_next(driver).file(MODEL)
    store.write(file, store.read(file)[:-1] + b"\x01")
    with pytest.raises(DamagedError, match=file):
        driver_of(store).next_work()


def test_a_commit_that_fails_leaves_no_hole(store):
    """The round is asked for again, its child is refused, and nothing is finished that is not in storage."""
    driver = driver_of(store)
    first = driver.next_work()
    result, commit = fake_train(first), driver.ledger.commit
    children = []

    def outage(*_):
        children.append(driver.next_work())  # the next round is being trained meanwhile
        raise StorageError("503 for six minutes")

    driver.ledger.commit = outage  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        driver.finish(first, result)
    driver.ledger.commit = commit  # type: ignore[method-assign]
    assert driver.next_work().key == first.key
    with pytest.raises(OrchestratorError, match="before its parent was finished"):
        driver.finish(children[0], fake_train(children[0]))
    assert [r.round for r in run_all(driver)] == [0, 1, 2, 3]
    assert [r.round for r in driver.records()] == [0, 1, 2, 3]


def test_the_end_is_told_only_when_the_last_round_is_in_storage(store):
    driver = driver_of(store, dataclasses.replace(EXPERIMENT, path=OneShot(0.5)))
    finish_next(driver)
    request, commit, uploading, go_on = driver.next_work(), driver.ledger.commit, threading.Event(), threading.Event()

    def slow(*arguments):
        uploading.set()
        assert go_on.wait(PATIENCE_S)
        return commit(*arguments)

    driver.ledger.commit = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        pool.submit(driver.finish, request, fake_train(request))
        assert uploading.wait(PATIENCE_S)
        end = pool.submit(driver.next_work)
        with pytest.raises(TimeoutError):
            end.result(0.2)
        go_on.set()
        assert end.result(PATIENCE_S) is None
    assert len(driver.records()) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": OneShot(0.001)}, "round 1: density must keep at least 1 of 308 weights, got 0.001, which keeps 0"),
        (
            {"path": OneShot(0.1), "min_kept_per_layer": 30},
            "keeps 31 of 308 weights, but min_kept_per_layer=30 needs 60",
        ),
    ],
)
def test_a_path_that_cannot_be_walked_is_told_before_training(store, changes, words):
    with pytest.raises(ConfigError, match=words):
        driver_of(store, dataclasses.replace(EXPERIMENT, **changes))


def test_a_failed_round_is_written_down_and_not_committed(store):
    driver = driver_of(store)
    driver.fail(driver.keys[0], "diverged", "job 1")
    assert driver_of(store).failure("job 1") == "diverged"
    assert driver_of(store).failure("job 2") is None
    assert [(f["round"], f["reason"]) for f in Ledger(store).failures()] == [(0, "diverged")]
    assert driver.records() == []
    assert driver.next_work().round == 0
    run_all(driver)
    assert Ledger(store).failures() == []


def test_a_failed_snapshot_is_a_failure_of_the_round_that_needs_it(store):
    """Its own round is committed, and nobody looks there for why the path does not go on."""
    experiment = dataclasses.replace(EXPERIMENT, technique=WeightRewinding(2))
    run_all(driver_of(store))
    driver = driver_of(store, experiment)
    replay = driver.next_work()
    assert replay.key == snapshot_key(driver.keys[0], 2)
    driver.fail(replay.key, "diverged", "job 1")
    assert driver_of(store, experiment).failure("job 1") == "diverged"
    assert [(f["round"], f["key"]) for f in Ledger(store).failures()] == [(1, driver.keys[1])]


def test_a_dead_layer_is_in_the_record(store):
    experiment = dataclasses.replace(EXPERIMENT, path=OneShot(0.01))
    driver = driver_of(store, experiment)
    dense = fake_train(driver.next_work())
    dense.state.model["fc.weight"] *= 1e-6
    driver.finish(driver.next_work(), dense)
    record = finish_next(driver)
    assert record.dead_layers == ["fc.weight"]
    kept = dataclasses.replace(experiment, min_kept_per_layer=1)
    request = driver_of(store, kept).next_work()
    assert int(request.structure.tensors()["fc.weight"].sum()) == 1
    assert request.kept == 3


def test_weights_that_are_not_finite_are_told(store):
    driver = driver_of(store)
    dense = fake_train(driver.next_work())
    dense.state.model["fc.weight"][3, 3] = float("nan")
    driver.finish(driver.next_work(), dense)
    with pytest.raises(OrchestratorError, match=r"fc\.weight"):
        driver.next_work()


CHANGES = {
    "seed": {"seed": 1},
    "model": {"model": "resnet20"},
    "model option": {"model_options": {"norm": False}},
    "data": {"data": "digits"},
    "data option": {"data_options": {"samples": 5}},
    "dense epochs": {"dense_epochs": 0},
    "epochs": {"training": dataclasses.replace(tiny.EXPERIMENT.training, epochs=5)},
    "schedule": {"training": dataclasses.replace(tiny.EXPERIMENT.training, schedule=Constant(0.05))},
    "accumulate": {"training": dataclasses.replace(tiny.EXPERIMENT.training, accumulate=2)},
    "ema": {"training": dataclasses.replace(tiny.EXPERIMENT.training, ema=0.999)},
    "task": {"task": Regression()},
    "label smoothing": {"task": Classification(label_smoothing=0.1)},
}
PRUNING_CHANGES = {
    "technique": {"technique": LearningRateRewinding(2)},
    "optimizer state": {"technique": LearningRateRewinding(optimizer_state="fresh")},
    "criterion": {"criterion": "tiny:model"},
    "path": {"path": Geometric(remove=0.3, rounds=3)},
    "exclude": {"exclude": ("fc*",)},
    "kinds of layers": {"kinds": ("linear",)},
    "min kept": {"min_kept_per_layer": 1},
    "distillation": {"distillation": Distillation()},
    "restart": {"technique": LinearRestart()},
}


def keys_of(experiment: Experiment, problem: Problem = PROBLEM) -> list[str]:
    return round_keys(round_settings(experiment, problem))


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_dense_result_changes_every_key(change):
    assert not set(keys_of(EXPERIMENT)) & set(keys_of(dataclasses.replace(EXPERIMENT, **CHANGES[change])))


@pytest.mark.parametrize("change", PRUNING_CHANGES)
def test_whatever_decides_pruning_changes_all_keys_but_the_dense_rounds(change):
    keys, others = keys_of(EXPERIMENT), keys_of(dataclasses.replace(EXPERIMENT, **PRUNING_CHANGES[change]))
    assert set(keys) & set(others) == {keys[0]}


@pytest.mark.parametrize("field", ["model_identity", "data_identity"])
def test_another_model_or_other_data_changes_every_key(field):
    assert not set(keys_of(EXPERIMENT)) & set(keys_of(EXPERIMENT, dataclasses.replace(PROBLEM, **{field: "other"})))


def test_names_decide_nothing_and_keys_are_stable():
    assert keys_of(EXPERIMENT) == keys_of(dataclasses.replace(EXPERIMENT, name="other"))
    assert keys_of(EXPERIMENT)[0] == "af9c849689ee468806c36959e922f572c34621c73255208b478d7f1d777ab1ce"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a/b"}, "name must be"),
        ({"name": ""}, "name must be"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got"),
        ({"seed": 0.5}, "seed must be a whole number from 0 to 9223372036854775807, got"),
        ({"min_kept_per_layer": -1}, "min_kept_per_layer must be a whole number of 0 or more, got -1"),
        ({"min_kept_per_layer": "1"}, "min_kept_per_layer must be a whole number"),
        ({"distillation": 0.5}, "distillation must be None or a Distillation, got 0.5"),
        ({"path": 0.2}, r"path must be a dataclass with densities\(\)"),
        ({"training": None}, "training must be a TrainingConfig, got None"),
        ({"exclude": "fc"}, r"exclude must be a tuple, got 'fc': write \['fc'\]"),
        ({"exclude": (3,)}, r"exclude\[0\] must be a text that is not empty, got 3"),
        ({"exclude": None}, "exclude must be a tuple, got None"),
        ({"seeds": 5}, "seeds must be a tuple, got 5"),
        ({"seeds": (0, True)}, r"seeds\[1\] must be a whole number from 0 to .* got True"),
        ({"path": Geometric}, r"path must be a dataclass with densities\(\), got <class"),
        ({"criterion": print}, "criterion must be a text that is not empty, got .*: give a name or"),
        ({"data_options": {"x": float("nan")}}, "data_options must hold only JSON values"),
        (
            {"technique": LearningRateRewinding(5)},
            "LearningRateRewinding.epochs must be .* from 1 to 4, got 5",
        ),
        ({"technique": LearningRateRewinding(0)}, "got 0"),
        (
            {"technique": LearningRateRewinding(optimizer_state="old")},
            "optimizer_state must be one of kept, fresh",
        ),
        ({"data_options": {"f": print}}, "data_options must hold only JSON values"),
    ],
)
def test_an_invalid_experiment_is_refused_when_built(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(EXPERIMENT, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "training.epochs must be a whole number of 1 or more, got 0"),
        ({"batch_size": 1.5}, "training.batch_size must be a whole number"),
        ({"clip_norm": 0.0}, "training.clip_norm must be a finite number above 0, got 0.0: None does not"),
        ({"clip_norm": "1"}, "training.clip_norm must be a finite number above 0, got '1'"),
        ({"accumulate": 0}, "training.accumulate must be a whole number from 1 to 16, got 0"),
        ({"accumulate": 17}, "training.accumulate must be a whole number from 1 to 16, got 17"),
        ({"ema": 1.0}, r"training.ema must be a number in \(0, 1\)"),
        ({"ema": True}, "training.ema must be a number"),
        ({"schedule": 0.1}, r"training.schedule must be a dataclass with lr_at\(\), got 0.1"),
        ({"optimizer": "sgd"}, r"training.optimizer must be a dataclass with build\(\), got 'sgd'"),
        ({"compile": "no"}, "training.compile must be True or False, got 'no'"),
        ({"epochs": 1}, "warmup_epochs must be below training.epochs, 1, got 1"),
        ({"precision": "fp8"}, "training.precision must be one of fp32, bf16, got 'fp8'"),
    ],
)
def test_invalid_training_is_refused_when_built(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(tiny.EXPERIMENT.training, **change)


def test_an_explicit_path_is_a_path_like_any_other(store):
    experiment = dataclasses.replace(EXPERIMENT, path=Explicit([0.5, 0.25]))
    assert [r.kept for r in run_all(driver_of(store, experiment))] == [N, round(0.5 * N), round(0.25 * N)]


def test_the_core_does_not_load_ray():
    code = (
        "import orchestrator.driver, orchestrator.runner, orchestrator.__main__, sys; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
