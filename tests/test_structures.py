"""A structure is one class: one that only this file knows is trained, stored, resumed and exported like the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

import orchestrator
from orchestrator.errors import ConfigError
from orchestrator.export.candidates import structure as title_of
from orchestrator.ofa.subnet import Elastic, Subnet
from orchestrator.pruning import Explicit
from orchestrator.pruning.selection import Selection
from orchestrator.pruning.structure import Dense, DenseNetwork, FewerChannels, Structure
from orchestrator.pruning.view import View
from orchestrator.record import Record
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.structures import structure_class
from orchestrator.techniques import LearningRateRewinding
from orchestrator.train_state import TrainState
from orchestrator.training.state import model_tensors

HEAD, INPUTS, CLASSES = "6", 32, 3  # the last layer of tiny:model
WEIGHT = f"{HEAD}.weight"


@dataclass(frozen=True)
class LowRank(Structure):
    """Represent the last layer by two thin ones: `rank` combinations of its inputs, and the outputs made of them."""

    rank: int

    json_fields = frozenset({"rank"})
    title = "low rank"

    @classmethod
    def from_json(cls, content: Mapping[str, Any], network: DenseNetwork) -> Structure:
        if network.prunable.get(WEIGHT) != (CLASSES, INPUTS):
            raise ConfigError(f"it has no layer {HEAD}")
        return cls(content["rank"])

    @classmethod
    def cut(cls, content: Mapping[str, Any], module: nn.Module) -> nn.Module:
        rank: int = content["rank"]
        module[int(HEAD)] = nn.Sequential(nn.Linear(INPUTS, rank, bias=False), nn.Linear(rank, CLASSES))
        return module

    @property
    def network(self) -> object:
        return self.rank

    def build(self, dense: Callable[[], nn.Module]) -> nn.Module:
        return self.cut({"rank": self.rank}, dense())

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        """Return `state` with the best approximation of the last layer (Eckart, Young 1936)."""
        model = dict(state.model)
        whole = model.pop(WEIGHT, None)
        if whole is None:
            whole = model[f"{HEAD}.1.weight"] @ model[f"{HEAD}.0.weight"]
        left, values, right = torch.linalg.svd(whole)
        model[f"{HEAD}.0.weight"] = right[: self.rank].contiguous()
        model[f"{HEAD}.1.weight"] = left[:, : self.rank] * values[: self.rank]
        if f"{HEAD}.bias" in model:
            model[f"{HEAD}.1.bias"] = model.pop(f"{HEAD}.bias")
        return TrainState(model)

    def shapes(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in dense.items() if name != WEIGHT}

    def counts(self, dense: Mapping[str, int]) -> dict[str, int]:
        return {**dense, WEIGHT: self.rank * (INPUTS + CLASSES)}

    def to_json(self) -> dict[str, Any]:
        counted = [self.rank * (INPUTS + CLASSES), INPUTS * CLASSES]
        return {"unit": "parameters", "parameters": counted, "macs": counted, "kept": {}, "rank": self.rank}


@dataclass(frozen=True)
class Thinner(Selection):
    """Approximate the last layer by the rank that a density leaves of it."""

    def check(self, view: View, density: float) -> None:
        pass

    def select(self, view: View, density: float) -> Structure:
        return LowRank(max(1, int(density * CLASSES)))


EXPERIMENT = replace(
    tiny.with_training(epochs=2),
    path=Explicit([0.7, 0.4]),
    selection=Thinner(),
    technique=LearningRateRewinding(optimizer_state="fresh"),
)
TRUST = (tiny.EXPERIMENT.model, tiny.EXPERIMENT.data)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    storage = tmp_path_factory.mktemp("low_rank")
    return storage, run(EXPERIMENT, str(storage))


def test_its_rounds_are_trained_and_recorded(stored: tuple[Path, list[Record]]) -> None:
    _, (dense, *rounds) = stored
    assert dense.channels is None
    assert [record.channels and record.channels["rank"] for record in rounds] == [2, 1]
    assert [record.layers[WEIGHT] for record in rounds] == [[70, 96], [35, 96]]


def test_a_round_that_was_stored_is_read_again(stored: tuple[Path, list[Record]], tmp_path: Path) -> None:
    storage, records = stored
    for record in records[:2]:  # as a run that was killed after them left it
        for folder in ("rounds", "snapshots"):
            if (storage / folder / record.key).is_dir():
                shutil.copytree(storage / folder / record.key, tmp_path / folder / record.key)
    again = run(EXPERIMENT, str(tmp_path))
    assert [record.blobs for record in again] == [record.blobs for record in records]


def test_its_networks_are_loaded_and_named(stored: tuple[Path, list[Record]]) -> None:
    storage, records = stored
    record = records[-1]
    module = orchestrator.load(str(storage), record.key, trust=TRUST)
    tensors = Ledger(open_store(str(storage))).load(record)[0].model
    mine = model_tensors(module)
    assert mine.keys() == tensors.keys()
    assert all(torch.equal(mine[name], tensors[name]) for name in mine)
    assert mine[f"{HEAD}.0.weight"].shape == (1, INPUTS)
    assert [title_of(each) for each in records] == ["dense", "low rank", "low rank"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, Dense),
        ({"unit": "macs", "kept": {}}, FewerChannels),
        ({"kept": {}, "space": "digits"}, Elastic),
        ({"kept": {}, "space": "digits", "architecture": {}}, Subnet),
        ({"kept": {}, "rank": 2}, LowRank),
    ],
)
def test_the_fields_of_a_record_say_which_class_wrote_it(content: Any, expected: type[Structure]) -> None:
    assert structure_class(content) is expected


def test_fields_of_a_class_that_is_not_imported_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"a structure of the fields \['tucker'\].*import the module that defines it"):
        structure_class({"kept": {}, "tucker": 3})
