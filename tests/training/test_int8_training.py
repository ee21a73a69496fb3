"""Quantisation-aware epochs: the last round alone has them, masks hold, and the record has int8 before and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
from together import start_together
from torch import nn

from orchestrator.data.load import load_data
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment, round_keys, round_settings
from orchestrator.problem import load_problem
from orchestrator.pruning.path import OnlyDense
from orchestrator.pruning.structure import Dense
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.int8_training import fake_quantised, measure_ranges
from orchestrator.training.int8_weights import quantised, restored
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train, Trained

INT8 = replace(tiny.EXPERIMENT, quantise="int8")


def test_only_the_last_rounds_key_has_it() -> None:
    problem, _ = load_problem(tiny.EXPERIMENT)
    plain, rounded = (round_keys(round_settings(each, problem)) for each in (tiny.EXPERIMENT, INT8))
    assert plain[:-1] == rounded[:-1]
    assert plain[-1] != rounded[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"path": OnlyDense()},
        {"training": replace(INT8.training, ema=0.9)},
        {"training": replace(INT8.training, precision="bf16")},
        {"training": replace(INT8.training, compile=True)},
    ],
)
def test_what_it_does_not_go_with_is_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="quantise needs a path with a pruned round"):
        replace(INT8, **changes)
    with pytest.raises(ConfigError, match="quantise must be one of int8, got 'int4'"):
        replace(tiny.EXPERIMENT, quantise="int4")


def test_without_torchao_it_is_refused_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("orchestrator.training.int8_training.import_module", missing)
    with pytest.raises(ConfigError, match=r"Experiment\.quantise: cannot import a package of the extra 'quantise'"):
        load_problem(INT8)


@pytest.fixture
def torchao() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")


class Weightless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Branching(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x


@pytest.mark.usefixtures("torchao")
def test_a_network_without_such_layers_or_that_cannot_be_exported_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="needs a linear or convolution layer, and Weightless has none"):
        fake_quantised(Weightless(), torch.rand(2, 3))
    with pytest.raises(ConfigError, match=r"torch\.export can take, but Branching fails"):
        fake_quantised(Branching(3, 3), torch.rand(2, 3))


@pytest.mark.usefixtures("torchao")
def test_a_linear_layer_is_rounded_as_a_packed_file_rounds_it_and_shares_its_tensors() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 4, bias=False)
    inputs = torch.randint(-127, 128, (2, 16)).float()
    inputs[0, 0] = 127  # so that rounding the inputs changes nothing
    network = fake_quantised(layer, inputs)
    measure_ranges(network, [inputs])
    stored = restored(quantised({"weight": layer.weight.detach()}), "here")["weight"]
    torch.testing.assert_close(network(inputs), inputs @ stored.T)
    assert next(network.parameters()) is layer.weight
    for count in (1, 5):
        assert network(torch.rand(count, 16)).shape == (count, 4), "any number of samples"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path, list[Any]]:
    pytest.importorskip("torchao", reason="torchao is not installed")
    folder = tmp_path_factory.mktemp("runs")
    return INT8, folder, run(INT8, str(folder))


def test_the_record_has_int8_before_and_after_and_through_a_file(records: tuple[Experiment, Path, list[Any]]) -> None:
    *before, last = records[2]
    assert [record.int8 for record in before] == [None] * 3
    assert sorted(last.int8) == sorted(f"{s}_{w}" for s in ("val", "test") for w in ("before", "after", "file"))
    assert all(0.3 < value <= 1 for value in last.int8.values())
    assert last.epochs == before[-1].epochs + 1
    assert len(last.history) == last.epochs


def test_removed_weights_stay_removed(records: tuple[Experiment, Path, list[Any]]) -> None:
    ledger, last = Ledger(open_store(str(records[1]))), records[2][-1]
    state = ledger.load(last)[0].model
    kept = sum(int(state[name].count_nonzero()) for name in last.layers)
    assert kept == last.kept


def test_the_same_run_gives_the_same_bits(records: tuple[Experiment, Path, list[Any]], tmp_path: Path) -> None:
    again = run(INT8, str(tmp_path))[-1]
    assert (again.metrics, again.int8, again.blobs) == (
        records[2][-1].metrics,
        records[2][-1].int8,
        records[2][-1].blobs,
    )


# Without batch norm, whose statistics are each worker's own.
PLAIN = replace(INT8, model_options={"norm": False})


def trained(experiment: Experiment) -> Trained:
    training = experiment.training
    work = Train(
        key="k", parent=None, round=1, rounds=1, density=1.0, kept=0, prunable=0, seed=3, schedule=training.schedule,
        first_epoch=0, epochs=training.epochs, start=None, structure=Dense(), quantise=True,
    )  # fmt: skip
    data = load_data(experiment.data, experiment.data_options)
    return Trainer(experiment, data, device=torch.device("cpu")).train(work)


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    result = trained(PLAIN)
    torch.save((result.state.model, result.int8, result.history), f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.usefixtures("torchao")
def test_two_workers_have_the_same_bits_and_what_one_process_has(tmp_path: Path) -> None:
    """Each measures ranges on its own part of a batch, so what is rounded may differ a little from one process."""
    start_together(worker, str(tmp_path), 2)
    (model, int8, history), other = (torch.load(tmp_path / str(rank), weights_only=False) for rank in range(2))
    assert all(torch.equal(other[0][name], tensor) for name, tensor in model.items())
    assert other[1:] == (int8, history)
    single = trained(PLAIN)
    assert single.int8 is not None
    assert int8.keys() == single.int8.keys()
    assert len(history) == len(single.history) == PLAIN.training.epochs + 1
    for name, value in single.int8.items():
        assert int8[name] == pytest.approx(value, abs=2 / 30), "two of 30 samples"
    for name, tensor in single.state.model.items():
        torch.testing.assert_close(model[name], tensor, rtol=0.01, atol=0.01)
