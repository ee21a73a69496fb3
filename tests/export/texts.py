"""Networks that read and write other things than labelled images, with their data and tasks, as users give theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.experiment import Experiment
from orchestrator.pruning import Channels, OneShot
from orchestrator.schedules import Constant
from orchestrator.task import Tokens
from orchestrator.task_metrics import MeanAbsoluteError
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW

VOCABULARY = 11
PADDING = -100


class Texts(Dataset):
    """Sequences of 5 to 9 tokens that count up modulo 10, by steps of 1 or 3."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.texts = []
        for _ in range(count):
            length, first, step = (
                int(torch.randint(*ends, (), generator=generator)) for ends in ((5, 10), (0, 10), (0, 2))
            )
            self.texts.append((first + (1 + 2 * step) * torch.arange(length)) % 10 + 1)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.texts[index]


def padded(texts: list[torch.Tensor]) -> tuple[Any, torch.Tensor]:
    """Every token is to be told from those before it."""
    rows = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    ids = rows[:, :-1]
    return {"ids": ids, "mask": (ids > 0).float()}, torch.where(rows[:, 1:] > 0, rows[:, 1:], PADDING)


def texts() -> Data:
    return Data(Texts(64, 0), Texts(16, 1), Texts(21, 2), model_arguments={"vocabulary": VOCABULARY}, collate=padded)


class Recurrent(nn.Module):
    """The last state comes out beside the logits: the task reads the first of the two."""

    def __init__(self, vocabulary: int, kind: str) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, 8)
        self.memory = getattr(nn, kind)(8, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, vocabulary)

    def forward(self, ids, mask):
        outputs, state = self.memory(self.words(ids) * mask[..., None])
        return self.head(outputs), state


def recurrent(vocabulary: int, kind: str = "GRU") -> nn.Module:
    return Recurrent(vocabulary, kind)


class FeedForward(nn.Module):
    """A convolution over places, and layers over each place."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words, self.conv = nn.Embedding(vocabulary, 8), nn.Conv1d(8, 16, 3)
        self.wide, self.narrow, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, vocabulary)

    def forward(self, ids, mask):
        words = (self.words(ids) * mask[..., None]).transpose(1, 2)
        seen = self.conv(F.pad(words, (2, 0))).transpose(1, 2).relu()
        return {"logits": self.head(self.narrow(self.wide(seen).relu()).relu())}


def feed_forward(vocabulary: int) -> nn.Module:
    return FeedForward(vocabulary)


READ = Experiment(
    name="read",
    model="export.texts:recurrent",
    data="export.texts:texts",
    task=Tokens(ignore=PADDING, unit="character"),
    training=TrainingConfig(epochs=2, batch_size=16, schedule=Constant(0.01), optimizer=AdamW()),
    path=OneShot(0.5),
)
SMALLER = {"model": "export.texts:feed_forward", "selection": Channels(unit="parameters", round_to=4)}


# A task and a metric of a user's own: numbers with an uncertainty, from two inputs that are not named.


class Weighting:
    """Base class of how an error is weighted."""


@dataclass(frozen=True)
class Even(Weighting):
    factor: float = 1.0


@dataclass(frozen=True)
class Rising(Weighting):
    powers: tuple[int, ...] = (1, 2)
    inner: Even | None = None


@dataclass(frozen=True)
class Uncertain:
    """The negative log-likelihood of normal distributions, of which the network gives mean and log of the width."""

    weights: tuple[float, ...] = (1.0, 1.0)
    objective = "mae"

    def outputs(self, outputs):
        return outputs["mean"]

    def loss(self, outputs, targets):
        mean, width = outputs["mean"], outputs["width"]
        return (
            self.weights[0] * width + self.weights[1] * (targets - mean).square() / (2 * width.exp().square())
        ).sum()

    def count(self, targets):
        return None

    def metrics(self):
        return {"mae": MeanAbsoluteError()}


@dataclass(frozen=True)
class Weighted(Uncertain):
    """The same with parts that are dataclasses: of a named class, of a base class, and in a tuple."""

    even: Even = Even()
    weighting: Weighting = Even()
    more: tuple[Even | Rising, ...] = ()
    unclear: Any = None


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, left, right):
        both = self.head(torch.tanh(self.left(left) + self.right(right))).unbind(1)
        return {"width": both[1], "mean": both[0]}


def two_inputs() -> nn.Module:
    return TwoInputs()


def paired(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[Any, torch.Tensor]:
    rows, targets = (torch.stack(column) for column in zip(*samples, strict=True))
    return (rows[:, :4], rows[:, 4:]), targets


def pairs() -> Data:
    rows = torch.randn(80, 7, generator=torch.Generator().manual_seed(0))
    targets = rows[:, 0] - rows[:, 5]
    splits = [TensorDataset(rows[part], targets[part]) for part in (slice(0, 40), slice(40, 50), slice(50, 80))]
    return Data(*splits, collate=paired)


ESTIMATE = Experiment(
    name="estimate",
    model="export.texts:two_inputs",
    data="export.texts:pairs",
    task=Uncertain(weights=(1.0, 0.5)),
    training=TrainingConfig(epochs=2, batch_size=20, schedule=Constant(0.01), optimizer=AdamW()),
    path=OneShot(0.5),
)
