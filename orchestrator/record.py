"""Define the record of a finished round, and check one that is read from storage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from orchestrator.decode import Count, Rule, decode, format_of, parse
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.objective import Objective
from orchestrator.sealed import seal, without_seal

if TYPE_CHECKING:
    from torch import nn

FORMAT = 2  # of keys, records and blobs: raised whenever the same settings would give other bits
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"

Key = Annotated[str, Rule("a key", re.compile(r"[A-Za-z0-9_-]{1,100}").fullmatch)]
Sha256 = Annotated[str, Rule("a sha256", re.compile(r"[0-9a-f]{64}").fullmatch)]
Density = Annotated[float, Rule("in (0, 1]", lambda density: 0 < density <= 1)]
Counts = Annotated[list[Count], Rule("[kept, all]", lambda pair: len(pair) == 2 and pair[0] <= pair[1])]


@dataclass(frozen=True)
class Blob:
    sha256: Sha256
    bytes: Count


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished round.

    `objective`: the metric that decides. `metrics`: train_loss of the last epoch, and the final network's val_NAME and
    test_NAME for each metric of the task; `history`: the same per epoch (without test). A round that trains no epoch
    has no train_loss and an empty history. `layers`: kept
    and all weights of each prunable tensor; `unpruned`: those of every other weight tensor, which only a round that
    removes channels can make smaller. `unstructured`: the prunable tensors that the selection's pattern does not
    divide. `epochs`: trained in this round.
    `channels`, of a round that removed some: the `unit` that the density counts, exact [kept, dense] counts of
    `parameters` and `macs`, and the configuration `kept`, which the model's tensors belong to. `structure`: the fields
    of one whose class does not come with this package (see `orchestrator.structures`). `search`, of a round
    whose structure was searched for: what it found and cost, and its rivals (see `AmcSearch`). `int8`, of a round that
    ended with quantisation-aware epochs: the objective with weights and inputs of layers rounded to int8, before and
    after these epochs, and through the weights of a packed-int8 file: val_before, val_after, val_file, test_before, ...
    Two runs of the same
    settings may differ in `seconds`, also those of `search`, `samples_per_second`, `attempts`, `finished_at`,
    `versions` and `processor` (of the first worker; "" where it is not known), and in nothing else.
    """

    key: Key
    parent: str | None
    experiment: str
    round: Count
    technique: str
    density: Density
    kept: Count
    prunable: Count
    seed: Count
    objective: Objective
    metrics: dict[str, float]
    history: list[dict[str, float]]
    layers: dict[str, Counts]
    dead_layers: list[str]
    epochs: Count
    seconds: float
    samples_per_second: float
    attempts: Count
    workers: Count
    settings: dict[str, Any]
    versions: dict[str, str]
    finished_at: str
    channels: dict[str, Any] | None = None
    structure: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    unpruned: dict[str, Counts] = field(default_factory=dict)
    unstructured: list[str] = field(default_factory=list)
    int8: dict[str, float] | None = None
    blobs: dict[str, Blob] = field(default_factory=dict)
    processor: str = ""
    format: Count = FORMAT
    storage: str | None = field(default=None, compare=False, repr=False)  # where a ledger read it; not in its JSON
    loader: ClassVar[Callable[..., Any]]  # `orchestrator.load`, which the package's `__init__.py` sets

    def file(self, name: str) -> str:
        """Return the path of the blob `name`: `rounds/<key>/model-<16 digits of its sha256>.safetensors`."""
        stem, dot, suffix = name.partition(".")
        return f"rounds/{self.key}/{stem}-{self.blobs[name].sha256[:16]}{dot}{suffix}"

    @property
    def val(self) -> float:
        """Return the objective on validation data."""
        return self.metrics[f"val_{self.objective.name}"]

    @property
    def test(self) -> float:
        """Return the objective on test data; it is reported, and never used to choose."""
        return self.metrics[f"test_{self.objective.name}"]

    @property
    def kept_channels(self) -> dict[str, Any]:
        """Return the configuration of the channels that are left; {} if the round removed no channel."""
        kept: dict[str, Any] = (self.channels or {}).get("kept", {})
        return kept

    @property
    def weights(self) -> int:
        """Return the number of weights of the dense network, prunable or not (see `unpruned_weights`)."""
        return self.prunable + sum(size for _, size in self.unpruned.values())

    @property
    def weights_kept(self) -> int:
        """Return how many of `weights` this round keeps."""
        return self.kept + sum(kept for kept, _ in self.unpruned.values())

    @property
    def compression(self) -> float:
        """Return all weights over kept ones, prunable or not. Some selections keep more than `density` asks for."""
        return self.weights / self.weights_kept

    @property
    def model_bytes(self) -> int:
        """Return the size of the committed model."""
        return self.blobs[MODEL].bytes

    def load_module(self, *, data: str | None = None, trust: Iterable[str] = ()) -> nn.Module:
        """Return the network of this round from the storage that the record was read from, as `orchestrator.load` does.

        Raises ConfigError for a record that was not read from a storage, and as `orchestrator.load`.
        """
        if self.storage is None:
            raise ConfigError(
                f"the record of round {self.round} was not read from a storage: use orchestrator.load(STORAGE, KEY)"
            )
        network: nn.Module = self.loader(self.storage, self.key, data=data, trust=trust)
        return network

    def to_json(self) -> bytes:
        """Return the record as it is stored: its last field is the sha256 of all others."""
        content = asdict(self)
        del content["storage"]
        return seal(content)

    @staticmethod
    def from_json(text: bytes, file: str) -> Record:
        """Return the record in `text`. Raise DamagedError, naming `file`, if it is not one of this format."""
        try:
            value = parse(text)
            _check_format(value, file)
            record = decode(Record, {**without_seal(value), "storage": None}, more_fields=True)
            _check_consistent(record)
            return record
        except ValueError as error:
            raise DamagedError(
                f"{file} is not a record ({error!s:.200}); restore it, or delete its folder to have the round trained "
                "again"
            ) from error


def _check_format(value: Any, file: str) -> None:
    number = format_of(value)
    if number > FORMAT:
        raise DamagedError(f"{file} has format {number}, this one reads up to {FORMAT}: update rewind-orchestrator")
    if number < FORMAT:
        raise DamagedError(
            f"{file} was written by an earlier version, whose format {number} is not read any more: use another "
            "storage location, or delete this one to train again"
        )


def _check_consistent(record: Record) -> None:
    """Raise ValueError unless the fields of `record`, each of its type, fit together."""
    if not 1 <= record.kept <= record.prunable:
        raise ValueError(f"{record.kept} of {record.prunable} weights kept")
    decode(Count, record.weights)
    if missing := {MODEL, OPTIMIZER} - record.blobs.keys():
        raise ValueError(f"no blob {min(missing)}")
    val, test = (f"{split}_{record.objective.name}" for split in ("val", "test"))
    trained = ["train_loss"] if record.epochs else []
    for names, numbers in (([*trained, val, test], [record.metrics]), (["train_loss", val], record.history)):
        if not all(epoch.keys() >= set(names) for epoch in numbers):
            raise ValueError(f"metrics other than {', '.join(names)}")
