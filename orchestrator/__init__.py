"""Make trained networks small: prune, rewind the learning rate, retrain, repeat.

What is named here is imported when first used: `import orchestrator` alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.amc.amc_selection import Amc
    from orchestrator.data.dataset import Data
    from orchestrator.data.image_data import image_data
    from orchestrator.experiment import Experiment
    from orchestrator.own_loop import hold, prune
    from orchestrator.pruning import (
        Channels,
        Cubic,
        Explicit,
        Filters,
        Geometric,
        Global,
        Layerwise,
        NofM,
        OneShot,
        prune_globally,
    )
    from orchestrator.runner import run
    from orchestrator.schedules import Constant, Cosine, StepDecay
    from orchestrator.stored_networks import load
    from orchestrator.task import Classification, Regression, Segmentation, Tokens
    from orchestrator.techniques import (
        AdaptiveLinearRestart,
        CosineRestart,
        FineTuning,
        LearningRateRewinding,
        LinearRestart,
        ScaledRestart,
        WeightRewinding,
    )
    from orchestrator.torch_schedulers import rewind
    from orchestrator.training.config import TrainingConfig
    from orchestrator.training.distillation import Distillation
    from orchestrator.training.optimizer import SGD, AdamW

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "AdamW",
    "AdaptiveLinearRestart",
    "Amc",
    "Channels",
    "Classification",
    "Constant",
    "Cosine",
    "CosineRestart",
    "Cubic",
    "Data",
    "Distillation",
    "Experiment",
    "Explicit",
    "Filters",
    "FineTuning",
    "Geometric",
    "Global",
    "Layerwise",
    "LearningRateRewinding",
    "LinearRestart",
    "NofM",
    "OneShot",
    "Regression",
    "ScaledRestart",
    "Segmentation",
    "StepDecay",
    "Tokens",
    "TrainingConfig",
    "WeightRewinding",
    "hold",
    "image_data",
    "load",
    "prune",
    "prune_globally",
    "rewind",
    "run",
]
_PLACES = {
    "amc.amc_selection": ("Amc",),
    "data.dataset": ("Data",),
    "data.image_data": ("image_data",),
    "experiment": ("Experiment",),
    "own_loop": ("hold", "prune"),
    "pruning": (
        "Channels",
        "Cubic",
        "Explicit",
        "Filters",
        "Geometric",
        "Global",
        "Layerwise",
        "NofM",
        "OneShot",
        "prune_globally",
    ),
    "runner": ("run",),
    "stored_networks": ("load",),
    "schedules": ("Constant", "Cosine", "StepDecay"),
    "task": ("Classification", "Regression", "Segmentation", "Tokens"),
    "techniques": (
        "AdaptiveLinearRestart",
        "CosineRestart",
        "FineTuning",
        "LearningRateRewinding",
        "LinearRestart",
        "ScaledRestart",
        "WeightRewinding",
    ),
    "torch_schedulers": ("rewind",),
    "training.config": ("TrainingConfig",),
    "training.distillation": ("Distillation",),
    "training.optimizer": ("SGD", "AdamW"),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
