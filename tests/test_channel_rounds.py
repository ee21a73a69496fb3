"""A path that removes channels: smaller networks, from round to round, on real digits and in one process."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from orchestrator.__main__ import main
from orchestrator.data.batches import Batches
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.models.build import build_model
from orchestrator.problem import load_problem
from orchestrator.pruning import Explicit, OneShot
from orchestrator.pruning.channels.removal import Channels
from orchestrator.pruning.channels.shrink import cut_model, shrink
from orchestrator.pruning.channels.trace import trace_channels
from orchestrator.pruning.structure import Dense
from orchestrator.record import Record
from orchestrator.runner import run
from orchestrator.schedules import StepDecay
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.techniques import (
    LearningRateRewinding,
    RandomReinitialisation,
    RetrainingTechnique,
    WeightRewinding,
)
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train

EXPERIMENT = Experiment(
    name="channels",
    model="resnet8",
    model_options={"width": 16},
    data="digits",
    training=TrainingConfig(
        epochs=5,
        batch_size=64,
        schedule=StepDecay(0.1, drops=(3, 4)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=Explicit([0.7, 0.5, 0.35]),
    selection=Channels(round_to=4),
)
TECHNIQUES = {
    "LearningRateRewinding": LearningRateRewinding(),
    "WeightRewinding": WeightRewinding(3),
}
INPUT = (1, 8, 8)


def with_technique(technique: RetrainingTechnique) -> Experiment:
    return dataclasses.replace(EXPERIMENT, name=type(technique).__name__, technique=technique)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem(EXPERIMENT)[0]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds by each technique after one dense round that they share."""
    folder = tmp_path_factory.mktemp("channels")
    for technique in TECHNIQUES.values():
        run(with_technique(technique), str(folder))
    return folder


def path_of(storage: Path, technique: str) -> list[Record]:
    experiment = with_technique(TECHNIQUES[technique])
    return run(experiment, str(storage))  # all there: nothing is trained


def built(kept: dict, seed: int = 0) -> torch.nn.Module:
    return shrink(build_model("resnet8", {"width": 16}, {"num_classes": 10, "input_shape": INPUT}, seed=seed), kept)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_three_rounds_give_smaller_and_smaller_networks_that_still_tell_digits(storage, technique):
    dense, *rounds = path_of(storage, technique)
    assert [record.round for record in rounds] == [1, 2, 3]
    assert dense.channels is None
    assert dense.metrics["test_accuracy"] > 0.95
    assert all(record.metrics["test_accuracy"] > 0.9 for record in rounds)
    kept_before = None
    for record in rounds:
        channels = record.channels
        assert (record.technique, channels["unit"]) == (technique, "macs")
        assert 0.9 * record.density < channels["macs"][0] / channels["macs"][1] <= record.density
        assert record.metrics["macs_kept"] == channels["macs"][0] / channels["macs"][1]
        module = built(channels["kept"])
        parameters = sum(p.numel() for p in module.parameters())
        assert channels["parameters"] == [parameters, sum(p.numel() for p in built({}).parameters())]
        weights = {n: p.numel() for n, p in module.named_parameters() if n in record.layers}
        assert {n: kept for n, (kept, _) in record.layers.items()} == weights
        assert (record.kept, record.prunable) == (sum(weights.values()), dense.prunable)
        if kept_before is not None:
            for name, sides in kept_before.items():
                assert all(set(channels["kept"][name][side]) <= set(sides[side]) for side in sides)
        kept_before = channels["kept"]
    assert [r.model_bytes for r in rounds] == sorted((r.model_bytes for r in rounds), reverse=True)
    assert rounds[-1].model_bytes < 0.75 * dense.model_bytes


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_committed_round_is_rebuilt_by_name_configuration_and_tensors(storage, technique):
    record = path_of(storage, technique)[-1]
    state, masks = Ledger(open_store(str(storage))).load(record)
    module = built(record.channels["kept"], seed=7)
    module.load_state_dict(state.model, strict=False)
    assert masks == {}
    batches = Batches(load_problem(EXPERIMENT)[1], batch_size=64, device=torch.device("cpu"))
    with torch.no_grad():
        right = [(module.eval()(images).argmax(1) == labels) for images, labels in batches.evaluate("test")]
    assert torch.cat(right).double().mean().item() == record.metrics["test_accuracy"]


