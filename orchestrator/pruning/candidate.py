"""Define what goes into a search of structures and comes out: candidates, their scoring, and their scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from orchestrator.train_state import Tensors, raw_bytes
from orchestrator.validate import finite, one_of, whole

if TYPE_CHECKING:
    from orchestrator.pruning.structure import Structure

Reconstruction: TypeAlias = Literal["none", "bn", "least_squares"]
RECONSTRUCTIONS: tuple[Reconstruction, ...] = get_args(Reconstruction)


@dataclass(frozen=True)
class Scoring:
    """How candidates are scored; the fields are part of their digests.

    `reconstruct`: what is done to a candidate's weights before it is trained. "bn" measures the statistics of batch
    norm again, "least_squares" lets the inputs of a layer that stay take over from those that go. Both look at
    `calibration` training samples, which a seed draws and nothing augments, unless a data set
    does in its `__getitem__` and has no `unaugmented()`. `rate`: the learning rate of the training
    before a score; None is the highest rate of the experiment's schedule.

    The score itself is the task's objective on validation data. No setting makes it another split.
    """

    reconstruct: Reconstruction = "none"
    calibration: int = 1024
    rate: float | None = None

    def __post_init__(self) -> None:
        one_of("reconstruct", self.reconstruct, RECONSTRUCTIONS)
        whole("calibration", self.calibration, minimum=1)
        if self.rate is not None:
            finite("tune_rate", self.rate, above=0, way_out="None is the highest rate of the schedule")


@dataclass(frozen=True)
class SearchCandidate:
    """A structure to score after `epochs` of training. `digest` names all that decides its score but the round.

    `allowed`: whether it is within the search's budget. Others inform the search, and are never its result.
    """

    digest: str
    structure: Structure
    epochs: int
    allowed: bool = True

    @staticmethod
    def of(structure: Structure, epochs: int, scoring: Scoring, *, allowed: bool = True) -> SearchCandidate:
        """Return the candidate with the digest of its content: equal structures of all searches have one."""
        settings = {"channels": structure.channels, "epochs": epochs, "scoring": asdict(scoring)}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(structure.tensors().items()):
            digest.update(name.encode())
            digest.update(raw_bytes(tensor))
        return SearchCandidate(digest.hexdigest(), structure, epochs, allowed)

    def with_tensors(self, tensors: Tensors) -> SearchCandidate:
        """Return the candidate whose structure has these masks in the place of its own."""
        return replace(self, structure=self.structure.with_tensors(tensors))


@dataclass(frozen=True)
class Score:
    """A candidate's score, higher is better, and the seconds that a worker spent on it."""

    value: float
    seconds: float


Scores: TypeAlias = dict[str, Score]  # by the candidate's digest


@dataclass(frozen=True)
class Generation:
    """Candidates to score next. `number` of `of` generations, counted from 1.

    `best`: the highest score so far within the budget, of candidates trained as long as these. `later`: how many more
    candidates like these the search may want after them; None if it does not know.
    """

    candidates: tuple[SearchCandidate, ...]
    number: int
    of: int
    best: float | None
    later: float | None = None


@dataclass(frozen=True)
class Chosen:
    """What a search decided on, and the proof that goes into the round's record: plain JSON."""

    structure: Structure
    proof: dict[str, Any]


class StructureSearch(Protocol):
    """A search for a structure. It depends on nothing but how it was begun and the scores, and reads no data."""

    @property
    def scoring(self) -> Scoring: ...

    def step(self, scores: Mapping[str, Score]) -> Generation | Chosen:
        """Return what to score next, or the result. `scores` holds all that are known, by candidates' digests."""
        ...
