"""Report how far a search for a round's structure is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.formatting import duration
from orchestrator.objective import Objective
from orchestrator.work import Evaluate


@dataclass(frozen=True)
class SearchReport:
    """Report a search: `generation` of `generations`; `best`: the best value of the objective so far.

    `used`: fraction of the search's evaluations that are done, and `left`: candidates that are still to be scored, as
    far as that is known. `per_second`: over all workers.
    """

    round: int
    rounds: int
    generation: int
    generations: int
    best: float
    objective: Objective
    used: float
    left: int
    per_second: float
    workers: int

    @staticmethod
    def of(
        work: Evaluate, objective: Objective, done: int, best: float, per_second: float, workers: int
    ) -> SearchReport:
        """Return the report of a worker that has scored `done` candidates of its own share, the best with `best`."""
        generation = work.generation
        size = len(generation.candidates)
        gain = best if generation.best is None else max(best, generation.best)
        scored = min(done * workers, size)
        return SearchReport(
            round=work.round + 1,
            rounds=work.rounds,
            generation=generation.number,
            generations=generation.of,
            best=objective.gain(gain),
            objective=objective,
            used=(generation.number - 1 + scored / size) / generation.of,
            left=size - scored + (generation.of - generation.number) * size,
            per_second=per_second,
            workers=workers,
        )

    @property
    def line(self) -> str:
        """Return the line that a person reads."""
        left = f"  {duration(self.left / self.per_second)} left" if self.per_second > 0 else ""
        return (
            f"round {self.round}/{self.rounds}  search: generation {self.generation} of {self.generations}, "
            f"{100 * self.used:.0f} % of the evaluations  best val {self.objective.text(self.best)}  "
            f"{self.per_second:.2g} evaluations/s on {self.workers} worker(s){left}"
        )
