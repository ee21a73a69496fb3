"""Define retraining techniques: where a round's weights and its place in the schedule come from.

Each is a small dataclass with `start(dense, parent)`; a new technique needs only a new class. T is the epochs of the
dense run, t those of retraining, and dense@e the dense run's state after epoch e.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.schedules import Constant, Cosine, Linear, OfLength, RateRange, Schedule, Squeezed, sampled_rates
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.config import TrainingConfig
from orchestrator.validate import one_of, whole

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class FinishedRound(Protocol):
    """A finished round, from which a technique may start."""

    @property
    def training(self) -> TrainingConfig: ...

    def state(self) -> TrainState:
        """Return the final weights, buffers and optimizer state (already masked) in new dictionaries."""
        ...

    def snapshot(self, epoch: int) -> TrainState:
        """Return the state after `epoch` epochs; only of the dense round, for the epoch that `rewinds_to` returns."""
        ...


@dataclass(frozen=True)
class Start:
    """The start of a round: its state, which the driver masks, and its place in the dense run's schedule.

    A state of None is a new initialisation, different in every round.
    """

    state: TrainState | None
    schedule: Schedule
    first_epoch: int
    epochs: int


@dataclass(frozen=True)
class Removed:
    """The parent's prunable weights before and after pruning, by name. Removed ones are 0 or missing in `after`."""

    before: Tensors
    after: Tensors

    def relative_change(self) -> float:
        """Return the relative norm of the removed weights over the root of the fraction removed; 0 if it is 0.

        A weight of 0 before pruning is ignored, because it was removed earlier.
        """
        norm, count = _norm_and_count(self.before)
        norm_left, count_left = _norm_and_count({n: self.after[n] for n in self.before if n in self.after})
        if not (norm > norm_left and count > count_left):
            return 0.0
        return math.sqrt((1 - (norm_left / norm) ** 2) / (1 - count_left / count))


def _norm_and_count(tensors: Tensors) -> tuple[float, int]:
    """Return the Euclidean norm of all `tensors` together, and the number of their nonzero elements."""
    norms = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors.values()]
    return math.hypot(*norms), sum(int(torch.count_nonzero(tensor)) for tensor in tensors.values())


class RetrainingTechnique(Protocol):
    """Base class for your own techniques: write a frozen dataclass with `start`, and other methods if needed."""

    def check(self, training: TrainingConfig) -> None:
        """Raise ConfigError if the technique does not work with this `training`."""
        return

    def rewinds_to(self, training: TrainingConfig) -> int | None:
        """Return the epoch of the dense run whose snapshot `start` reads (0: the initialisation), or None."""
        return None

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start: ...

    def start_after(self, removed: Removed, dense: FinishedRound, parent: FinishedRound) -> Start:
        """Return where the round starts. Override it if that depends on the weights removed from the parent."""
        return self.start(dense, parent)


@dataclass(frozen=True)
class _FromParentWeights(RetrainingTechnique):
    """Base class of techniques that continue from the parent's final weights, for `epochs` epochs.

    `epochs` is the papers' t; None means all T of the dense run. `optimizer_state="kept"` continues with the parent's
    masked optimizer state, "fresh" with an empty one.
    """

    epochs: int | None = None
    optimizer_state: Literal["kept", "fresh"] = "kept"

    def check(self, training: TrainingConfig) -> None:
        check_epochs(self, self.epochs, training)
        one_of(f"{type(self).__name__}.optimizer_state", self.optimizer_state, ["kept", "fresh"])

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        """Return a start `epochs` epochs before the end of the original schedule."""
        state = parent.state()
        if self.optimizer_state == "fresh":
            state = TrainState(state.model)
        epochs = self.epochs or dense.training.epochs
        return Start(state, dense.training.schedule, dense.training.epochs - epochs, epochs)


@dataclass(frozen=True)
class LearningRateRewinding(_FromParentWeights):
    """Keep the trained weights, rewind the learning rate by `epochs` (Renda, Frankle, Carbin 2020, section 3).

    `epochs=None` rewinds all T epochs of the dense run, warm-up included. The optimizer state is kept as in the
    authors' code.
    """

    def warning(self, training: TrainingConfig) -> str | None:
        """Return a sentence if a round would always stay below a tenth of the schedule's highest rate, else None."""
        rates, first = sampled_rates(training.schedule, training.epochs), training.epochs - (self.epochs or 0)
        highest = max(rate for _, rate in rates)
        last_high = max(epoch for epoch, rate in rates if rate >= highest / 10)
        if self.epochs is None or last_high >= first:
            return None
        return (
            f"{type(self).__name__}({self.epochs}) starts at a learning rate of "
            f"{training.schedule.lr_at(first, training.epochs):.3g}, under a tenth of the schedule's highest, "
            f"{highest:.3g}, so it does little more than fine-tune: give it "
            f"{training.epochs - math.floor(last_high)} epochs or more, or use LinearRestart({self.epochs})"
        )


