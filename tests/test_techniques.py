"""Where each technique starts a round and which learning rates it follows, by tables and by the bits of real runs."""

import dataclasses
import math

import pytest
import tiny
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.problem import load_problem
from orchestrator.pruning import Explicit, Geometric, OneShot, prune_globally
from orchestrator.runner import run
from orchestrator.schedules import Constant, Cosine, StepDecay
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.techniques import (
    AdaptiveLinearRestart,
    CosineRestart,
    FineTuning,
    LearningRateRewinding,
    LinearRestart,
    LowRateWeightRewinding,
    RandomReinitialisation,
    Removed,
    RetrainingTechnique,
    ScaledRestart,
    WeightRewinding,
)
from orchestrator.train_state import TrainState
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW
from orchestrator.training.trainer import Trainer
from orchestrator.work.snapshot import Snapshot

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


# Of 20 epochs, of which 2 are warm-up: the highest rate is 0.4, the lowest 0.004.
LONGER = dataclasses.replace(TRAINING, epochs=20, schedule=StepDecay(0.4, drops=(8, 14), warmup_epochs=2))
ANNEALED = dataclasses.replace(TRAINING, epochs=20, schedule=Cosine(0.4, warmup_epochs=2, final=0.1))
# Of 16 weights of 1 and 9 of 3, the 16 are removed: their relative norm is sqrt(16/97), their fraction 16/25.
REMOVED = Removed({"w": torch.tensor([1.0] * 16 + [3.0] * 9)}, {"w": torch.tensor([0.0] * 16 + [3.0] * 9)})
CHANGE = math.sqrt((16 / 97) / (16 / 25))


@pytest.mark.parametrize(
    ("technique", "training", "rates"),
    [
        # Restarts of 10 epochs: a warm-up of 1, then 9 for the whole schedule: the drops come 3.6 and 6.3 after it.
        (
            ScaledRestart(10),
            LONGER,
            {0: 0, 0.5: 0.2, 1: 0.4, 1.5: 0.4, 4.59: 0.4, 4.6: 0.04, 7.29: 0.04, 7.3: 0.004, 9.9: 0.004},
        ),
        (ScaledRestart(), LONGER, {0: 0, 1: 0.2, 2: 0.4, 9.19: 0.4, 9.2: 0.04, 14.6: 0.004}),
        (CosineRestart(10), LONGER, {0: 0, 0.5: 0.2, 1: 0.4, 4: 0.301, 5.5: 0.202, 7: 0.103, 10: 0.004}),
        (CosineRestart(10), ANNEALED, {0.5: 0.2, 1: 0.4, 5.5: 0.25, 10: 0.1}),
        (LinearRestart(10), LONGER, {0: 0, 0.25: 0.1, 1: 0.4, 5.5: 0.2, 9.1: 0.04, 10: 0}),
        (LinearRestart(10), ANNEALED, {0: 0, 1: 0.4, 5.5: 0.2, 10: 0}),
        (LinearRestart(1), LONGER, {0: 0, 0.05: 0.2, 0.1: 0.4, 0.55: 0.2}),
        (AdaptiveLinearRestart(2), LONGER, {0: 0, 0.2: 0.4 * CHANGE, 1.1: 0.2 * CHANGE}),
        (AdaptiveLinearRestart(15), LONGER, {0: 0, 1.5: 0.4 * 15 / 20, 8.25: 0.2 * 15 / 20}),
        (AdaptiveLinearRestart(), LONGER, {2: 0.4, 11: 0.2}),
    ],
    ids=str,
)
def test_restarts_go_on_from_the_parent_at_these_rates(technique, training, rates):
    dense = Round("dense")
    dense.training = training
    start = technique.start_after(REMOVED, dense, Round("parent"))
    assert list(start.state.model) == ["parent"]
    assert (start.first_epoch, start.epochs) == (0, technique.epochs or 20)
    # Whatever length the caller names, which is that of the dense run.
    assert {epoch: start.schedule.lr_at(epoch, 20) for epoch in rates} == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([1, 1, 1, 1], [1, 0, 1, 0], 1.0),  # all weights alike: the largest change that magnitude pruning can make
        ([3, 0, 0, 4], [0, 0, 0, 4], math.sqrt((9 / 25) / (1 / 2))),  # what was removed before does not count
        ([1, 2, 2, 4], [1, 2, 2, 0], math.sqrt((16 / 25) / (1 / 4))),  # more than 1, for another criterion
        ([1, 2], [1, 2], 0.0),
        ([0, 0], [0, 0], 0.0),
        ([1, 2], [], math.sqrt(1 / 1)),
    ],
)
def test_the_relative_change_is_that_of_all_prunable_weights_together(before, after, change):
    """Over several tensors, and whether what is gone is zero or cut away."""
    tensors = {"a": torch.tensor(before[:2]).float(), "b": torch.tensor(before[2:]).float()}
    left = {"a": torch.tensor(after[:2]).float(), "b": torch.tensor(after[2:]).float()}
    assert Removed(tensors, left).relative_change() == pytest.approx(change)
    cut = {name: tensor[tensor != 0] for name, tensor in left.items() if tensor.any()}
    assert Removed(tensors, cut).relative_change() == pytest.approx(change)


