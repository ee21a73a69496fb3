"""The published results of the method, for experiments on the networks and data of the paper."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from orchestrator.record import Record

SOURCE = "Renda, Frankle and Carbin, ICLR 2020"
RESNET50_WEIGHTS = 25_502_912  # prunable, with ImageNet's 1,000 classes
TECHNIQUES = {
    "LearningRateRewinding": "learning_rate_rewinding",
    "FineTuning": "fine_tuning",
    "WeightRewinding": "weight_rewinding",
    "LowRateWeightRewinding": "weight_rewinding_low_lr",
}
NAMES = {
    "learning_rate_rewinding": "learning-rate rewinding",
    "fine_tuning": "fine-tuning",
    "weight_rewinding": "weight rewinding",
    "weight_rewinding_low_lr": "low-rate weight rewinding",
}


@dataclass(frozen=True)
class PublishedPoint:
    """Test accuracies of the trials at one density, as fractions."""

    density: float
    median: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Published:
    """What the paper found with one technique on one network. `full_length`: retrained as long as trained."""

    network: str
    technique: str
    full_length: bool
    points: tuple[PublishedPoint, ...]

    @property
    def label(self) -> str:
        return f"paper: {NAMES[self.technique]}, {'t = T' if self.full_length else 'best t'}"


def published(records: Iterable[Record]) -> Published | None:
    """The paper's results with the network, data and technique of an experiment's `records`, if it has them."""
    for record in records:
        settings = record.settings
        technique = settings.get("technique")
        network = None if record.channels else _network(record)  # the paper counts weights
        if network and isinstance(technique, dict) and isinstance(technique.get("type"), str):
            name = TECHNIQUES.get(technique["type"])
            return _all().get((network, name, _full_length(technique, settings))) if name else None
    return None


def _network(record: Record) -> str | None:
    """The paper's name of it: a CIFAR ResNet of the usual width on CIFAR-10, or ResNet-50 on ImageNet's classes.

    That a folder of images with a thousand classes is ImageNet, nothing can tell; the label says what was published.
    """
    model, options, data = (record.settings.get(name) for name in ("model", "model_options", "data"))
    if not isinstance(options, dict) or not isinstance(model, str):
        return None
    usual = options.get("width", 16) == 16 and options.get("shortcut", "projection") == "projection"
    if model in ("resnet20", "resnet56", "resnet110") and data == "cifar10" and usual:
        return model
    if (model, data, record.prunable) == ("torchvision:resnet50", "imagefolder", RESNET50_WEIGHTS):
        return "resnet50"
    return None


def _full_length(technique: dict[str, Any], settings: dict[str, Any]) -> bool:
    training = settings.get("training")
    trained = training.get("epochs") if isinstance(training, dict) else None
    return technique.get("epochs") in (None, trained)


@cache
def _all() -> dict[tuple[str, str, bool], Published]:
    text = resources.files("orchestrator.report").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    groups = itertools.groupby(rows, key=lambda row: (row["network"], row["technique"], row["length"]))
    found: dict[tuple[str, str, bool], Published] = {}
    for (network, technique, length), group in groups:
        points = tuple(
            PublishedPoint(
                float(row["density"]), float(row["test_median"]), float(row["test_min"]), float(row["test_max"]),
                int(row["trials"]),
            )
            for row in group
        )  # fmt: skip
        full = length == "full_length"
        found[network, technique, full] = Published(network, technique, full, points)
    return found
