"""A problem that trains in milliseconds, given by "tiny:model" and "tiny:data" as a user would give theirs."""

import dataclasses
import os
import time

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD


class Pause(nn.Module):
    """Sleep in training, so that a step takes about as long on any machine; PAUSE=SECONDS in the environment decides.

    With HOLD=FILE:STEPS in the environment it stands still in that step of its process, and from there on, while FILE
    is there: the training does not outrun what a test does meanwhile. A comma separates several.
    """

    steps = 0

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = float(os.environ.get("PAUSE", seconds))

    def forward(self, images):
        if self.training:
            time.sleep(self.seconds)
            Pause.steps += 1
            holds = [hold.rpartition(":") for hold in os.environ.get("HOLD", "").split(",") if hold]
            while any(Pause.steps >= int(steps) and os.path.exists(file) for file, _, steps in holds):
                time.sleep(0.02)
        return images


def paced(num_classes: int, input_shape: tuple[int, int, int], pause: float, **options) -> nn.Module:
    return nn.Sequential(Pause(pause), deeper(num_classes, input_shape, **options))


def model(num_classes: int, input_shape: tuple[int, int, int], norm: bool = True, dropout: float = 0.0) -> nn.Module:
    channels = input_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32, num_classes),
    )


def deeper(num_classes: int, input_shape: tuple[int, int, int], **options) -> nn.Module:
    """With a convolution of several channels in, whose weights lie otherwise in memory when channels come last."""
    first = nn.Conv2d(input_shape[0], 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), model(num_classes, (8, *input_shape[1:]), **options))


class Unused(nn.Module):
    """A model of which one layer takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(36, 3), nn.Linear(36, 3)

    def forward(self, images):
        return self.head(images.flatten(1))


def unused(num_classes: int) -> nn.Module:
    return Unused()


class Silent(nn.Module):
    """A model that returns nothing in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, images):
        return None if self.training else self.head(images.flatten(1))


def nothing_in_training(num_classes: int) -> nn.Module:
    return Silent()


def normed(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, num_classes), nn.BatchNorm1d(num_classes))


class Broken(Dataset):
    """A data set in which one sample cannot be read."""

    def __init__(self, whole: TensorDataset, index: int) -> None:
        self.whole, self.index = whole, index

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int):
        if index == self.index:
            raise OSError("this sample is broken")
        return self.whole[index]


def data(samples: int = 96, broken: int | None = None) -> Data:
    """Three classes of 6x6 images, told apart by where they are bright; noisy, so that no accuracy is 0 or 1."""
    generator = torch.Generator().manual_seed(5)

    def split(count: int) -> TensorDataset:
        labels = torch.arange(count) % 3
        images = torch.randn((count, 1, 6, 6), generator=generator)
        images[torch.arange(count), 0, 2 * labels, 2 * labels] += 2.5
        return TensorDataset(images, labels)

    train = split(samples) if broken is None else Broken(split(samples), broken)
    return image_data(train=train, val=split(30), test=split(31), num_classes=3, input_shape=(1, 6, 6))


EXPERIMENT = Experiment(
    name="tiny",
    model="tiny:model",
    data="tiny:data",
    training=TrainingConfig(
        epochs=4,
        batch_size=16,
        schedule=StepDecay(0.05, drops=(2, 3), warmup_epochs=1),
        optimizer=SGD(momentum=0.9, weight_decay=1e-3),
    ),
    path=Geometric(remove=0.3, rounds=3),
)
# For what must happen while a job runs: 30 epochs last 4 s on a fast machine, longer on a busy one.
PACED = dataclasses.replace(EXPERIMENT, model="tiny:paced", model_options={"pause": 0.02})


def with_training(experiment: Experiment = EXPERIMENT, **changes: object) -> Experiment:
    return dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, **changes))


def measured(accuracy: float, loss: float = 1.0) -> dict[str, float]:
    """Return what a classifier's evaluation gives."""
    return {"loss": loss, "accuracy": accuracy}