FROM_PARENT = [LearningRateRewinding, FineTuning, ScaledRestart, CosineRestart, LinearRestart, AdaptiveLinearRestart]


@pytest.mark.parametrize("technique", FROM_PARENT)
def test_the_optimizers_state_is_kept_or_fresh(technique):
    assert technique(2).start(Round("dense"), Round("parent")).state.optimizer
    assert technique(2, optimizer_state="fresh").start(Round("dense"), Round("parent")).state.optimizer == {}
    with pytest.raises(ConfigError, match="optimizer_state must be one of kept, fresh, got 'new'"):
        technique(optimizer_state="new").check(TRAINING)


@pytest.mark.parametrize("technique", [*FROM_PARENT, WeightRewinding, LowRateWeightRewinding], ids=lambda t: t.__name__)
@pytest.mark.parametrize("epochs", [0, 7, -1, 2.5, True])
def test_t_must_lie_within_the_dense_run(technique, epochs):
    with pytest.raises(
        ConfigError,
        match=rf"{technique.__name__}.epochs must be a whole number from 1 to 6, got {epochs}: the dense run has 6",
    ):
        technique(epochs).check(TRAINING)


@pytest.mark.parametrize(
    ("schedule", "last"), [(Constant(0.3), 0.3), (StepDecay(1.0, drops=(5.5,)), 1.0), (Cosine(1.0), 0.0669873)]
)
def test_the_last_learning_rate_is_that_of_the_last_epoch(schedule, last):
    dense = Round("dense")
    dense.training = dataclasses.replace(TRAINING, schedule=schedule)
    start = FineTuning(1).start(dense, dense)
    assert start.schedule.lr_at(3.7, 6) == pytest.approx(last)


@pytest.mark.parametrize("technique", [FineTuning, LowRateWeightRewinding], ids=lambda t: t.__name__)
@pytest.mark.parametrize(
    ("training", "place"),
    [
        (dataclasses.replace(TRAINING, epochs=1, schedule=StepDecay(1.0, warmup_epochs=0.5)), "epoch 0 of StepDecay"),
        (dataclasses.replace(TRAINING, epochs=1, schedule=Cosine(1.0, warmup_epochs=0.5)), "epoch 0 of Cosine"),
    ],
)
def test_a_schedule_that_ends_at_no_learning_rate_is_refused_before_training(technique, training, place):
    with pytest.raises(ConfigError, match=rf"must begin at a learning rate above 0 .*, got 0.0 at {place}"):
        dataclasses.replace(tiny.EXPERIMENT, training=training, technique=technique())
    dataclasses.replace(tiny.EXPERIMENT, training=training, technique=LearningRateRewinding())


