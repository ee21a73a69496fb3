"""What passes between the driver and whoever trains: a request for one round, and its result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from orchestrator.pruning.channels.graph import Kept
from orchestrator.schedules import Schedule

Tensors = dict[str, Tensor]


def raw_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor on the CPU as bytes, in logical order."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


@dataclass
class TrainState:
    """Everything that training changes, on the CPU, whole tensors.

    `model`: parameters and persistent buffers by their name in the module (shared ones once, by their first name).
    `optimizer`: "<parameter>/<slot>", such as "conv1.weight/momentum_buffer"; empty for a fresh optimizer.
    """

    model: Tensors
    optimizer: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class RoundRequest:
    """One (re)training that the driver asks for.

    `first_epoch` is the place in the dense run's schedule where the round begins, `epochs` how many it runs;
    `start` None is a fresh initialisation that follows from `seed` and `round`. `channels`: the configuration of the
    smaller network to train, whose tensors `start` holds ({}: the dense one, which `masks` may cut). `keep`: epochs of
    the dense run after which the result must hold a snapshot.

    `wants` other than "round" is an errand, whose key is the round's with a suffix and whose result's state is the
    answer: "snapshot", the state after `epochs` epochs of a dense run that kept none (no difference in training);
    "gradients", those of the training loss at `start`, under the names of the model's tensors. `workers`: as many must
    train it, since another number would give other bits; None: any number may. `constants`: digests of tensors that the
    dense network must begin with (see `constants_of`).
    """

    key: str
    parent: str | None
    round: int
    rounds: int
    density: float
    kept: int
    prunable: int
    seed: int
    schedule: Schedule
    first_epoch: int
    epochs: int
    start: TrainState | None
    masks: Tensors
    channels: Kept = field(default_factory=dict)
    keep: tuple[int, ...] = ()
    wants: Literal["round", "snapshot", "gradients"] = "round"
    workers: int | None = None
    constants: Mapping[str, str] = field(default_factory=dict)

    def origin(self) -> str:
        """A digest of the weights and masks that the round starts from.

        A round's key says what they should be; a parent that was lost and trained again elsewhere may have other bits.
        """
        digest = hashlib.sha256()
        for tensors in (self.start.model if self.start else {}, self.masks):
            for name, tensor in sorted(tensors.items()):  # storage gives them in another order
                digest.update(name.encode())
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch of a round: loss per training sample, accuracies as fractions, learning rate at its first step."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class RoundResult:
    """What training a request gave.

    `seconds`: time spent on it, over the attempts that it goes back to. `gap_seconds`: from the last training step of
    the round before to the first one of this, None where these workers trained no round before. `snapshots`: the state
    after each epoch of the request's `keep` that this attempt passed.
    """

    state: TrainState
    history: tuple[EpochMetrics, ...]
    test_accuracy: float
    seconds: float
    images_per_second: float
    attempts: int = 1
    gap_seconds: float | None = None
    workers: int = 1
    snapshots: Mapping[int, TrainState] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """A round in its middle: enough to go on with the same bits, after `epochs_done` epochs and `steps_done` steps.

    `parts` (workers, n), float64: in the middle of an epoch, what each worker has of its own: running statistics, then
    the sum of its losses. `origin`: of the request (see `RoundRequest.origin`).
    """

    key: str
    epochs_done: int
    state: TrainState
    history: tuple[EpochMetrics, ...]
    seconds: float
    attempts: int
    steps_done: int = 0
    parts: Tensor | None = None
    origin: str = ""

    @property
    def place(self) -> tuple[int, int]:
        return self.epochs_done, self.steps_done
