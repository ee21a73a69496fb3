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
from orchestrator.__main__ import main
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.export.candidates import structure
from orchestrator.export.packed_file import load_packed
from orchestrator.pruning import Explicit, prune_globally
from orchestrator.pruning.selection import Selection
from orchestrator.pruning.structure import Dense, Masks, Structure
from orchestrator.pruning.view import View
from orchestrator.record import Record
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.structures import own_structure, recorded_fields
from orchestrator.techniques import LearningRateRewinding
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.state import model_tensors

Stored = tuple[Experiment, Path, list[Record]]
HEAD, INPUTS, CLASSES = "6", 32, 3  # the last layer of tiny:model
WEIGHT = f"{HEAD}.weight"


@dataclass(frozen=True)
class LowRank(Structure):
    """Represent the last layer by two thin ones: `rank` combinations of its inputs, and the outputs made of them."""

    rank: int

    @property
    def network(self) -> object:
        return self.rank

    def build(self, dense: Callable[[], nn.Module]) -> nn.Module:
        module: Any = dense()
        module[int(HEAD)] = nn.Sequential(nn.Linear(INPUTS, self.rank, bias=False), nn.Linear(self.rank, CLASSES))
        return module

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
        return {name: self.rank * (INPUTS + CLASSES) if name == WEIGHT else size for name, size in dense.items()}


@dataclass(frozen=True)
class Aged(Masks):
    """Represent masks that know in how many rounds they were made: the next one depends on it."""

    age: int

    def with_tensors(self, tensors: Tensors) -> Structure:
        return replace(self, masks=tensors)


@dataclass(frozen=True)
class Ageing(Selection):
    """Keep the lowest weights in each second round, which a structure without its age would not."""

    def check(self, view: View, density: float) -> None:
        pass

    def select(self, view: View, density: float) -> Structure:
        age = view.structure.age + 1 if isinstance(view.structure, Aged) else 0
        weights = {name: 1 / (1 + weight.abs()) if age % 2 else weight for name, weight in view.weights.items()}
        return Aged(prune_globally(weights, density, masks=view.masks), age)


@dataclass(frozen=True)
class Thinner(Selection):
    """Approximate the last layer by the rank that a density leaves of it."""

    def check(self, view: View, density: float) -> None:
        pass

    def select(self, view: View, density: float) -> Structure:
        return LowRank(max(1, int(density * CLASSES)))


EXPERIMENT = replace(
    tiny.with_training(epochs=2),
    path=Explicit([0.7, 0.4, 0.35]),
    selection=Thinner(),
    technique=LearningRateRewinding(optimizer_state="fresh"),
)
TRUST = (tiny.EXPERIMENT.model, tiny.EXPERIMENT.data, f"{__name__}:LowRank")


