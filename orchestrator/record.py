"""The record of a finished round: what it holds, and the checks of one that is read from storage."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from orchestrator.errors import DamagedError
from orchestrator.sealed import seal, sha256_of

FORMAT = 2  # of keys, records and blobs: raised whenever the same settings would give other bits
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
METRICS = ("train_loss", "val_accuracy", "test_accuracy")
PER_EPOCH = ("train_loss", "val_accuracy")
MAX_NUMBER = 1e100  # of any number
MAX_DEPTH = 32


@dataclass(frozen=True)
class Blob:
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished round.

    `metrics`: train_loss, val_accuracy, test_accuracy of the last epoch, accuracies as fractions; `history`: the
    same per epoch (without test). `layers`: kept and all weights of each prunable tensor; `unpruned`: those of every
    other weight tensor, which only a round that removes channels can make smaller. `epochs`: trained in this round.
    `channels`, of a round that removed some: the `unit` that the density counts, exact [kept, dense] counts of
    `parameters` and `macs`, and the configuration `kept`, which the model's tensors belong to. Two runs of the same
    settings may differ in `seconds`, `gap_seconds` (see `Trained`), `images_per_second`, `attempts`, `finished_at` and
    `versions`, and in nothing else.
    """

    key: str
    parent: str | None
    experiment: str
    round: int
    technique: str
    density: float
    kept: int
    prunable: int
    seed: int
    metrics: dict[str, float]
    history: list[dict[str, float]]
    layers: dict[str, list[int]]
    dead_layers: list[str]
    epochs: int
    seconds: float
    images_per_second: float
    attempts: int
    gap_seconds: float | None
    workers: int
    settings: dict[str, Any]
    versions: dict[str, str]
    finished_at: str
    channels: dict[str, Any] | None = None
    unpruned: dict[str, list[int]] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    format: int = FORMAT

    def file(self, name: str) -> str:
        """Where the blob `name` lies: `rounds/<key>/model-<16 digits of its sha256>.safetensors`."""
        stem, dot, suffix = name.partition(".")
        return f"rounds/{self.key}/{stem}-{self.blobs[name].sha256[:16]}{dot}{suffix}"

    @property
    def weights(self) -> int:
        """Weights of the dense network, prunable or not: all parameters of two or more dimensions."""
        return self.prunable + sum(size for _, size in self.unpruned.values())

    @property
    def weights_kept(self) -> int:
        """How many of `weights` this round keeps."""
        return self.kept + sum(kept for kept, _ in self.unpruned.values())

    @property
    def compression(self) -> float:
        """All weights over kept ones, prunable or not. Some selections keep more than `density` asks for."""
        return self.weights / self.weights_kept

    @property
    def model_bytes(self) -> int:
        """Size of the committed model."""
        return self.blobs[MODEL].bytes

    def to_json(self) -> bytes:
        """As stored: with the sha256 of everything else in it as its last field."""
        return seal(asdict(self))

    @staticmethod
    def from_json(text: bytes, file: str) -> Record:
        """Raises DamagedError, naming `file`, for what is not a record, or one of a newer format."""
        try:
            value = json.loads(text)
            if value["format"] > FORMAT:
                raise DamagedError(
                    f"{file} has format {value['format']}, this one reads up to {FORMAT}: update rewind-orchestrator"
                )
            if value.pop("sha256") != sha256_of(value):
                raise DamagedError(f"{file} is damaged: its content does not have the sha256 that stands in it")
            known = {f.name for f in fields(Record)}
            value["blobs"] = {name: Blob(**value["blobs"][name]) for name in (MODEL, OPTIMIZER)}
            record = Record(**{name: item for name, item in value.items() if name in known})
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", record.key):
                raise ValueError(f"key {record.key!r:.100}")
            return check_record(record)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamagedError(
                f"{file} is not a record ({type(error).__name__}: {error!s:.200}); "
                "restore it, or delete its folder to have the round trained again"
            ) from error


def check_record(record: Record) -> Record:
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
        return f"settings nested deeper than {MAX_DEPTH}"
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
    return -MAX_NUMBER < value < MAX_NUMBER  # False for NaN


def _shallow(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether lists and dicts in `value` lie at most `depth` deep in each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_shallow(item, depth - 1) for item in inner)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
