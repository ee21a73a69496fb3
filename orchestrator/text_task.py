"""Show a task of one's own as an example: transcripts, measured by edit distance to those that the model decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.task import Metric, Tokens
from orchestrator.task_metrics import Ratio
from orchestrator.validate import whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


class Decoded(NamedTuple):
    """What the metrics take: logits (n, length, ids), and the ids (n, steps) that the model decoded."""

    logits: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Transcription(Tokens):
    """Sequence to sequence, decided by the error rate of what the model decodes without knowing the targets.

    The loss is that of `Tokens`, each token given the true ones before it. In evaluation mode the model returns an
    object with `logits` and `decode()`, as `orchestrator.models.seq2seq.Transcript`. `end` is the id that ends a
    sequence.
    """

    ignore: int = 0
    unit: str = "phone"
    end: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("Transcription.end", self.end)

    @property
    def objective(self) -> str:
        return f"{self.unit}_error_rate"

    def outputs(self, outputs: Any) -> Any:
        if not callable(getattr(outputs, "decode", None)):
            raise ConfigError(
                "the model must return an object with logits and decode() in evaluation mode, got "
                f"{type(outputs).__name__}"
            )
        return Decoded(outputs.logits, outputs.decode())

    def metrics(self) -> dict[str, Metric]:
        return {
            self.objective: TokenErrorRate(self.end),
            "sequence_error_rate": SequenceErrorRate(self.end),
        }


class TokenErrorRate(Ratio):
    """Edits that turn what was decoded into the targets, divided by the number of target tokens; `end` is not one.

    It is above 1 where more is wrong than there are tokens.
    """

    higher_is_better = False
    is_fraction = True

    def __init__(self, end: int) -> None:
        super().__init__()
        self._end = end

    def update(self, outputs: Any, targets: Tensor) -> None:
        """Add a batch: `outputs` is a `Decoded`, `targets` (n, length) hold `end` once each."""
        for decoded, wanted in zip(outputs.ids.tolist(), targets.tolist(), strict=True):
            self.count(until(self._end, decoded), until(self._end, wanted))

    def count(self, decoded: list[int], wanted: list[int]) -> None:
        """Add one sequence."""
        self.add(torch.tensor(edit_distance(decoded, wanted)), len(wanted))


class SequenceErrorRate(TokenErrorRate):
    """The fraction of sequences that are not decoded exactly."""

    def count(self, decoded: list[int], wanted: list[int]) -> None:
        self.add(torch.tensor(decoded != wanted), 1)


def until(end: int, ids: list[int]) -> list[int]:
    """Return the ids before the first `end`; all of them without one."""
    return ids[: ids.index(end)] if end in ids else ids


def edit_distance(one: list[int], other: list[int]) -> int:
    """Return how many insertions, deletions and replacements turn `one` into `other` (Levenshtein 1966).

    `row[j]` is the distance of the part of `one` that was read to the first j of `other`.
    """
    row = list(range(len(other) + 1))
    for i, token in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, start=1):
            before, row[j] = row[j], min(before + (token != wanted), row[j] + 1, row[j - 1] + 1)
    return row[-1]
