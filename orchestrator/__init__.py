"""Make trained networks small: prune, rewind the learning rate, retrain, repeat.

What is named here is imported when first used: `import orchestrator` alone loads no torch. More selections, patterns,
paths, schedules and techniques are in `orchestrator.pruning`, `orchestrator.schedules` and `orchestrator.techniques`,
and `Distillation` is in `orchestrator.training.distillation`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from orchestrator.record import Record as _Record

if TYPE_CHECKING:
    from orchestrator.amc.amc_selection import Amc
    from orchestrator.data.dataset import Data
    from orchestrator.data.image_data import image_data
    from orchestrator.experiment import Experiment
    from orchestrator.own_loop import hold, prune
    from orchestrator.pruning import Channels, Geometric, Global
    from orchestrator.runner import run
    from orchestrator.schedules import Cosine
    from orchestrator.stored_networks import load
    from orchestrator.task import Classification, Regression, Segmentation, Tokens
    from orchestrator.techniques import FineTuning, LearningRateRewinding, WeightRewinding
    from orchestrator.torch_schedulers import rewind
    from orchestrator.training.config import TrainingConfig
    from orchestrator.training.optimizer import SGD, AdamW

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "AdamW",
    "Amc",
    "Channels",
    "Classification",
    "Cosine",
    "Data",
    "Experiment",
    "FineTuning",
    "Geometric",
    "Global",
    "LearningRateRewinding",
    "Regression",
    "Segmentation",
    "Tokens",
    "TrainingConfig",
    "WeightRewinding",
    "hold",
    "image_data",
    "load",
    "prune",
    "rewind",
    "run",
]
_MODULES = ("pruning", "schedules", "task", "techniques")  # found as attributes, without an import of their own
_PLACES = {
    "amc.amc_selection": ("Amc",),
    "data.dataset": ("Data",),
    "data.image_data": ("image_data",),
    "experiment": ("Experiment",),
    "own_loop": ("hold", "prune"),
    "pruning": ("Channels", "Geometric", "Global"),
    "runner": ("run",),
    "schedules": ("Cosine",),
    "stored_networks": ("load",),
    "task": ("Classification", "Regression", "Segmentation", "Tokens"),
    "techniques": ("FineTuning", "LearningRateRewinding", "WeightRewinding"),
    "torch_schedulers": ("rewind",),
    "training.config": ("TrainingConfig",),
    "training.optimizer": ("SGD", "AdamW"),
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load(*given: Any, **options: Any) -> Any:
    return importlib.import_module(f"{__name__}.stored_networks").load(*given, **options)


_Record.loader = staticmethod(_load)  # records cannot import the loader, which imports them


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