@dataclass(frozen=True)
class FineTuning(_FromParentWeights):
    """Keep the trained weights and train `epochs` more at the dense run's last learning rate (Han et al. 2015)."""

    def check(self, training: TrainingConfig) -> None:
        super().check(training)
        last_rate(training)

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        return dataclasses.replace(super().start(dense, parent), schedule=last_rate(dense.training))


@dataclass(frozen=True)
class _Restart(_FromParentWeights):
    """Base class of restarts: their schedule has length t = `epochs`, and begins with a warm-up of t/10 epochs.

    The warm-up is linear from 0, like that of the built-in schedules. "Highest" and "lowest" are the rates of the
    original schedule without its warm-up (see `RateRange`).
    """

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        start = super().start(dense, parent)
        schedule = OfLength(self.schedule(dense.training, warmup_epochs=0.1 * start.epochs), start.epochs)
        return dataclasses.replace(start, schedule=schedule, first_epoch=0)

    def schedule(self, training: TrainingConfig, warmup_epochs: float) -> Schedule:
        """Return the schedule of a round that begins with this warm-up."""
        raise NotImplementedError


@dataclass(frozen=True)
class ScaledRestart(_Restart):
    """SLR: keep the trained weights; squeeze the whole original schedule into `epochs` epochs.

    Le and Hua, ICLR 2021, "Network Pruning That Matters"; as defined by Zimmer, Spiegel and Pokutta, ICLR 2023,
    "How I Learned to Stop Worrying and Love Retraining": a warm-up to the highest rate takes the place of the original
    warm-up.
    """

    def schedule(self, training: TrainingConfig, warmup_epochs: float) -> Schedule:
        return Squeezed(training.schedule, training.epochs, warmup_epochs)


@dataclass(frozen=True)
class CosineRestart(_Restart):
    """CLR: keep the trained weights; half a cosine from the highest to the lowest rate of the original schedule.

    Le and Hua, ICLR 2021; as defined by Zimmer, Spiegel and Pokutta, ICLR 2023.
    """

    def schedule(self, training: TrainingConfig, warmup_epochs: float) -> Schedule:
        rates = RateRange.of(training.schedule, training.epochs)
        return Cosine(rates.highest, warmup_epochs, rates.lowest)


@dataclass(frozen=True)
class LinearRestart(_Restart):
    """LLR: keep the trained weights; a straight line from the highest rate of the original schedule to 0.

    Zimmer, Spiegel and Pokutta, ICLR 2023.
    """

    def schedule(self, training: TrainingConfig, warmup_epochs: float) -> Schedule:
        return Linear(RateRange.of(training.schedule, training.epochs).highest, warmup_epochs)


@dataclass(frozen=True)
class AdaptiveLinearRestart(LinearRestart):
    """ALLR: as `LinearRestart`, but from a lower rate if pruning changed the network little.

    The line begins at clip(highest * d, highest * t/T, highest), with d the norm of the removed weights relative to
    that of all weights, divided by the square root of the fraction that was removed (Zimmer, Spiegel and Pokutta, ICLR
    2023, section 3). Norm and fraction are those of the parent's remaining prunable weights, so magnitude pruning has
    d <= 1. The authors' code also counts biases and normalisation in the norm of all weights.
    """

    def start_after(self, removed: Removed, dense: FinishedRound, parent: FinishedRound) -> Start:
        start, training = self.start(dense, parent), dense.training
        share = max(removed.relative_change(), start.epochs / training.epochs)
        peak = RateRange.of(training.schedule, training.epochs).highest * min(share, 1.0)
        return dataclasses.replace(start, schedule=OfLength(Linear(peak, 0.1 * start.epochs), start.epochs))


