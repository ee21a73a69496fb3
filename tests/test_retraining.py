"""Where each technique starts a round and which learning rates it follows, by tables and by the bits of real runs."""

import dataclasses

import pytest
import tiny
import torch

from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.problem import load_problem
from orchestrator.pruning import OneShot
from orchestrator.retraining import (
    FineTuning,
    LearningRateRewinding,
    LowRateWeightRewinding,
    RandomReinitialisation,
    RetrainingTechnique,
    WeightRewinding,
)
from orchestrator.rounds import TrainState
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.store import open_store
from orchestrator.training.loop import Trainer
from orchestrator.training.lr import Constant, Cosine, StepDecay

TRAINING = dataclasses.replace(
    tiny.EXPERIMENT.training, epochs=6, schedule=StepDecay(1.0, drops=(2, 4), warmup_epochs=1)
)
RATES = [0.0, 1.0, 0.1, 0.1, 0.01, 0.01]  # of TRAINING's epochs, at their first steps


class Round:
    """A finished round that says which of its states was asked for."""

    training = TRAINING

    def __init__(self, name: str) -> None:
        self.name = name

    def state(self) -> TrainState:
        return TrainState({self.name: torch.ones(1)}, {"momentum": torch.ones(1)})

    def snapshot(self, epoch: int) -> TrainState:
        return TrainState({f"{self.name}@{epoch}": torch.ones(1)}, {"momentum": torch.ones(1)})


@pytest.mark.parametrize(
    ("technique", "state", "first_epoch", "rates"),
    [
        (LearningRateRewinding(), "parent", 0, RATES),
        (LearningRateRewinding(4), "parent", 2, RATES[2:]),
        (LearningRateRewinding(1), "parent", 5, RATES[5:]),
        (FineTuning(), "parent", 0, [0.01] * 6),
        (FineTuning(4), "parent", 2, [0.01] * 4),
        (WeightRewinding(), "dense@0", 0, RATES),
        (WeightRewinding(6), "dense@0", 0, RATES),
        (WeightRewinding(4), "dense@2", 2, RATES[2:]),
        (LowRateWeightRewinding(4), "dense@2", 2, [0.01] * 4),
        (LowRateWeightRewinding(), "dense@0", 0, [0.01] * 6),
        (RandomReinitialisation(), None, 0, RATES),
    ],
    ids=str,
)
def test_where_a_round_starts_and_its_learning_rates(technique, state, first_epoch, rates):
    start = technique.start(Round("dense"), Round("parent"))
    assert (list(start.state.model) if start.state else [None]) == [state]
    assert start.first_epoch == first_epoch
    assert [start.schedule.lr_at(first_epoch + e, 6) for e in range(start.epochs)] == pytest.approx(rates)
    snapshot = technique.rewinds_to(TRAINING)
    assert snapshot == (int(state.split("@")[1]) if state and "@" in state else None)


@pytest.mark.parametrize("technique", [LearningRateRewinding, FineTuning])
def test_the_optimizers_state_is_kept_or_fresh(technique):
    assert technique(2).start(Round("dense"), Round("parent")).state.optimizer
    assert technique(2, optimizer_state="fresh").start(Round("dense"), Round("parent")).state.optimizer == {}
    with pytest.raises(ConfigError, match="'kept' or 'fresh', got 'new'"):
        technique(optimizer_state="new").check(TRAINING)


@pytest.mark.parametrize(
    "technique", [LearningRateRewinding, FineTuning, WeightRewinding, LowRateWeightRewinding], ids=lambda t: t.__name__
)
@pytest.mark.parametrize("epochs", [0, 7, -1, 2.5, True])
def test_t_must_lie_within_the_dense_run(technique, epochs):
    with pytest.raises(ConfigError, match=rf"{technique.__name__}.epochs must be in 1..6, .* got {epochs}"):
        technique(epochs).check(TRAINING)


@pytest.mark.parametrize(
    ("schedule", "last"), [(Constant(0.3), 0.3), (StepDecay(1.0, drops=(5.5,)), 1.0), (Cosine(1.0), 0.0669873)]
)
def test_the_last_learning_rate_is_that_of_the_last_epoch(schedule, last):
    dense = Round("dense")
    dense.training = dataclasses.replace(TRAINING, schedule=schedule)
    start = FineTuning(1).start(dense, dense)
    assert start.schedule.lr_at(3.7, 6) == pytest.approx(last)


TINY = dataclasses.replace(tiny.EXPERIMENT, path=OneShot(0.3))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_store(str(tmp_path / "runs")))


def start_of(technique, ledger, keep=()):
    """The request of the first pruned round, after a real dense run; and how many errands came before it."""
    experiment = dataclasses.replace(TINY, technique=technique)
    problem, data = load_problem(experiment, None)
    driver, trainer, errands = Driver(experiment, ledger, problem, keep=keep), Trainer(experiment, data), 0
    while (request := driver.next_round()) is not None and (request.round == 0 or request.wants != "round"):
        errands += request.wants != "round"
        driver.finish_round(request.key, trainer.train(request))
    return request, errands


def dense_after(epochs, ledger):
    """The dense run stopped after `epochs`, by another road: the state that its mid-round checkpoint would hold."""
    problem, data = load_problem(TINY, None)
    request = Driver(TINY, ledger, problem).next_round()
    trainer, states = Trainer(TINY, data), {}

    def keep(request, metrics, speed, take):
        states[metrics.epoch + 1] = take().state

    trainer.train(request, on_epoch=keep)
    return states[epochs]


