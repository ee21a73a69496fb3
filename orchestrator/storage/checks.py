"""A record whose sha256 is right may still hold anything: storage is not trusted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DamagedError

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Record

METRICS = ("train_loss", "val_accuracy", "test_accuracy")
PER_EPOCH = ("train_loss", "val_accuracy")
MOST = 1e100  # of any number
DEPTH = 32


def check(record: Record) -> Record:
    """`record`, if it holds what its fields promise. Raises DamagedError, naming its file and what is wrong."""
    wrong = _wrong(record)
    if wrong:
        raise DamagedError(
            f"rounds/{record.key}/record.json has {wrong}: restore it, or delete its folder to have the round "
            "trained again"
        )
    return record


def _wrong(record: Record) -> str | None:
    value: Any = record  # its types are a promise that storage need not have kept
    for name in ("key", "experiment", "technique"):
        if not isinstance(getattr(value, name), str):
            return f"no text as its {name}"
    if not (value.parent is None or isinstance(value.parent, str)):
        return "no text as its parent"
    for name in ("round", "kept", "prunable", "seed", "epochs", "attempts", "workers"):
        if not _whole(getattr(value, name)):
            return f"no whole number of 0 or more as its {name}"
    if not (_number(value.density) and 0 < value.density <= 1):
        return "a density that is not in (0, 1]"
    if not 1 <= value.kept <= value.prunable:
        return f"{value.kept} of {value.prunable} weights kept"
    for blob in value.blobs.values():
        if not (_whole(blob.bytes) and isinstance(blob.sha256, str) and re.fullmatch("[0-9a-f]{64}", blob.sha256)):
            return "no sha256 or no number of bytes of a blob"
    if not (_number(value.seconds) and _number(value.images_per_second)):
        return "no number as its seconds or images_per_second"
    if not (value.gap_seconds is None or _number(value.gap_seconds)):
        return "no number as its gap_seconds"
    if not _history([value.metrics], METRICS):
        return f"metrics other than {', '.join(METRICS)}"
    if not _history(value.history, PER_EPOCH):
        return "a history that is not numbers by epoch"
    if not _layers(value.layers):
        return "layers that are not (kept, all) by name"
    if not (_layers(value.unpruned) and _whole(value.weights)):
        return "unpruned weights that are not (kept, all) by name"
    if not (value.channels is None or isinstance(value.channels, dict)):
        return "channels that are neither absent nor a configuration"
    if not (isinstance(value.settings, dict) and isinstance(value.dead_layers, list)):
        return "no settings or no list of dead layers"
    if not _shallow(value.settings):
        return f"settings nested deeper than {DEPTH}"
    return None


# A long search has millions of these numbers: each line below looks at all of them at once.


def _history(epochs: Any, names: tuple[str, ...]) -> bool:
    try:
        numbers = [epoch[name] for epoch in epochs for name in names]
        return isinstance(epochs, list) and set(map(type, numbers)) <= {int, float} and all(map(_small, numbers))
    except (TypeError, KeyError, IndexError, OverflowError):
        return False


def _layers(layers: Any) -> bool:
    if not isinstance(layers, dict) or not set(map(type, layers.values())) <= {list}:
        return False
    numbers = [number for counts in layers.values() for number in counts]
    return (
        set(map(len, layers.values())) <= {2}
        and set(map(type, numbers)) <= {int}
        and min(numbers, default=0) >= 0
        and all(kept <= weights for kept, weights in layers.values())
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and _small(value)


def _small(value: float) -> bool:
    """Whether sums and squares of such numbers stay finite."""
    return -MOST < value < MOST  # False for NaN


def _shallow(value: Any, depth: int = DEPTH) -> bool:
    """Whether lists and dicts in `value` lie at most `depth` deep in each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_shallow(item, depth - 1) for item in inner)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
