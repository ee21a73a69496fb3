"""Find the published results of a method for experiments on the networks and data of its paper."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from orchestrator.record import Record
from orchestrator.report.summary import options_of
from orchestrator.task import ACCURACY

SOURCE = "Renda, Frankle and Carbin, ICLR 2020"
RESNET50_WEIGHTS = 25_502_912  # prunable, with the 1,000 classes of ImageNet
TECHNIQUES = {
    "LearningRateRewinding": "learning_rate_rewinding",
    "FineTuning": "fine_tuning",
    "WeightRewinding": "weight_rewinding",
    "LowRateWeightRewinding": "weight_rewinding_low_lr",
}
LABELS = {
    "learning_rate_rewinding": "learning-rate rewinding",
    "fine_tuning": "fine-tuning",
    "weight_rewinding": "weight rewinding",
    "weight_rewinding_low_lr": "low-rate weight rewinding",
}


@dataclass(frozen=True)
class PublishedPoint:
    """Hold the test accuracies of the paper's trials at one density, as fractions."""

    density: float
    median: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class PublishedResult:
    """Hold what the paper found with one technique on one network.

    `full_length` means that each round was retrained for as many epochs as the dense network was trained.
    """

    network: str
    technique: str
    full_length: bool
    points: tuple[PublishedPoint, ...]

    @property
    def label(self) -> str:
        return f"paper: {LABELS[self.technique]}, {'t = T' if self.full_length else 'best t'}"


@dataclass(frozen=True)
class PublishedSearch:
    """Hold the top-1 accuracy on ImageNet, in per cent, of a network that a search found.

    It stands beside our rounds of `model` with so many `prunable` weights; `network` is the one that was published.
    """

    method: str
    model: str
    prunable: int
    network: str
    cost: str
    top1: float
    how: str
    source: str


_MOBILENET_V2 = ("AMC", "torchvision:mobilenet_v2", 3_469_760)
_MOBILENET_V3 = ("Once-for-All", "ofa:mobilenetv3", 7_613_280)
_RESNET50D = ("Once-for-All", "ofa:resnet50d", 48_037_856)
_AMC_FILES = "He et al., ECCV 2018; README of mit-han-lab/amc"
_AMC = "He et al., ECCV 2018"
_OFA = "Cai et al., ICLR 2020"
PUBLISHED_SEARCHES = (
    PublishedSearch(*_MOBILENET_V2, "MobileNetV2", "70 % of the MACs", 70.854, "channels", _AMC_FILES),
    PublishedSearch(*_MOBILENET_V2, "MobileNetV1", "50 % of the MACs", 70.494, "channels", _AMC_FILES),
    PublishedSearch("AMC", "torchvision:resnet50", RESNET50_WEIGHTS, "ResNet-50", "20 % of the weights", 76.11,
                    "single weights, four stages of 30 epochs", _AMC),
    PublishedSearch(*_MOBILENET_V3, "MobileNetV3 space", "230 million MACs", 76.0, "as in the supernet", _OFA),
    PublishedSearch(*_MOBILENET_V3, "MobileNetV3 space", "230 million MACs", 76.9, "fine-tuned", _OFA),
    PublishedSearch(*_MOBILENET_V3, "MobileNetV3 space", "230 million MACs", 72.4,
                    "without progressive shrinking", _OFA),
    PublishedSearch(*_MOBILENET_V3, "MobileNetV3 space", "595 million MACs", 80.0, "fine-tuned", _OFA),
    PublishedSearch(*_RESNET50D, "ResNet50D space", "4.1 billion MACs", 79.8, "", _OFA),
    PublishedSearch(*_RESNET50D, "ResNet50D space", "0.6 billion MACs", 75.0, "", _OFA),
)  # fmt: skip


def find_published_searches(records: Iterable[Record]) -> list[PublishedSearch]:
    """Return what was published of searches on the network of `records`, if it is one for ImageNet's 1,000 classes.

    Whether its data are ImageNet cannot be known, so the report says what was published.
    """
    about = {(each.settings.get("model"), each.prunable) for each in records
             if each.settings.get("data") == "imagefolder" and each.objective == ACCURACY and each.search}  # fmt: skip
    return [each for each in PUBLISHED_SEARCHES if (each.model, each.prunable) in about]


def find_published(records: Iterable[Record]) -> PublishedResult | None:
    """Return the paper's result for the network, data and technique of an experiment's `records`.

    Returns None if the paper has no such result. It has accuracies of classifiers, and no other objective.
    """
    for record in records:
        technique = options_of(record, "technique")
        counts_weights = record.channels is None  # as the paper does
        network = _paper_network(record) if counts_weights and record.objective == ACCURACY else None
        if network and isinstance(technique.get("type"), str):
            name = TECHNIQUES.get(technique["type"])
            full_length = technique.get("epochs") in (None, options_of(record, "training").get("epochs"))
            return read_published().get((network, name, full_length)) if name else None
    return None


@cache
def read_published() -> dict[tuple[str, str, bool], PublishedResult]:
    """Return all published results, by network, technique and whether they are of full length."""
    text = resources.files("orchestrator.report").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    groups = itertools.groupby(rows, key=lambda row: (row["network"], row["technique"], row["length"]))
    results: dict[tuple[str, str, bool], PublishedResult] = {}
    for (network, technique, length), group in groups:
        points = tuple(
            PublishedPoint(
                float(row["density"]), float(row["test_median"]), float(row["test_min"]), float(row["test_max"]),
                int(row["trials"]),
            )
            for row in group
        )  # fmt: skip
        full_length = length == "full_length"
        results[network, technique, full_length] = PublishedResult(network, technique, full_length, points)
    return results


def _paper_network(record: Record) -> str | None:
    """Return the paper's name for the network of `record`; None if the paper does not have it.

    These are the CIFAR ResNets of the usual width on CIFAR-10, and ResNet-50 on an `imagefolder` with 1,000 classes.
    Whether that folder is ImageNet cannot be known, so the report's label says what was published.
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