def first_request(storage: Path, problem: Problem, **changes: object) -> tuple[Driver, Train]:
    """The first pruned round of an experiment, asked of a storage that holds the dense one and its snapshot."""
    driver = Driver(dataclasses.replace(EXPERIMENT, **changes), Ledger(open_store(str(storage))), problem)
    request = driver.next_work()
    assert request is not None
    assert request.round == 1
    return driver, request


def test_learning_rate_rewinding_starts_from_the_kept_channels_of_the_parent(storage, problem):
    driver, request = first_request(storage, problem, technique=LearningRateRewinding(2))
    dense, _ = driver.ledger.load(driver.ledger.record(driver.keys[0]))
    sides = request.structure.channels["layer2.0.conv2"]
    rows, columns = torch.tensor(sides["out"]), torch.tensor(sides.get("in", range(32)))
    name = "layer2.0.conv2.weight"
    assert torch.equal(request.start.model[name], dense.model[name][rows][:, columns])
    slot = f"{name}/momentum_buffer"
    assert torch.equal(request.start.optimizer[slot], dense.optimizer[slot][rows][:, columns])
    assert request.start.optimizer[slot].abs().sum() > 0
    assert torch.equal(request.start.model["layer2.0.bn2.running_var"], dense.model["layer2.0.bn2.running_var"][rows])
    assert (request.structure.tensors(), request.first_epoch, request.epochs) == ({}, 3, 2)
    assert request.kept == sum(t.numel() for n, t in request.start.model.items() if n in problem.prunable)


def test_weight_rewinding_slices_the_snapshot_of_the_dense_run_by_the_same_indices(storage, problem):
    changes = {"path": OneShot(0.5), "technique": WeightRewinding(3)}
    driver, request = first_request(storage, problem, **changes)
    _, other = first_request(storage, problem, **{**changes, "technique": LearningRateRewinding(3)})
    assert request.structure.channels == other.structure.channels  # what goes is decided on the trained weights
    snapshot = driver.ledger.snapshot(driver.keys[0], "2")
    expected = cut_model(problem.channels, snapshot.model, request.structure.channels, {})
    assert request.start.model.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in request.start.model.items())
    rows = torch.tensor(request.structure.channels["layer2.0.bn2"]["out"])
    assert torch.equal(expected["layer2.0.bn2.running_mean"], snapshot.model["layer2.0.bn2.running_mean"][rows])
    assert (request.first_epoch, request.epochs) == (2, 3)


def test_random_re_initialisation_trains_the_smaller_network_anew(storage, problem):
    driver, request = first_request(storage, problem, path=OneShot(0.5), technique=RandomReinitialisation())
    assert request.start is None
    trainer = Trainer(driver.experiment, load_problem(EXPERIMENT)[1], device=torch.device("cpu"))
    result = trainer.train(dataclasses.replace(request, epochs=1))
    small = built(request.structure.channels).state_dict()
    assert {n: t.shape for n, t in result.state.model.items()} == {n: small[n].shape for n in result.state.model}


def test_a_trainer_changes_from_one_network_to_another_and_back(storage, problem):
    """What a smaller round left behind is not seen by the next one: the same bits as of a trainer of its own."""
    driver, request = first_request(storage, problem, path=OneShot(0.5))
    short = dataclasses.replace(request, epochs=1)
    data = load_problem(EXPERIMENT)[1]

    def trainer() -> Trainer:
        return Trainer(driver.experiment, data, device=torch.device("cpu"))

    used = trainer()
    dense = dataclasses.replace(short, start=None, structure=Dense())
    used.train(dense)
    found = [used.train(r).state.model for r in (short, dense)]
    for ours, alone in zip(found, (trainer().train(r).state.model for r in (short, dense)), strict=True):
        assert all(torch.equal(tensor, alone[name]) for name, tensor in ours.items())


def test_a_parameter_budget_and_gradients_as_the_criterion(tmp_path):
    experiment = dataclasses.replace(
        EXPERIMENT,
        criterion="gradient_magnitude",
        selection=Channels(unit="parameters", round_to=4),
        path=Explicit([0.6, 0.3]),
        training=dataclasses.replace(EXPERIMENT.training, epochs=1, schedule=StepDecay(0.1)),
    )
    *_, last = run(experiment, str(tmp_path))
    assert last.channels["unit"] == "parameters"
    kept, dense = last.channels["parameters"]
    assert 0.2 * dense < kept <= 0.3 * dense