@dataclass(frozen=True)
class WeightRewinding(RetrainingTechnique):
    """Rewind weights, norm statistics, optimizer state and learning rate to dense@(T-t), t = `epochs`.

    Frankle, Dziugaite, Roy and Carbin 2019; Renda, Frankle, Carbin 2020, section 3. `epochs=None` is t = T, a rewind
    to the initialisation: the lottery ticket of Frankle and Carbin 2019.
    """

    epochs: int | None = None

    def check(self, training: TrainingConfig) -> None:
        check_epochs(self, self.epochs, training)

    def rewinds_to(self, training: TrainingConfig) -> int:
        return training.epochs - (self.epochs or training.epochs)

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        first = self.rewinds_to(dense.training)
        return Start(dense.snapshot(first), dense.training.schedule, first, dense.training.epochs - first)


@dataclass(frozen=True)
class LowRateWeightRewinding(WeightRewinding):
    """Control: weights rewound to dense@(T-t), but trained at the last learning rate."""

    def check(self, training: TrainingConfig) -> None:
        super().check(training)
        last_rate(training)

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        return dataclasses.replace(super().start(dense, parent), schedule=last_rate(dense.training))


@dataclass(frozen=True)
class RandomReinitialisation(RetrainingTechnique):
    """Control: keep the mask, draw new weights, train the whole schedule (Frankle and Carbin 2019, section 2)."""

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        return Start(None, dense.training.schedule, 0, dense.training.epochs)


def paper_techniques(rewind: int) -> dict[str, RetrainingTechnique]:
    """Return the techniques that Renda, Frankle and Carbin compare, and two controls, by name.

    Weights are rewound by `rewind` epochs, except in the lottery ticket.
    """
    return {
        "learning-rate-rewinding": LearningRateRewinding(),
        "fine-tuning": FineTuning(),
        "weight-rewinding": WeightRewinding(rewind),
        "lottery-ticket": WeightRewinding(),
        "low-rate-weight-rewinding": LowRateWeightRewinding(rewind),
        "random-reinitialisation": RandomReinitialisation(),
    }


def shortened(technique: RetrainingTechnique, before: int, after: int) -> RetrainingTechnique:
    """Return `technique` for a dense run of `after` epochs instead of `before`: its `epochs` shrink in proportion.

    They stay at least 1. If they were below `before`, they stay below `after` if possible, so that weights are still
    rewound to an epoch in the middle of the dense run. No other field changes.
    """
    changed: Any = technique  # a dataclass, but a protocol cannot require that
    epochs = getattr(technique, "epochs", None)
    if isinstance(epochs, int):
        longest = after if epochs >= before else after - 1
        changed = dataclasses.replace(changed, epochs=max(1, min(longest, round(epochs * after / before))))
    return cast(RetrainingTechnique, changed)


def last_rate(training: TrainingConfig) -> Constant:
    """Return a constant schedule with the learning rate at the beginning of the dense run's last epoch.

    At the end of that epoch, a schedule such as `Cosine` is almost 0. Raises ConfigError if the rate is 0 even at its
    beginning.
    """
    rate = training.schedule.lr_at(training.epochs - 1, training.epochs)
    if not rate > 0:
        raise ConfigError(
            f"the schedule's last epoch must begin at a learning rate above 0 for retraining, got {rate} at epoch "
            f"{training.epochs - 1} of {training.schedule}: shorten its warm-up or train for more epochs"
        )
    return Constant(rate)


def check_epochs(technique: RetrainingTechnique, epochs: int | None, training: TrainingConfig) -> None:
    """Raise ConfigError unless `epochs` is None or between 1 and the epochs of the dense run."""
    if epochs is not None:
        way_out = f"the dense run has {training.epochs} epochs"
        whole(f"{type(technique).__name__}.epochs", epochs, minimum=1, maximum=training.epochs, way_out=way_out)


def check_rewind(epoch: object, training: TrainingConfig, dense_epochs: int) -> None:
    """Raise ConfigError unless the dense round, of `dense_epochs` epochs, has a state after `epoch` epochs.

    The schedule must have at least one epoch after it.
    """
    way_out = f"the dense run has {training.epochs} epochs"
    if dense_epochs < training.epochs:
        trained = f"the dense round trains {dense_epochs} of the schedule's {training.epochs} epochs"
        way_out = f"{trained}, so raise dense_epochs or rewind further back"
    last = min(dense_epochs, training.epochs - 1)
    whole("an epoch to rewind to", epoch, minimum=0, maximum=last, way_out=way_out)
