"""Schedules are pure functions of the place in training; a rewound round's rates are the original's tail."""

import dataclasses
import itertools
import math

import pytest

from orchestrator.errors import ConfigError
from orchestrator.schedules import Constant, Cosine, Linear, OfLength, RateRange, Rescaled, Squeezed, StepDecay
from orchestrator.training.optimizer import SGD, AdamW

CIFAR = StepDecay(0.1, drops=(91, 136))
IMAGENET = StepDecay(0.4, drops=(30, 60, 80), warmup_epochs=5)


@pytest.mark.parametrize(
    ("schedule", "epochs", "epoch", "rate"),
    [
        (CIFAR, 182, 0, 0.1),
        (CIFAR, 182, 90.999, 0.1),
        (CIFAR, 182, 91, 0.01),
        (CIFAR, 182, 136, 0.001),
        (CIFAR, 182, 181.99, 0.001),
        (IMAGENET, 90, 0, 0.0),
        (IMAGENET, 90, 2.5, 0.2),
        (IMAGENET, 90, 5, 0.4),
        (IMAGENET, 90, 30, 0.04),
        (IMAGENET, 90, 60, 0.004),
        (IMAGENET, 90, 80, 0.0004),
        (Cosine(1.0), 10, 0, 1.0),
        (Cosine(1.0), 10, 5, 0.5),
        (Cosine(1.0), 10, 10, 0.0),
        (Cosine(1.0, warmup_epochs=2, final=0.2), 10, 1, 0.5),
        (Cosine(1.0, warmup_epochs=2, final=0.2), 10, 6, 0.6),
        (Cosine(1.0, warmup_epochs=2, final=0.2), 10, 10, 0.2),
        (Constant(0.3), 10, 7.7, 0.3),
        (Linear(1.0), 10, 0, 1.0),
        (Linear(1.0), 10, 2.5, 0.75),
        (Linear(1.0, warmup_epochs=2), 10, 1, 0.5),
        (Linear(1.0, warmup_epochs=2), 10, 4, 0.75),
        (Linear(1.0, warmup_epochs=2), 10, 10, 0.0),
        (OfLength(Linear(1.0), 4), 10, 1, 0.75),
        # Of the 90 epochs, of which 5 are warm-up, 10 a squeezed epoch; its own warm-up comes before.
        (Squeezed(IMAGENET, 90, 1.0), 10, 0.5, 0.2),
        (Squeezed(IMAGENET, 90, 1.0), 10, 1, 0.4),
        (Squeezed(IMAGENET, 90, 1.0), 10, 1.2, 0.4),
        (Squeezed(IMAGENET, 90, 1.0), 10, 3.99, 0.4),
        (Squeezed(IMAGENET, 90, 1.0), 10, 4, 0.04),
        (Squeezed(IMAGENET, 90, 1.0), 10, 7, 0.004),
        (Squeezed(IMAGENET, 90, 1.0), 10, 9, 0.0004),
        (Squeezed(CIFAR, 182), 182, 90.999, 0.1),
        (Squeezed(CIFAR, 182), 182, 91, 0.01),
        # 90 epochs in 2: warm-up until 1/9, drops at 2/3, 4/3 and 16/9; a quarter of every rate.
        (Rescaled(IMAGENET, 90, 0.25), 2, 0, 0.0),
        (Rescaled(IMAGENET, 90, 0.25), 2, 1 / 18, 0.05),
        (Rescaled(IMAGENET, 90, 0.25), 2, 1 / 9, 0.1),
        (Rescaled(IMAGENET, 90, 0.25), 2, 2 / 3, 0.01),
        (Rescaled(IMAGENET, 90, 0.25), 2, 4 / 3, 0.001),
        (Rescaled(IMAGENET, 90, 0.25), 2, 1.99, 0.0001),
        (Rescaled(CIFAR, 182), 182, 90.999, 0.1),
        (Rescaled(CIFAR, 182), 182, 91, 0.01),
    ],
)
def test_rate(schedule, epochs, epoch, rate):
    assert schedule.lr_at(epoch, epochs) == pytest.approx(rate, abs=1e-12)