@pytest.mark.parametrize(
    ("schedule", "epochs", "rate", "needed"),
    [
        (Cosine(0.4), 4, "0.0382", 5),  # the rate falls under 0.04 in the 16th of 20 epochs
        (Cosine(0.4), 5, None, None),
        (StepDecay(0.4, drops=(8, 14)), 6, "0.004", 7),
        (StepDecay(0.4, drops=(8, 14)), 7, None, None),  # exactly a tenth
        (StepDecay(0.4, drops=(8, 14)), None, None, None),
        (StepDecay(0.4, drops=(8, 14), warmup_epochs=2), 20, None, None),  # the warm-up ends at the highest rate
        (StepDecay(0.4, drops=(8, 14), warmup_epochs=2), 19, None, None),
        (Constant(0.4), 1, None, None),
    ],
)
def test_a_rewind_to_a_low_rate_is_warned_of_once_before_training(schedule, epochs, rate, needed, caplog):
    technique = LearningRateRewinding(epochs)
    experiment = tiny.with_training(epochs=20, schedule=schedule)
    load_problem(dataclasses.replace(experiment, technique=technique))
    told = [record.getMessage() for record in caplog.records if "learning rate" in record.getMessage()]
    assert len(told) == (rate is not None)
    if rate:
        assert f"tiny: LearningRateRewinding({epochs}) starts at a learning rate of {rate}, under a tenth" in told[0]
        assert f"highest, 0.4, so it does little more than fine-tune: give it {needed} epochs or more" in told[0]
        assert LearningRateRewinding(needed).warning(experiment.training) is None
    load_problem(dataclasses.replace(experiment, technique=WeightRewinding(epochs)))
    load_problem(dataclasses.replace(experiment, technique=FineTuning(epochs)))
    assert sum("learning rate" in record.getMessage() for record in caplog.records) == len(told)


def test_t_outside_the_dense_run_is_refused_when_the_experiment_is_built():
    with pytest.raises(ConfigError, match=r"WeightRewinding.epochs must be a whole number from 1 to 4, got 5"):
        dataclasses.replace(tiny.EXPERIMENT, technique=WeightRewinding(5))  # dense@-1


@dataclasses.dataclass(frozen=True)
class Elsewhere(WeightRewinding):
    """A technique of the user's own that rewinds to an epoch that the dense run does not have."""

    epoch: int = 99

    def rewinds_to(self, training: TrainingConfig) -> int:
        return self.epoch


@pytest.mark.parametrize("epoch", [99, 4, -1, 1.5, True])
def test_an_epoch_outside_the_dense_run_is_refused_before_training(tmp_path, epoch):
    with pytest.raises(ConfigError, match=rf"an epoch to rewind to must be a whole number from 0 to 3, got {epoch}"):
        run(dataclasses.replace(tiny.EXPERIMENT, technique=Elsewhere(epoch=epoch)), str(tmp_path))


# From here on real training: 6 steps an epoch, of a warm-up epoch, one at 0.05, one at 0.005 and one at 0.0005.

TINY = dataclasses.replace(tiny.EXPERIMENT, path=OneShot(0.3))
LINE = [0.05 * (24 - step) / 21.6 for step in range(3, 24)]
STEPS = [*(0.05 * step / 6 for step in range(6)), *[0.05] * 6, *[0.005] * 6, *[0.0005] * 6]


@pytest.fixture
def rates():
    """The learning rate of every optimizer step, as the optimizer reads it."""
    seen = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    yield seen
    hook.remove()


