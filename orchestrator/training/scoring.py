"""Score candidates, each by one worker on one thread, so that no bit depends on the number of workers.

Worker i takes the candidates i, i + workers, ... and has zeros for the others; one sum over the workers ends it. All
randomness follows from the round and the candidate's digest. Test data are never read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from orchestrator.data.batches import Batches
from orchestrator.errors import DivergedError
from orchestrator.experiment import Experiment
from orchestrator.pruning.candidate import Score, SearchCandidate
from orchestrator.randomness import derive, one_thread, own_randomness
from orchestrator.schedules import Constant, RateRange
from orchestrator.task import objective_of
from orchestrator.train_state import TrainState
from orchestrator.training import collectives
from orchestrator.training.calibration import Calibration
from orchestrator.training.kept_networks import Networks
from orchestrator.work import Evaluate, Scored, Train

# (work, how many candidates this worker has scored, the best score within the budget): whether it should continue
OnScore = Callable[[Evaluate, int, float | None], bool]


class WholeTrainer(Protocol):
    """A trainer that trains and measures whole batches by itself."""

    @property
    def device(self) -> torch.device: ...

    @property
    def networks(self) -> Networks: ...

    @property
    def batches(self) -> Batches: ...

    def validated(self, work: Train) -> Mapping[str, float]: ...


class Scorer:
    """Score one generation after another; `start` makes the trainer when it is first needed."""

    def __init__(self, experiment: Experiment, start: Callable[[], WholeTrainer]) -> None:
        self._training, self._objective = experiment.training, objective_of(experiment.task)
        self._highest_rate = RateRange.of(self._training.schedule, self._training.epochs).highest
        self._start = start
        self._tools: tuple[WholeTrainer, Calibration] | None = None

    def score(self, work: Evaluate, on_score: OnScore | None = None) -> Scored:
        """Return the scores of the candidates of `work`; every worker must call it.

        All candidates have a score, unless `on_score` made a worker stop. A candidate that diverges has the objective's
        `worst_gain`. Raises DataError on a bad sample.
        """
        trainer, calibration = self._tools = self._tools or self._made()
        candidates = work.generation.candidates
        rows = torch.zeros(len(candidates), 3, dtype=torch.float64, device=trainer.device)
        mine = range(collectives.rank(), len(candidates), collectives.world_size())
        done, best = 0, None
        with collectives.alone(), one_thread(), own_randomness():
            for place in mine:
                began = time.perf_counter()
                start = calibration.start(work, candidates[place].structure)
                value = self._gain(trainer, self._training_of(work, candidates[place], start))
                rows[place] = torch.tensor([1, value, time.perf_counter() - began], dtype=torch.float64)
                done += 1
                if candidates[place].allowed:
                    best = value if best is None else max(best, value)
                if on_score and not on_score(work, done, best):
                    break
        found = zip(candidates, collectives.sum_over_workers(rows).tolist(), strict=True)
        return Scored({candidate.digest: Score(*row) for candidate, (scored, *row) in found if scored})

    def _made(self) -> tuple[WholeTrainer, Calibration]:
        trainer = self._start()
        return trainer, Calibration(trainer.networks, trainer.batches)

    def _gain(self, trainer: WholeTrainer, work: Train) -> float:
        try:
            return self._objective.gain(trainer.validated(work)[self._objective.name])
        except DivergedError:
            return self._objective.worst_gain

    def _training_of(self, work: Evaluate, candidate: SearchCandidate, start: TrainState) -> Train:
        """Return the training before a score: as that of a round, but at one rate."""
        return Train(
            key=candidate.digest,
            parent=work.round_key,
            round=work.round + 1,
            rounds=work.rounds,
            density=1.0,
            kept=0,
            prunable=0,
            seed=derive(work.round_key, candidate.digest),
            schedule=Constant(work.scoring.rate or self._highest_rate),
            first_epoch=0,
            epochs=candidate.epochs,
            start=start,
            structure=candidate.structure,
        )