@pytest.fixture(scope="module", params=[Thinner(), Ageing()], ids=["tensors of its own", "masks of its own"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    storage = tmp_path_factory.mktemp("own_structure")
    experiment = replace(EXPERIMENT, selection=request.param)
    return experiment, storage, run(experiment, str(storage))


def test_a_round_that_was_stored_is_read_again(stored: Stored, tmp_path: Path) -> None:
    experiment, storage, records = stored
    for record in records[:3]:  # as a run that was killed after them left it
        shutil.copytree(storage / "rounds" / record.key, tmp_path / "rounds" / record.key)
    again = run(experiment, str(tmp_path))
    assert [record.blobs for record in again] == [record.blobs for record in records]


def test_its_fields_are_recorded() -> None:
    assert recorded_fields(LowRank(2)) == {"type": f"{__name__}.LowRank", "rank": 2}
    masks = {"a": torch.ones(2).bool()}
    assert recorded_fields(Aged(masks, 3)) == {"type": f"{__name__}.Aged", "masks": {}, "age": 3}
    assert recorded_fields(Masks(masks)) is recorded_fields(Dense()) is None


@pytest.fixture(scope="module")
def low_rank(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Record]]:
    storage = str(tmp_path_factory.mktemp("low_rank"))
    return storage, run(EXPERIMENT, storage)


def test_its_rounds_count_what_is_left(low_rank: tuple[str, list[Record]]) -> None:
    _, (dense, *rounds) = low_rank
    assert dense.structure is None
    assert [(record.structure or {})["rank"] for record in rounds] == [2, 1, 1]
    assert [record.layers[WEIGHT] for record in rounds] == [[70, 96], [35, 96], [35, 96]]


def test_its_networks_are_loaded_and_named_after_it(low_rank: tuple[str, list[Record]]) -> None:
    storage, records = low_rank
    module = orchestrator.load(storage, records[-1].key, trust=TRUST)
    tensors = Ledger(open_store(storage)).load(records[-1])[0].model
    mine = model_tensors(module)
    assert mine.keys() == tensors.keys()
    assert all(torch.equal(mine[name], tensors[name]) for name in mine)
    assert mine[f"{HEAD}.0.weight"].shape == (1, INPUTS)
    assert [structure(each) for each in records] == ["dense", "LowRank", "LowRank", "LowRank"]


def test_its_class_is_trusted_as_any_code_of_the_users(low_rank: tuple[str, list[Record]]) -> None:
    storage, records = low_rank
    with pytest.raises(ConfigError, match=rf"a class for its structure, '{__name__}:LowRank'"):
        orchestrator.load(storage, records[-1].key, trust=TRUST[:2])
    orchestrator.load(storage, records[0].key, trust=TRUST[:2])  # the dense round names no structure


def test_its_networks_are_packed_and_go_through_targets(low_rank: tuple[str, list[Record]], tmp_path: Path) -> None:
    storage, records = low_rank
    trust = [part for spec in TRUST for part in ("--trust", spec)]
    command = ["export", storage, "--round", records[1].key, "--out", str(tmp_path), "--formats", "packed"]
    assert main([*command, *trust]) == 0
    path = tmp_path / "LowRank.safetensors"
    loaded = load_packed(path, model=tiny.EXPERIMENT.model, structure=TRUST[2])
    module = orchestrator.load(storage, records[1].key, trust=TRUST)
    images = next(iter(tiny.data().test))[0][None]
    assert torch.equal(loaded(images), module(images))
    with pytest.raises(ConfigError, match=f"pass structure='{TRUST[2]}' if that class is to build it"):
        load_packed(path, model=tiny.EXPERIMENT.model)
    assert main(["targets", storage, records[1].key, "--on", "download", *trust]) == 0


def test_a_record_does_not_choose_the_code_that_runs() -> None:
    with pytest.raises(ConfigError, match=r"of the class 'os.Tucker': import the module that defines it first"):
        own_structure({"type": "os.Tucker", "rank": 3})


@dataclass(frozen=True)
class OfSets(LowRank):
    """Has a field that JSON cannot hold."""

    kept: frozenset[int] = frozenset({1})


@dataclass(frozen=True)
class ForgetsItsClass(Aged):
    """Gives plain masks for its tensors."""

    def with_tensors(self, tensors: Tensors) -> Structure:
        return Masks(tensors)


@dataclass(frozen=True)
class LeavesMore(LowRank):
    """Applies nothing."""

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        return state


@dataclass(frozen=True)
class CountsMore(LowRank):
    """Counts more weights than there were."""

    def counts(self, dense: Mapping[str, int]) -> dict[str, int]:
        return {name: 2 * size for name, size in dense.items()}


@dataclass(frozen=True)
class SaysAll(LowRank):
    """Says that the network has the dense layer too."""

    def shapes(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return dict(dense)


@dataclass(frozen=True)
class HoldsAtAHalf(Aged):
    """Holds removed weights at a half, which no file keeps."""

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        model = {n: torch.where(self.masks[n], t, 0.5) if n in self.masks else t for n, t in state.model.items()}
        return TrainState(model)


@dataclass(frozen=True)
class SaysLittle(LowRank):
    """Describes channels without their counts."""

    def to_json(self) -> dict[str, Any]:
        return {"rank": self.rank}


@dataclass(frozen=True)
class Gives(Selection):
    """Give one structure."""

    kind: str

    def check(self, view: View, density: float) -> None:
        pass

    def select(self, view: View, density: float) -> Structure:
        kind = globals()[self.kind]
        return kind(prune_globally(view.weights, 0.5), 0) if issubclass(kind, Aged) else kind(2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("OfSets", "OfSets must be a dataclass whose fields, but for its tensors.., JSON can hold"),
        ("ForgetsItsClass", r"ForgetsItsClass.with_tensors\(tensors\) must return a ForgetsItsClass whose"),
        ("LeavesMore", r"LeavesMore.apply\(\) must return the tensors that the network of LeavesMore.build\(\) has"),
        ("CountsMore", r"CountsMore.counts\(\) must return 0 to all weights of each"),
        ("SaysAll", r"SaysAll.shapes\(\) must return prunable tensors of the network that SaysAll.build\(\) returns"),
        ("HoldsAtAHalf", r"HoldsAtAHalf.apply\(\) must return 0 where the masks of HoldsAtAHalf.tensors\(\) are False"),
        ("SaysLittle", r"SaysLittle.to_json\(\) must return None or .'kept', 'macs', 'parameters', 'unit'., got"),
    ],
)
def test_what_a_structure_gets_wrong_is_said_before_training(kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run(replace(EXPERIMENT, selection=Gives(kind)), str(tmp_path))
    assert not list(tmp_path.glob("rounds/*"))


@dataclass(frozen=True)
class FailsLater(Ageing):
    """Fail in the third pruned round, which no rehearsal selects."""

    def select(self, view: View, density: float) -> Structure:
        if density < 0.36:
            raise ValueError("too small for me")
        return super().select(view, density)


def test_a_selection_that_fails_in_a_later_round_is_named_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FailsLater.select\(\) for round 3 failed: ValueError: too small for me"):
        run(replace(EXPERIMENT, selection=FailsLater()), str(tmp_path))