@pytest.mark.parametrize("path", [OneShot(0.3), Explicit([0.5, 0.2])], ids=["one-shot", "iterative"])
@pytest.mark.parametrize(
    ("technique", "round_rates"),
    [
        (LearningRateRewinding(), STEPS),
        (LearningRateRewinding(3), STEPS[6:]),
        (LearningRateRewinding(1), STEPS[18:]),
        (FineTuning(), [0.0005] * 24),
        (FineTuning(2), [0.0005] * 12),
        (WeightRewinding(), STEPS),
        (WeightRewinding(2), STEPS[12:]),
        (LowRateWeightRewinding(3), [0.0005] * 18),
        (RandomReinitialisation(), STEPS),
        # 12 steps, of which 1.2 are warm-up.
        (LinearRestart(2), [0.0, 0.05 / 1.2, *(0.05 * (12 - step) / 10.8 for step in range(2, 12))]),
        (AdaptiveLinearRestart(), [*(0.05 * step / 2.4 for step in range(3)), *LINE]),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_the_learning_rate_of_every_step(technique, round_rates, path, rates, tmp_path):
    records = run(dataclasses.replace(tiny.EXPERIMENT, technique=technique, path=path), str(tmp_path / "runs"))
    assert rates == pytest.approx([*STEPS, *round_rates * (len(records) - 1)], abs=1e-15)
    assert [record.epochs for record in records[1:]] == [len(round_rates) // 6] * (len(records) - 1)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_store(str(tmp_path / "runs")))


def start_of(technique, ledger, keep=()):
    """The request of the first pruned round, after a real dense run; and how many snapshots were replayed before it."""
    experiment = dataclasses.replace(TINY, technique=technique)
    problem, data = load_problem(experiment, None)
    driver, trainer, replays = Driver(experiment, ledger, problem, keep=keep), Trainer(experiment, data), 0
    while (request := driver.next_work()) is not None and (isinstance(request, Snapshot) or request.round == 0):
        replays += isinstance(request, Snapshot)
        driver.finish(request, trainer.do(request))
    return request, replays


def dense_after(epochs, ledger):
    """The dense run stopped after `epochs`, by another road: the state that its mid-round checkpoint would hold."""
    problem, data = load_problem(TINY, None)
    request = Driver(TINY, ledger, problem).next_work()
    trainer, states = Trainer(TINY, data), {}

    def keep(request, metrics, speed, take):
        states[metrics.epoch + 1] = take().state

    trainer.do(request, on_epoch=keep)
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
    request, replays = start_of(technique(4 - epoch), ledger)
    assert replays == 0, "the dense round kept the snapshot"
    assert request.first_epoch == epoch
    assert_same_bits(
        request.start, dense_after(epoch, Ledger(open_store(str(tmp_path / "other")))), request.structure.tensors()
    )
    assert request.start.optimizer


def test_the_lottery_ticket_starts_from_the_initialisation(ledger):
    request, replays = start_of(WeightRewinding(), ledger)
    trainer = Trainer(TINY, load_problem(TINY, None)[1])
    initial = {name: p.detach() for name, p in trainer.module.named_parameters()}
    assert replays == 0
    assert request.start.optimizer == {}
    for name, tensor in initial.items():
        assert torch.equal(request.start.model[name], tensor * request.structure.tensors().get(name, torch.ones(())))


@pytest.mark.parametrize("epochs", [4, 3, 1], ids=lambda t: f"dense@{4 - t}")
def test_an_epoch_that_was_not_kept_is_replayed_with_the_same_bits(epochs, ledger, tmp_path):
    start_of(LearningRateRewinding(), ledger)  # a dense run that kept nothing
    replayed, replays = start_of(WeightRewinding(epochs), ledger)
    assert replays == 1
    kept, none = start_of(WeightRewinding(epochs), Ledger(open_store(str(tmp_path / "kept"))))
    assert none == 0
    assert replayed.key == kept.key
    assert_same_bits(replayed.start, kept.start, {})
    again, replays = start_of(WeightRewinding(epochs), ledger)
    assert replays == 0
    assert_same_bits(again.start, kept.start, {})


@pytest.mark.parametrize("technique", [WeightRewinding(3), WeightRewinding(), LowRateWeightRewinding(1)], ids=str)
@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(tiny.EXPERIMENT, name="other", technique=FineTuning(1), path=OneShot(0.9)),
        dataclasses.replace(tiny.EXPERIMENT, name="other", technique=WeightRewinding(2), criterion="random"),
    ],
    ids=["keeps nothing", "keeps another epoch"],
)
def test_a_dense_run_of_another_experiment_is_replayed_and_its_path_ends_with_the_same_bits(technique, other, tmp_path):
    experiment = dataclasses.replace(tiny.EXPERIMENT, technique=technique, path=Geometric(remove=0.5, rounds=2))
    alone = run(experiment, str(tmp_path / "alone"))
    shared = str(tmp_path / "shared")
    theirs = run(other, shared)
    ours = run(experiment, shared)
    assert ours[0].key == theirs[0].key
    assert ours[0].finished_at == theirs[0].finished_at, "the dense round is not trained again"
    assert [blobs(record) for record in ours] == [blobs(record) for record in alone]


def blobs(record):
    return {name: blob.sha256 for name, blob in record.blobs.items()}


@pytest.mark.parametrize("epochs", [4, 3, 2, 1], ids=lambda t: f"dense@{4 - t}")
@pytest.mark.parametrize("technique", [WeightRewinding, LowRateWeightRewinding], ids=lambda t: t.__name__)
def test_every_round_of_a_path_rewinds_to_the_same_bits_under_its_own_mask(technique, epochs, ledger):
    requests, results = all_requests(dataclasses.replace(tiny.EXPERIMENT, technique=technique(epochs)), ledger)
    dense = results[0].snapshots[4 - epochs]
    assert bool(dense.optimizer) == (epochs < 4), "at the initialisation there is no momentum yet"
    for request in requests[1:]:
        assert request.first_epoch == 4 - epochs
        assert_same_bits(request.start, dense, request.structure.tensors())


@pytest.mark.parametrize("technique", [LearningRateRewinding(2), FineTuning(2), AdaptiveLinearRestart(2)], ids=str)
def test_every_round_of_a_path_goes_on_from_its_parents_bits(technique, ledger):
    requests, results = all_requests(dataclasses.replace(tiny.EXPERIMENT, technique=technique), ledger)
    for request, parent in zip(requests[1:], results, strict=False):
        assert_same_bits(request.start, parent.state, request.structure.tensors())
        assert request.start.optimizer


def test_the_state_of_adamw_goes_on_masked_and_comes_back_from_storage(ledger):
    experiment = tiny.with_training(optimizer=AdamW(weight_decay=0.05))
    requests, results = all_requests(experiment, ledger)
    for request, parent in zip(requests[1:], results, strict=False):
        slots = request.start.optimizer
        assert {slot.rsplit("/", 1)[1] for slot in slots} == {"exp_avg", "exp_avg_sq", "step"}
        for slot, value in slots.items():
            mask = request.structure.tensors().get(slot.rsplit("/", 1)[0])
            masked = mask is not None and mask.shape == value.shape
            assert torch.equal(value, parent.state.optimizer[slot] * mask if masked else parent.state.optimizer[slot])
    committed, _ = ledger.load(ledger.record(requests[-1].key))
    assert_same_bits(committed, results[-1].state, {})
    steps = 4 * len(requests) * 6
    assert {float(value) for slot, value in committed.optimizer.items() if slot.endswith("step")} == {steps}


@pytest.mark.parametrize(
    "technique", [FineTuning(1), LearningRateRewinding(1), WeightRewinding(), RandomReinitialisation()], ids=str
)
def test_every_technique_prunes_by_what_its_parent_ended_with(technique, ledger):
    requests, results = all_requests(dataclasses.replace(tiny.EXPERIMENT, technique=technique), ledger)
    for request, parent, earlier in zip(requests[1:], results, requests, strict=False):
        weights = {name: parent.state.model[name] for name in request.structure.tensors()}
        wanted = prune_globally(weights, request.density, masks=earlier.structure.tensors() or None)
        assert all(torch.equal(mask, wanted[name]) for name, mask in request.structure.tensors().items())


def all_requests(experiment, ledger):
    """The requests and results of a whole path."""
    problem, data = load_problem(experiment, None)
    driver, trainer, requests, results = Driver(experiment, ledger, problem), Trainer(experiment, data), [], []
    while (request := driver.next_work()) is not None:
        requests.append(request)
        results.append(trainer.do(request))
        driver.finish(request, results[-1])
    assert [request.round for request in requests] == list(range(len(experiment.densities())))
    return requests, results


def test_an_adaptive_restart_begins_at_the_rate_that_its_pruning_asks_for(ledger):
    """In a real path, from the weights themselves."""
    technique = AdaptiveLinearRestart(1)
    requests, results = all_requests(dataclasses.replace(tiny.EXPERIMENT, technique=technique), ledger)
    seen = []
    for request, parent in zip(requests[1:], results, strict=False):
        before = torch.cat([parent.state.model[name].flatten() for name in request.structure.tensors()]).double()
        gone = torch.cat(
            [parent.state.model[name][~mask] for name, mask in request.structure.tensors().items()]
        ).double()
        fraction = int((gone != 0).sum()) / int((before != 0).sum())
        change = float(gone.norm() / before.norm()) / fraction**0.5
        assert fraction == pytest.approx(0.3, abs=0.02)
        seen.append(request.schedule.lr_at(0.1, 4))
        assert seen[-1] == pytest.approx(0.05 * min(max(change, 1 / 4), 1))
    assert len(set(seen)) == len(seen)


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
    while (request := driver.next_work()) is not None:
        result = trainer.train(request)
        for name, mask in request.structure.tensors().items():
            assert not result.state.model[name][~mask].any()
        seen.append(request)
        driver.finish(request, result)
    assert [request.start for request in seen] == [None] * 4
    weights = [start.model["0.weight"] for start in starts]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


@pytest.mark.parametrize("finished", [1, 2])
def test_random_reinitialisation_follows_from_the_seed(finished, tmp_path):
    experiment = dataclasses.replace(
        tiny.EXPERIMENT, technique=RandomReinitialisation(), path=Geometric(remove=0.5, rounds=2)
    )
    whole = run(experiment, str(tmp_path / "whole"))

    def stop(record):
        if record.round == finished - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment, str(tmp_path / "stopped"), on_round=stop)
    torch.rand(7)  # whatever else draws in the process
    assert [blobs(record) for record in run(experiment, str(tmp_path / "stopped"))] == [blobs(r) for r in whole]
    other = run(dataclasses.replace(experiment, seed=1), str(tmp_path / "whole"))
    assert blobs(other[1]) != blobs(whole[1])


def test_techniques_end_differently_and_share_the_dense_round(tmp_path):
    techniques = [FineTuning(), LearningRateRewinding(), WeightRewinding(2), WeightRewinding(),
                  LowRateWeightRewinding(2), RandomReinitialisation(), ScaledRestart(2), CosineRestart(2),
                  LinearRestart(2), AdaptiveLinearRestart(2)]  # fmt: skip
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


def test_a_replay_by_another_number_of_workers_is_refused(tmp_path):
    """They would add in another order: the network would be rewound to bits that the dense run never had."""
    run(TINY, str(tmp_path))  # needs no snapshot, keeps none
    problem, data = load_problem(TINY)
    rewinding = dataclasses.replace(TINY, technique=WeightRewinding(2))
    replay = Driver(rewinding, Ledger(open_store(str(tmp_path))), problem).next_work()
    assert isinstance(replay, Snapshot)
    assert replay.workers == 1
    with pytest.raises(ConfigError, match=r"trained by 2 worker\(s\) .* after epoch 2; a replay by 1 .* --workers 2"):
        Trainer(rewinding, data).do(dataclasses.replace(replay, workers=2))
