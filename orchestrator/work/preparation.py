"""Define what a kind of work says of itself, beside the training of a round.

| work        | file           | answer                                      |
| ----------- | -------------- | ------------------------------------------- |
| `Train`     | `train.py`     | `Trained`; the driver commits it            |
| `Snapshot`  | `snapshot.py`  | `TrainState`, that of the dense run         |
| `Gradients` | `gradients.py` | `Tensors`, by the name of their weights     |
| `Evaluate`  | `scoring.py`   | `Scored`, by the digest of their candidates |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from orchestrator.storage.ledger import Ledger
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Calls, Train

A = TypeVar("A")


class Preparation(ABC, Generic[A]):
    """Work whose answer a round needs before it is trained: a frozen dataclass that derives from this class."""

    answer_type: ClassVar[type[Any]]
    round_key: str  # of the finished round that it belongs to

    @property
    @abstractmethod
    def key(self) -> str:
        """Return its key, of one of the forms in `orchestrator.work.keys`."""

    @abstractmethod
    def do(self, trainer: Trainer, calls: Calls) -> A:
        """Return the answer; every worker calls it with a trainer of its own."""

    @abstractmethod
    def store(self, ledger: Ledger, answer: A) -> None:
        """Store the answer. Once `answer_file(key)` exists, the work is done."""

    @property
    def training(self) -> Train | None:
        """Return the training that it consists of, which resumes from checkpoints; None if it trains no epochs."""
        return None

    def is_current(self, index: int, scored: Callable[[str], Container[str]]) -> bool:
        """Return whether this plan for round `index` still holds, so that it need not be made again.

        `scored` returns the digests of the candidates of a round that have scores. Another path may store the answer at
        any time.
        """
        return False

    def split(self) -> tuple[Preparation[A], Any]:
        """Return this work without its tensors, and the tensors, which travel apart from it on a cluster."""
        return self, None

    def joined(self, tensors: Any) -> Preparation[A]:
        """Return this work with the tensors that `split` took away."""
        return self


Work: TypeAlias = Train | Preparation[Any]
