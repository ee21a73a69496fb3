"""Experiments of other kinds than labelled images, as users would give them: "any_task:characters" and others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import tiny
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.experiment import Experiment
from orchestrator.task import Regression, Segmentation, Tokens

PADDING = 0
VOCABULARY = 7


class Recurrent(nn.Module):
    """Predict the next character, or the class of each, with a GRU."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 6)
        self.rnn = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, vocabulary)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        states, _ = self.rnn(self.embedding(ids))
        return self.head(states if mask is None else states * mask.unsqueeze(-1))


def recurrent(vocabulary: int) -> nn.Module:
    return Recurrent(vocabulary)


def characters() -> Data:
    """A text of a period that nothing but the order of characters tells, in pieces of nine."""
    text = torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 1, 3, 2] * 60)
    pieces = text.unfold(0, 10, 5)
    parts = (pieces[:96], pieces[96:112], pieces[112:])
    splits = (TensorDataset(part[:, :-1].clone(), part[:, 1:].clone()) for part in parts)
    return Data(*splits, model_arguments={"vocabulary": VOCABULARY})


class Sequences(Dataset[tuple[Tensor, Tensor]]):
    """Sequences of different lengths; the target of each place is the larger of its character and the one before."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
        self.ids = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        ids = self.ids[index]
        before = torch.cat([ids[:1], ids[:-1]])
        return ids, torch.maximum(ids, before)


def padded(samples: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Pad a batch to the length of its longest sequence; targets by -100."""
    ids, targets = zip(*samples, strict=True)
    inputs = nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=PADDING)
    return {"ids": inputs, "mask": inputs != PADDING}, nn.utils.rnn.pad_sequence(list(targets), True, -100)


def sequences() -> Data:
    splits = (Sequences(count, seed) for count, seed in ((64, 0), (17, 1), (15, 2)))
    return Data(*splits, model_arguments={"vocabulary": VOCABULARY}, collate=padded)


def segmenter(classes: int, norm: bool = True) -> nn.Module:
    middle = nn.BatchNorm2d(6) if norm else nn.Identity()
    layers = (nn.Conv2d(1, 6, 3, padding=1), middle, nn.ReLU(), nn.Conv2d(6, classes, 3, padding=1))
    return nn.Sequential(*layers)


def regions() -> Data:
    """Images of 6 x 6 whose brightness tells the class of each pixel, or nothing at the border."""
    generator = torch.Generator().manual_seed(3)

    def split(count: int) -> TensorDataset:
        targets = torch.randint(0, 3, (count, 6, 6), generator=generator)
        images = targets.unsqueeze(1) + 0.4 * torch.randn((count, 1, 6, 6), generator=generator)
        targets[:, 0] = 255
        return TensorDataset(images, targets)

    return Data(split(64), split(16), split(17), model_arguments={"classes": 3})


class Largest(torchmetrics.Metric):
    """The largest absolute error, as a user's own class of torchmetrics."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("largest", torch.zeros(()), dist_reduce_fx="max")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.largest = torch.maximum(self.largest, (outputs - targets).abs().max())

    def compute(self) -> Tensor:
        return self.largest


@dataclass(frozen=True)
class Pinball:
    """Quantile regression, as a user's own task."""

    quantile: float = 0.7
    objective: ClassVar[str] = "largest"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = targets - outputs.squeeze(1)
        return torch.maximum(self.quantile * error, (self.quantile - 1) * error).sum()

    def count(self, targets: Tensor) -> None:
        return None

    def metrics(self) -> dict[str, Any]:
        return {"largest": Largest(), "mae": torchmetrics.MeanAbsoluteError()}

    def outputs(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1)


def table() -> Data:
    """Six columns, and a number that follows from them."""
    generator = torch.Generator().manual_seed(4)
    columns = torch.randn(120, 6, generator=generator)
    targets = columns[:, 0] - 0.5 * columns[:, 1] * columns[:, 2]
    parts = ((0, 80), (80, 100), (100, 120))
    return Data(*(TensorDataset(columns[first:last], targets[first:last]) for first, last in parts))


@dataclass(frozen=True)
class OwnNoise:
    """Add noise to the inputs, from torch's global generator instead of the numbers that are passed in."""

    draws: ClassVar[int] = 0

    def __call__(self, inputs: Tensor, targets: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        return inputs + 0.1 * torch.randn(inputs.shape), targets


def noisy_table() -> Data:
    """The table, with other noise at every look, also in evaluation."""
    return dataclasses.replace(table(), prepare=OwnNoise())


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1))


def _experiment(name: str, model: Callable[..., nn.Module], data: Callable[[], Data], task: Any) -> Experiment:
    made = {"model": f"any_task:{model.__name__}", "data": f"any_task:{data.__name__}", "task": task, "name": name}
    return dataclasses.replace(tiny.EXPERIMENT, **made)


EXPERIMENTS = {
    "images": tiny.EXPERIMENT,
    "characters": _experiment("characters", recurrent, characters, Tokens(unit="character")),
    "sequences": _experiment("sequences", recurrent, sequences, Tokens()),
    "segmentation": _experiment("segmentation", segmenter, regions, Segmentation()),
    "own task": _experiment("own-task", regressor, table, Pinball()),
    "regression": _experiment("regression", regressor, table, Regression()),
}
