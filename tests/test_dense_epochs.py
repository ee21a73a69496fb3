"""A dense round of fewer epochs than the schedule: of none, it measures a network that was trained already."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_model

from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment, round_keys, round_settings
from orchestrator.models.build import build_model
from orchestrator.problem import load_problem
from orchestrator.processor import processor
from orchestrator.pruning import OneShot
from orchestrator.record import Record
from orchestrator.report import json_line, print_table, save_csv, summary
from orchestrator.report.page import rounds_table
from orchestrator.report.pictures.recommended import round_curves
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.techniques import (
    FineTuning,
    LearningRateRewinding,
    LinearRestart,
    LowRateWeightRewinding,
    RandomReinitialisation,
    RetrainingTechnique,
    WeightRewinding,
)
from orchestrator.training.distillation import Distillation
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train

RATES = [0.0, 0.05, 0.005, 0.0005]  # of the four epochs of tiny's schedule, at their first steps


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights that training could have given."""
    module = build_model("tiny:model", {}, {"num_classes": 3, "input_shape": (1, 6, 6)}, seed=99)
    path = tmp_path / "trained.safetensors"
    save_model(module, str(path))
    return path


def measured(file: Path, **changes: object) -> Experiment:
    """An experiment whose dense round is measured, and which has one pruned round."""
    given = {"start_from": str(file), "dense_epochs": 0, "path": OneShot(0.3), **changes}
    return dataclasses.replace(tiny.EXPERIMENT, **given)  # type: ignore[arg-type]


def accuracy(module: torch.nn.Module, split: torch.utils.data.TensorDataset) -> float:
    images, labels = split.tensors
    return float((module.eval()(images).argmax(1) == labels).double().mean())


def loss(module: torch.nn.Module, split: torch.utils.data.TensorDataset) -> float:
    images, labels = split.tensors
    return torch.nn.functional.cross_entropy(module.eval()(images), labels).item()


def test_the_dense_round_is_measured_and_the_next_follows_the_whole_schedule(file: Path, tmp_path: Path) -> None:
    dense, pruned = run(measured(file), str(tmp_path / "runs"))
    module = build_model("tiny:model", {}, {"num_classes": 3, "input_shape": (1, 6, 6)}, seed=99)
    whole = tiny.data()
    assert dense.metrics == {
        "val_accuracy": pytest.approx(accuracy(module, whole.val)),
        "test_accuracy": pytest.approx(accuracy(module, whole.test)),
        "val_loss": pytest.approx(loss(module, whole.val)),
        "test_loss": pytest.approx(loss(module, whole.test)),
    }
    assert (dense.epochs, dense.history, dense.samples_per_second) == (0, [], 0.0)
    assert dense.processor == processor()
    assert (pruned.epochs, [epoch["lr"] for epoch in pruned.history]) == (4, pytest.approx(RATES))
    state, masks = Ledger(open_store(str(tmp_path / "runs"))).load(dense)
    given = load_file(file)
    assert (masks, state.optimizer, state.model.keys()) == ({}, {}, given.keys())
    assert all(torch.equal(tensor, given[name]) for name, tensor in state.model.items())


@pytest.mark.parametrize(
    ("technique", "starts_from_file", "rates"),
    [
        (LearningRateRewinding(3), True, RATES[1:]),
        (FineTuning(2), True, [RATES[-1]] * 2),
        (LinearRestart(), True, [0.0, *(0.05 * left / 3.6 for left in (3, 2, 1))]),
        (WeightRewinding(), True, RATES),
        (LowRateWeightRewinding(), True, [RATES[-1]] * 4),
        (RandomReinitialisation(), False, RATES),
    ],
    ids=str,
)
def test_where_each_technique_goes_on(
    technique: RetrainingTechnique, starts_from_file: bool, rates: list[float], file: Path, tmp_path: Path
) -> None:
    experiment = measured(file, technique=technique)
    problem, loaded = load_problem(experiment)
    driver, trainer = (
        Driver(experiment, Ledger(open_store(str(tmp_path / "runs"))), problem),
        Trainer(experiment, loaded),
    )
    dense = driver.next_work()
    assert isinstance(dense, Train)
    assert (dense.round, dense.epochs) == (0, 0)
    driver.finish(dense, trainer.do(dense))
    pruned = driver.next_work()
    assert isinstance(pruned, Train)
    places = range(pruned.first_epoch, pruned.first_epoch + pruned.epochs)
    assert [pruned.schedule.lr_at(place, 4) for place in places] == pytest.approx(rates)
    if not starts_from_file:
        assert pruned.start is None
        return
    assert pruned.start is not None
    for name, tensor in load_file(file).items():
        assert torch.equal(
            pruned.start.model[name], tensor * pruned.structure.tensors().get(name, torch.ones_like(tensor))
        ), name


def test_a_measured_dense_round_teaches(file: Path, tmp_path: Path) -> None:
    experiment = measured(file, distillation=Distillation())
    problem, loaded = load_problem(experiment)
    driver = Driver(experiment, Ledger(open_store(str(tmp_path / "runs"))), problem)
    dense = driver.next_work()
    assert isinstance(dense, Train)
    driver.finish(dense, Trainer(experiment, loaded).do(dense))
    pruned = driver.next_work()
    assert isinstance(pruned, Train)
    assert pruned.teacher is not None
    assert all(torch.equal(pruned.teacher.model[name], tensor) for name, tensor in load_file(file).items())