def assert_same_bits(ours: TrainState, theirs: TrainState, masks) -> None:
    for mine, other in ((ours.model, theirs.model), (ours.optimizer, theirs.optimizer)):
        assert mine.keys() == other.keys()
        for name, tensor in mine.items():
            mask = masks.get(name.rsplit("/", 1)[0], torch.ones(()))
            assert torch.equal(tensor, other[name] * mask), name


@pytest.mark.parametrize("technique", [WeightRewinding, LowRateWeightRewinding], ids=lambda t: t.__name__)
@pytest.mark.parametrize("epoch", [1, 3])
def test_weight_rewinding_starts_from_the_bits_of_the_dense_run(technique, epoch, ledger, tmp_path):
    request, errands = start_of(technique(4 - epoch), ledger)
    assert errands == 0, "the dense round kept the snapshot"
    assert request.first_epoch == epoch
    assert_same_bits(request.start, dense_after(epoch, Ledger(open_store(str(tmp_path / "other")))), request.masks)
    assert request.start.optimizer


def test_the_lottery_ticket_starts_from_the_initialisation(ledger):
    request, errands = start_of(WeightRewinding(), ledger)
    trainer = Trainer(TINY, load_problem(TINY, None)[1])
    initial = {name: p.detach() for name, p in trainer.module.named_parameters()}
    assert errands == 0
    assert request.start.optimizer == {}
    for name, tensor in initial.items():
        assert torch.equal(request.start.model[name], tensor * request.masks.get(name, torch.ones(())))


@pytest.mark.parametrize("epochs", [4, 3, 1], ids=lambda t: f"dense@{4 - t}")
def test_an_epoch_that_was_not_kept_is_replayed_with_the_same_bits(epochs, ledger, tmp_path):
    start_of(LearningRateRewinding(), ledger)  # a dense run that kept nothing
    replayed, errands = start_of(WeightRewinding(epochs), ledger)
    assert errands == 1
    kept, none = start_of(WeightRewinding(epochs), Ledger(open_store(str(tmp_path / "kept"))))
    assert none == 0
    assert replayed.key == kept.key
    assert_same_bits(replayed.start, kept.start, {})
    again, errands = start_of(WeightRewinding(epochs), ledger)
    assert errands == 0
    assert_same_bits(again.start, kept.start, {})


def test_the_dense_round_keeps_what_others_will_want(ledger):
    start_of(LearningRateRewinding(), ledger, keep=(0, 2))
    for technique in (WeightRewinding(), WeightRewinding(2)):
        assert start_of(technique, ledger)[1] == 0
    assert start_of(WeightRewinding(1), ledger)[1] == 1


def test_a_damaged_snapshot_is_an_error_that_names_the_file(ledger):
    request, _ = start_of(WeightRewinding(2), ledger)
    file = f"snapshots/{request.parent}/2.safetensors"
    blob = bytearray(ledger.store.read(file))
    blob[-1] ^= 1
    ledger.store.write(file, bytes(blob))
    assert dict(ledger.verify())[file] is not None
    with pytest.raises(DamagedError, match=file):
        start_of(WeightRewinding(2), ledger)
    ledger.store.delete(file)
    assert start_of(WeightRewinding(2), ledger)[1] == 1


def test_random_reinitialisation_keeps_the_mask_and_draws_new_weights_every_round(ledger):
    experiment = dataclasses.replace(tiny.EXPERIMENT, technique=RandomReinitialisation())
    problem, data = load_problem(experiment, None)
    driver, trainer, starts, seen = Driver(experiment, ledger, problem), Trainer(experiment, data), [], []
    real = trainer._initial
    trainer._initial = lambda request: starts.append(real(request)) or starts[-1]
    while (request := driver.next_round()) is not None:
        result = trainer.train(request)
        for name, mask in request.masks.items():
            assert not result.state.model[name][~mask].any()
        seen.append(request)
        driver.finish_round(request.key, result)
    assert [request.start for request in seen] == [None] * 4
    weights = [start.model["0.weight"] for start in starts]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_techniques_end_differently_and_share_the_dense_round(tmp_path):
    techniques = [FineTuning(), LearningRateRewinding(), WeightRewinding(2), WeightRewinding(),
                  LowRateWeightRewinding(2), RandomReinitialisation()]  # fmt: skip
    storage = str(tmp_path / "runs")
    paths = [run(dataclasses.replace(TINY, technique=technique), storage) for technique in techniques]
    assert len({records[0].key for records in paths}) == 1
    assert len({records[1].blobs["model.safetensors"].sha256 for records in paths}) == len(techniques)
    assert len(Ledger(open_store(storage)).records()) == 1 + len(techniques)


def test_a_technique_of_ones_own_needs_only_start(tmp_path):
    records = run(dataclasses.replace(TINY, technique=Halfway()), str(tmp_path / "runs"))
    assert [record.technique for record in records] == ["Dense", "Halfway"]
    assert records[1].epochs == 2


@dataclasses.dataclass(frozen=True)
class Halfway(RetrainingTechnique):
    def start(self, dense, parent):
        start = LearningRateRewinding(2).start(dense, parent)
        half = {name: (t + parent.state().model[name]) / 2 for name, t in dense.state().model.items()}
        return dataclasses.replace(start, state=TrainState(half))