@dataclasses.dataclass(frozen=True)
class Triangle:
    """A user's schedule with a warm-up of its own: up to 1 until epoch 4, down to 0.2 at epoch 8, then 0.3."""

    def lr_at(self, epoch, epochs):
        return epoch / 4 if epoch < 4 else max(1 - 0.2 * (epoch - 4), 0.2) if epoch < 8.5 else 0.3


@pytest.mark.parametrize(
    ("schedule", "epochs", "highest", "peak_epoch", "lowest"),
    [
        (CIFAR, 182, 0.1, 0, 0.001),
        (IMAGENET, 90, 0.4, 5, 0.0004),
        (Cosine(0.3, warmup_epochs=1.234, final=0.01), 9, 0.3, 1.234, 0.01),
        (Cosine(0.3), 9, 0.3, 0, 0.0),
        (Constant(0.3), 9, 0.3, 0, 0.3),
        (StepDecay(0.1, drops=(5,)), 5, 0.1, 0, 0.1),
        (Triangle(), 10, 1.0, 4, 0.2),
    ],
)
def test_the_range_of_a_schedule_leaves_out_its_warm_up(schedule, epochs, highest, peak_epoch, lowest):
    rates = RateRange.of(schedule, epochs)
    assert (rates.highest, rates.peak_epoch) == (highest, peak_epoch)
    assert rates.lowest == pytest.approx(lowest, abs=1e-12)


def test_drops_fall_on_the_first_step_of_their_epoch():
    steps = 390
    rates = [CIFAR.lr_at(step / steps, 182) for step in range(182 * steps)]
    assert [rates.index(pytest.approx(rate)) for rate in (0.1, 0.01, 0.001)] == [0, 91 * steps, 136 * steps]


def test_the_cosine_falls_at_every_step():
    rates = [Cosine(0.4).lr_at(step / 10, 9) for step in range(90)]
    assert all(a > b for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: StepDecay(0.0), "StepDecay.peak"),
        (lambda: StepDecay(math.nan), "StepDecay.peak"),
        (lambda: StepDecay(0.1, drops=(5, 3)), "StepDecay.drops must rise"),
        (lambda: StepDecay(0.1, drops=(0,)), r"StepDecay.drops\[0\]"),
        (lambda: StepDecay(0.1, factor=1.5), r"factor must be a number in \(0, 1\], got 1.5"),
        (lambda: StepDecay(0.1, warmup_epochs=-1), "warmup_epochs"),
        (lambda: Cosine(-1.0), "Cosine.peak"),
        (lambda: Cosine(0.1, final=0.2), "Cosine.final must be a finite number from 0 to 0.1, got 0.2: the peak is"),
        (lambda: Constant(math.inf), "Constant.rate"),
        (lambda: StepDecay(0.1, drops="late"), "StepDecay.drops must be a tuple, got 'late'"),
        (lambda: StepDecay(0.1, drops=(5, "9")), r"StepDecay.drops\[1\] must be a finite number above 0, got '9'"),
        (lambda: StepDecay(0.1, factor="half"), "StepDecay.factor must be a number in .* got 'half'"),
        (lambda: Linear(0.0), "Linear.peak"),
        (lambda: Linear(0.1, warmup_epochs=-1), "Linear.warmup_epochs"),
        (lambda: Squeezed(Constant(0.1), 9, warmup_epochs=None), "Squeezed.warmup_epochs"),
        (lambda: Cosine(0.1, final="0"), "Cosine.final"),
        (lambda: SGD(momentum="a"), "SGD.momentum must be a number in .* got 'a'"),
        (lambda: SGD(nesterov="no"), "SGD.nesterov must be True or False, got 'no'"),
        (lambda: SGD(weight_decay=None), "SGD.weight_decay must be a finite number of 0 or more, got None"),
        (lambda: AdamW(beta2=1.0), "AdamW.beta2 must be a number in .* got 1.0"),
        (lambda: AdamW(epsilon="tiny"), "AdamW.epsilon must be a finite number above 0, got 'tiny'"),
        (lambda: AdamW(decay_normalisation=1), "AdamW.decay_normalisation must be True or False, got 1"),
    ],
)
def test_invalid(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
