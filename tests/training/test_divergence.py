"""A loss that is not finite ends a round at once, in a sentence that names the step and the way out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny
import torch
from test_masked_training import begin
from torch import Tensor

from orchestrator.data.batches import Batches
from orchestrator.data.load import load_data
from orchestrator.errors import DivergedError
from orchestrator.schedules import Constant
from orchestrator.training.divergence import check_epoch, check_start


@dataclass(frozen=True)
class Dividing:
    """Divide images by a number that is 0 in the third step."""

    draws: ClassVar[int] = 0
    steps: ClassVar[list[int]] = []

    def __call__(self, inputs: Tensor, targets: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        if u is not None:
            self.steps.append(0)
        return inputs * (float("nan") if u is not None and len(self.steps) == 3 else 1.0), targets


def test_a_loss_that_explodes_ends_the_round_at_its_step() -> None:
    trainer, work = begin(tiny.with_training(schedule=Constant(1e30)))
    with pytest.raises(
        DivergedError,
        match=r"round 3 \(density 0.4\) diverged: training loss (nan|inf) at step [23] of 6 in epoch 1 of 4; lower the "
        r"learning rate, add warm-up or set clip_norm",
    ):
        trainer.train(work)


def test_a_prepare_that_gives_nan_is_named() -> None:
    trainer, work = begin(tiny.EXPERIMENT)
    data = dataclasses.replace(load_data("tiny:data", {}), prepare=Dividing())
    trainer.batches = Batches(data, batch_size=16, device=torch.device("cpu"))
    with pytest.raises(
        DivergedError, match="training loss nan at step 3 of 6 in epoch 1 of 4; the inputs of this step hold NaN after"
    ):
        trainer.train(work)


def test_weights_that_start_with_nan_are_named() -> None:
    trainer, work = begin(tiny.EXPERIMENT)
    assert work.start is not None
    work.start.model["6.bias"][0] = float("nan")
    with pytest.raises(DivergedError, match="loss nan at step 1 of 6 in epoch 1 of 4; look at the task's loss, and at"):
        trainer.train(work)


NAN = float("nan")


@pytest.mark.parametrize("val", [{"loss": 0.5, "r2": NAN}, {"loss": 0.5, "r2": 0.1, "smallest_r2": NAN}])
def test_a_metric_that_is_not_finite_is_not_blamed_on_training(val: dict[str, float]) -> None:
    _, work = begin(tiny.EXPERIMENT)
    words = r"finite losses, but metrics that are not finite on the validation split: (smallest_)?r2 nan; look at how"
    with pytest.raises(DivergedError, match=r"^round 3 \(density 0.4\), epoch 1 of 4, has " + words):
        check_epoch(work, work.first_epoch, 0.5, val)
    with pytest.raises(DivergedError, match=r"^round 3 \(density 0.4\), which trains no epoch, has " + words):
        check_start(work, val)


@pytest.mark.parametrize(
    ("train_loss", "val"),
    [(0.5, {"loss": NAN, "r2": NAN}), (NAN, {"loss": 0.5, "r2": NAN}), (0.5, {"loss": 0.5, "smallest_loss": NAN})],
)
def test_a_loss_that_is_not_finite_is_blamed_on_training(train_loss: float, val: dict[str, float]) -> None:
    _, work = begin(tiny.EXPERIMENT)
    with pytest.raises(DivergedError, match=r"diverged: training loss .*; lower the learning rate"):
        check_epoch(work, work.first_epoch, train_loss, val)