@pytest.mark.parametrize(("dense_epochs", "technique"), [(0, WeightRewinding()), (2, WeightRewinding(2))])
def test_another_experiment_rewinds_to_a_state_that_was_not_kept(
    dense_epochs: int, technique: WeightRewinding, file: Path, tmp_path: Path
) -> None:
    rewinding = measured(file, dense_epochs=dense_epochs, technique=technique)
    first = run(measured(file, dense_epochs=dense_epochs), str(tmp_path / "shared"))
    second = run(rewinding, str(tmp_path / "shared"))
    alone = run(rewinding, str(tmp_path / "alone"))
    assert first[0].finished_at == second[0].finished_at
    assert [record.blobs for record in second] == [record.blobs for record in alone]


@pytest.mark.parametrize(
    ("dense_epochs", "technique", "rule"),
    [
        (0, WeightRewinding(3), "0 to 0, got 1: the dense round trains 0 of the schedule's 4 epochs, so raise dense_"),
        (0, LowRateWeightRewinding(1), "0 to 0, got 3: the dense round trains 0 of the schedule's 4 epochs"),
        (2, WeightRewinding(1), "0 to 2, got 3: the dense round trains 2 of the schedule's 4 epochs"),
    ],
)
def test_an_epoch_that_is_not_trained_cannot_be_rewound_to(
    dense_epochs: int, technique: RetrainingTechnique, rule: str
) -> None:
    with pytest.raises(ConfigError, match=f"an epoch to rewind to must be a whole number from {rule}"):
        dataclasses.replace(tiny.EXPERIMENT, dense_epochs=dense_epochs, technique=technique)


def test_an_epoch_that_is_not_trained_cannot_be_kept_for_others(tmp_path: Path) -> None:
    experiment = dataclasses.replace(tiny.EXPERIMENT, dense_epochs=1)
    problem, ledger = load_problem(experiment)[0], Ledger(open_store(str(tmp_path)))
    Driver(experiment, ledger, problem, keep=[0, 1])
    with pytest.raises(ConfigError, match="an epoch to rewind to must be a whole number from 0 to 1, got 2"):
        Driver(experiment, ledger, problem, keep=[2])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_dense_round_may_end_before_the_schedule_does(epochs: int, tmp_path: Path) -> None:
    """Its end is also where weight rewinding goes back to."""
    technique = WeightRewinding(4 - epochs)
    experiment = dataclasses.replace(tiny.EXPERIMENT, path=OneShot(0.3), technique=technique)
    short = dataclasses.replace(experiment, dense_epochs=epochs)
    whole = run(experiment, str(tmp_path / "whole"))
    early = run(short, str(tmp_path / "early"))
    assert early[0].epochs == epochs
    assert early[0].history == whole[0].history[:epochs]
    ledgers = [Ledger(open_store(str(tmp_path / name))) for name in ("early", "whole")]
    ours, theirs = (
        ledger.snapshot(records[0].key, str(epochs)) for ledger, records in zip(ledgers, (early, whole), strict=True)
    )
    assert all(torch.equal(ours.model[name], tensor) for name, tensor in theirs.model.items())
    assert all(torch.equal(ours.model[name], tensor) for name, tensor in ledgers[0].load(early[0])[0].model.items())


@pytest.mark.parametrize("epochs", [-1, 5, True, 1.5, "0"])
def test_dense_epochs_lie_within_the_schedule(epochs: object) -> None:
    with pytest.raises(ConfigError, match="dense_epochs must be a whole number from 0 to 4, got"):
        dataclasses.replace(tiny.EXPERIMENT, dense_epochs=epochs)  # type: ignore[arg-type]


def test_the_epochs_of_the_dense_round_are_part_of_every_key() -> None:
    problem, _ = load_problem(tiny.EXPERIMENT)

    def keys(epochs: int | None) -> list[str]:
        return round_keys(round_settings(dataclasses.replace(tiny.EXPERIMENT, dense_epochs=epochs), problem))

    assert keys(None) == keys(4)
    assert not set(keys(None)) & set(keys(0))


def test_start_weights_without_a_finite_loss_are_refused(file: Path, tmp_path: Path) -> None:
    module = build_model("tiny:model", {}, {"num_classes": 3, "input_shape": (1, 6, 6)}, seed=99)
    module[6].weight.data.fill_(3e38)
    save_model(module, str(file))
    with pytest.raises(
        ConfigError, match=r"loss\(\) must be finite on the first samples, got nan: look at the weights"
    ):
        run(measured(file), str(tmp_path / "runs"))


def test_reports_leave_out_what_was_not_measured(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run(measured(file), str(tmp_path / "runs"))
    print_table(records)
    assert "dense" in capsys.readouterr().out
    assert "train_loss" not in json.loads(json_line(records[0]))["metrics"]
    lines = list(csv.DictReader(save_csv(records, tmp_path / "rounds.csv").read_text().splitlines()))
    assert lines[0]["train_loss"] == ""
    assert float(lines[1]["train_loss"]) > 0
    table = rounds_table(records)
    place = [name for name, _ in table.columns].index("train loss")
    assert [line[place] for line in table.lines] == [None, records[1].metrics["train_loss"]]
    assert [curve.row.round for curve in round_curves(records, summary(records))] == [1]


def test_only_a_round_of_no_epoch_may_lack_its_training_loss(file: Path, tmp_path: Path) -> None:
    for record in run(measured(file), str(tmp_path / "runs")):
        assert Record.from_json(record.to_json(), "a file") == record
        bare = {name: value for name, value in record.metrics.items() if name != "train_loss"}
        text = dataclasses.replace(record, metrics=bare).to_json()
        if record.epochs:
            with pytest.raises(DamagedError, match="metrics other than train_loss, val_accuracy, test_accuracy"):
                Record.from_json(text, "a file")
        else:
            assert Record.from_json(text, "a file") == record
