"""Report how far a search for a round's structure is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.formatting import duration
from orchestrator.objective import Objective
from orchestrator.work.scoring import Evaluate


@dataclass(frozen=True)
class SearchReport:
    """Report a search: `generation` of `generations`.

    `best`: the best value of the objective so far within the budget, None before there is one. Finalists are trained
    longer and have a best of their own. `used`: fraction of the generations that is done. `left`: how many candidates
    like those of this generation may still have to be scored. `per_second`: candidates, over all workers.
    """

    round: int
    rounds: int
    generation: int
    generations: int
    best: float | None
    objective: Objective
    used: float
    left: float
    per_second: float
    workers: int

    @staticmethod
    def of(
        work: Evaluate, objective: Objective, done: int, best: float | None, per_second: float, workers: int
    ) -> SearchReport:
        """Return the report of a worker that has scored `done` candidates of its own share.

        `best` is the highest score of these within the budget.
        """
        generation = work.generation
        size = len(generation.candidates)
        gain = max((each for each in (best, generation.best) if each is not None), default=None)
        scored = min(done * workers, size)
        later = (generation.of - generation.number) * size if generation.later is None else generation.later
        return SearchReport(
            round=work.round + 1,
            rounds=work.rounds,
            generation=generation.number,
            generations=generation.of,
            best=None if gain is None else objective.gain(gain),
            objective=objective,
            used=(generation.number - 1 + scored / size) / generation.of,
            left=size - scored + later,
            per_second=per_second,
            workers=workers,
        )

    @property
    def line(self) -> str:
        """Return the line that a person reads."""
        left = f"  {duration(self.left / self.per_second)} left" if self.per_second > 0 else ""
        best = "" if self.best is None else f"best val {self.objective.text(self.best)}  "
        return (
            f"round {self.round}/{self.rounds}  search: generation {self.generation} of {self.generations}, "
            f"{100 * self.used:.0f} % of the generations  {best}"
            f"{self.per_second:.2g} evaluations/s on {self.workers} worker(s){left}"
        )
