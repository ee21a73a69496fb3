"""Score candidates, each by one worker on one thread, so that no bit depends on the number of workers.

Worker i takes the candidates i, i + workers, ... and has zeros for the others; one sum over the workers ends it. All
randomness follows from the round and the candidate's digest. Test data are never read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from orchestrator.errors import DivergedError
from orchestrator.pruning.candidate import Generation, Score, Scores, Scoring, SearchCandidate
from orchestrator.pruning.structure import Structure
from orchestrator.randomness import derive, one_thread, own_randomness
from orchestrator.schedules import Constant
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.score_files import write_scores
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training import collectives
from orchestrator.training.trainer import Trainer
from orchestrator.work.preparation import Preparation
from orchestrator.work.train import Calls, Train

SCORES = "scores"


def scores_key(round_key: str, name: str) -> str:
    """Return the key of the work that scores candidates of a round; `name` is that of the scores' file."""
    return f"{round_key}-{SCORES}-{name}"


@dataclass(frozen=True)
class Scored:
    """The answer to `Evaluate`: the scores of its candidates by their digest, or of some if the workers had to stop."""

    scores: Scores


@dataclass(frozen=True)
class Evaluate(Preparation[Scored]):
    """Score a generation of candidates, which follow from a finished round and have no round of their own.

    `round`, `state` and `structure` are those of the finished round. `rounds`: how many the path has.
    """

    answer_type: ClassVar[type[Any]] = Scored
    round_key: str
    round: int
    rounds: int
    state: TrainState
    structure: Structure
    scoring: Scoring
    generation: Generation

    @property
    def name(self) -> str:
        """Return the name of the scores' file: a digest of the candidates, whose digests hold the settings."""
        digests = sorted(candidate.digest for candidate in self.generation.candidates)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:24]

    @property
    def key(self) -> str:
        return scores_key(self.round_key, self.name)

    def is_current(self, index: int, scored: Callable[[str], Container[str]]) -> bool:
        """Return whether none of the candidates has a score, and the round before `index` is the one they are of."""
        if self.round != index - 1:
            return False
        known = scored(self.round_key)
        return not any(candidate.digest in known for candidate in self.generation.candidates)

    def do(self, trainer: Trainer, calls: Calls) -> Scored:
        """Return the scores of the candidates.

        All of them have a score, unless `on_score` made a worker stop. A candidate that diverges has the objective's
        `worst_gain`. Raises DataError on a bad sample.
        """
        trainer = trainer.alone
        candidates = self.generation.candidates
        rows = torch.zeros(len(candidates), 3, dtype=torch.float64, device=trainer.device)
        mine = range(collectives.rank(), len(candidates), collectives.world_size())
        done, best = 0, None
        with collectives.alone(), one_thread(), own_randomness():
            for place in mine:
                began = time.perf_counter()
                value = self._score(trainer, candidates[place])
                rows[place] = torch.tensor([1, value, time.perf_counter() - began], dtype=torch.float64)
                done += 1
                if candidates[place].allowed:
                    best = value if best is None else max(best, value)
                if calls.on_score and not calls.on_score(self, done, best):
                    break
        found = zip(candidates, collectives.sum_over_workers(rows).tolist(), strict=True)
        return Scored({candidate.digest: Score(*row) for candidate, (scored, *row) in found if scored})

    def _score(self, trainer: Trainer, candidate: SearchCandidate) -> float:
        """Return the objective of a candidate after its training: as that of a round, but at one rate."""
        work = Train(
            key=candidate.digest,
            parent=self.round_key,
            round=self.round + 1,
            rounds=self.rounds,
            density=1.0,
            kept=0,
            prunable=0,
            seed=derive(self.round_key, candidate.digest),
            schedule=Constant(self.scoring.rate or trainer.highest_rate),
            first_epoch=0,
            epochs=candidate.epochs,
            start=trainer.calibration.start(self, candidate.structure),
            structure=candidate.structure,
        )
        try:
            return trainer.objective.gain(trainer.validated(work)[trainer.objective.name])
        except DivergedError:
            return trainer.objective.worst_gain

    def store(self, ledger: Ledger, answer: Scored) -> None:
        write_scores(ledger.store, self.key, answer.scores)

    def split(self) -> tuple[Evaluate, Any]:
        tensors = tuple(candidate.structure.tensors() for candidate in self.generation.candidates)
        light = self._with(TrainState({}), self.structure.with_tensors({}), tuple({} for _ in tensors))
        return light, (self.state, self.structure.tensors(), tensors)

    def joined(self, tensors: Any) -> Evaluate:
        state, masks, candidates = tensors
        return self._with(state, self.structure.with_tensors(masks), candidates)

    def _with(self, state: TrainState, structure: Structure, tensors: tuple[Tensors, ...]) -> Evaluate:
        pairs = zip(self.generation.candidates, tensors, strict=True)
        candidates = tuple(candidate.with_tensors(masks) for candidate, masks in pairs)
        generation = replace(self.generation, candidates=candidates)
        return replace(self, state=state, structure=structure, generation=generation)