def test_given_ratios_are_one_shot(problem, tmp_path):
    experiment = dataclasses.replace(EXPERIMENT, selection=Channels(ratios={"*.conv1": 0.5}), path=OneShot(0.5))
    ledger = Ledger(open_store(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"round 1: these ratios keep 0.\d+ of the macs.*write path=OneShot\(0"):
        Driver(experiment, ledger, problem)


def keys_of(problem: Problem, **changes: object) -> list[str]:
    return round_keys(round_settings(dataclasses.replace(EXPERIMENT, **changes), problem))


def test_every_field_of_the_selection_and_the_graph_decide_the_key_and_the_dense_round_is_shared(problem):
    paths = [
        keys_of(problem),
        keys_of(problem, selection=Channels(round_to=8)),
        keys_of(problem, selection=Channels(round_to=4, unit="parameters")),
        keys_of(problem, selection=Channels(round_to=4, ratios={"layer1.0.conv1": 0.5})),
        keys_of(dataclasses.replace(problem, channels=trace_channels(built({}).layer1, torch.zeros(1, 16, 8, 8)))),
    ]
    assert len({keys[0] for keys in paths}) == 1
    assert len({keys[1] for keys in paths}) == len(paths)
    json.dumps(round_settings(EXPERIMENT, problem))


def test_the_keys_of_experiments_with_masks_are_what_they_were():
    keys = round_keys(round_settings(tiny.EXPERIMENT, load_problem(tiny.EXPERIMENT)[0]))
    assert [key[:12] for key in keys] == ["14c11bacabea", "dc3485b1595d", "5f162aec9a2d", "25ce1f108bc5"]


def test_min_kept_per_layer_is_refused(problem, tmp_path):
    experiment = dataclasses.replace(EXPERIMENT, min_kept_per_layer=1)
    with pytest.raises(ConfigError, match="min_kept_per_layer must be 0 with Channels"):
        Driver(experiment, Ledger(open_store(str(tmp_path))), problem)


def test_tensors_that_are_not_those_of_the_configuration_are_damage(problem):
    tensors = built({}).state_dict()
    with pytest.raises(
        DamagedError, match=r"conv1.weight: its channel configuration gives it the shape \(2, 1, 3, 3\), got"
    ):
        cut_model(problem.channels, tensors, {}, {"conv1": {"out": [0, 1]}})
    small, base, kept = {"conv1.weight": torch.zeros(2, 1, 3, 3)}, {"conv1": {"out": [0, 1]}}, {"conv1": {"out": [2]}}
    with pytest.raises(DamagedError, match="keeps a channel that an earlier round removed"):
        cut_model(problem.channels, small, kept, base)


def test_a_record_with_another_configuration_is_damage_that_names_the_file(storage, problem, tmp_path):
    shutil.copytree(storage, tmp_path / "copy")
    ledger = Ledger(open_store(str(tmp_path / "copy")))
    experiment = dataclasses.replace(EXPERIMENT, path=Explicit([0.7, 0.5, 0.2]))
    driver = Driver(experiment, ledger, problem)
    parent = ledger.record(driver.keys[2])
    wrong = {**parent.channels, "kept": {"conv1": {"out": [16]}}}
    file = f"rounds/{parent.key}/record.json"
    (tmp_path / "copy" / file).write_bytes(dataclasses.replace(parent, channels=wrong).to_json())
    with pytest.raises(DamagedError, match=f"{file} is damaged: kept channels must ascend within 0..15"):
        Driver(experiment, ledger, problem).next_work()


def test_status_and_report_take_such_records(storage, tmp_path, capsys):
    assert main(["status", str(storage)]) == 0
    assert "0.35" in capsys.readouterr().out
    assert main(["verify", str(storage)]) == 0
    assert main(["report", str(storage), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_round_of_fewer_channels_goes_on_in_another_process(storage):
    """A new trainer, which is still the dense network, takes the round's shape before it looks at the checkpoint."""
    problem, data = load_problem(EXPERIMENT)
    _, request = first_request(storage, problem, technique=LearningRateRewinding(2))
    places = []
    whole = Trainer(EXPERIMENT, data).do(request, on_step=lambda take: places.append(take()))
    progress = places[len(places) // 2]
    another = Trainer(EXPERIMENT, data)
    another.check(request, progress)
    resumed = another.do(request, resume=progress)
    assert all(torch.equal(resumed.state.model[name], tensor) for name, tensor in whole.state.model.items())
