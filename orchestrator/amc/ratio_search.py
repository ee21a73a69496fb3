"""Search what each layer keeps: in generations, with finalists scored again after more training, and a proof.

The search trains nothing and reads nothing. From the scores known so far it returns which candidates to score next, or
what it found. Its answer depends only on its settings, budget, seed and these scores, so that a search that was
stopped goes on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

from orchestrator.amc.agents import Agent, AgentSettings, Cem, Random, Uniform, best_of, check_agent
from orchestrator.amc.bounds import Budget, Sizes
from orchestrator.errors import ConfigError
from orchestrator.sealed import sha256_of
from orchestrator.validate import finite, one_of, whole

Mode: TypeAlias = Literal["channels", "weights"]
MODES: tuple[Mode, ...] = get_args(Mode)
RIVALS: tuple[AgentSettings, ...] = (Uniform(), Random())


@dataclass(frozen=True)
class Allocation:
    """Define a candidate: how many channels or weights each decision keeps, and how long it trains before its score."""

    mode: Mode
    kept: tuple[tuple[str, int], ...]
    epochs: int

    @property
    def digest(self) -> str:
        """Return the hash of all its content, for the key of its score."""
        return sha256_of({"mode": self.mode, "kept": dict(self.kept), "epochs": self.epochs})

    @property
    def sizes(self) -> Sizes:
        return tuple(size for _, size in self.kept)


@dataclass(frozen=True)
class SearchSettings:
    """Define how a search spends its evaluations; the fields are part of its key.

    `evaluations`: how many candidates the agent, and each of its rivals, may ask for; `generation`: how many at once.
    The best `finalists` of each are scored again after `finalist_epochs` of training, instead of `tune_epochs`.

    Raises ConfigError for values that do not fit together.
    """

    agent: AgentSettings = field(default_factory=Cem)
    evaluations: int = 128
    generation: int = 16
    finalists: int = 4
    tune_epochs: int = 1
    finalist_epochs: int = 4
    mode: Mode = "channels"

    def __post_init__(self) -> None:
        check_agent(self.agent)
        whole("evaluations", self.evaluations, minimum=1)
        whole("tune_epochs", self.tune_epochs, minimum=0)
        one_of("mode", self.mode, MODES)
        for name in ("generation", "finalists"):
            way_out = f"it must be at most evaluations, {self.evaluations}"
            whole(name, getattr(self, name), minimum=1, maximum=self.evaluations, way_out=way_out)
        whole(
            "finalist_epochs",
            self.finalist_epochs,
            minimum=self.tune_epochs + 1,
            way_out="finalists are scored again with more training than tune_epochs",
        )


@dataclass(frozen=True)
class Evaluation:
    """Hold a candidate's score, as `agent` asked for it in its generation number `generation`, counted from 0.

    `allowed`: whether the candidate is within the budget.
    """

    agent: str
    generation: int
    digest: str
    score: float
    allowed: bool


@dataclass(frozen=True)
class AgentResult:
    """Hold the best candidate within the budget that an agent found with `evaluations`.

    `score`: before it was a finalist; `final_score`: the best of its finalists, and `best` is that finalist.
    """

    agent: str
    evaluations: int
    score: float
    final_score: float
    best: Allocation


@dataclass(frozen=True)
class SearchOutcome:
    """Hold what a search found, and its proof.

    `results`: of the agent and its rivals, at the same number of evaluations. `chosen`: the best of all finalists;
    `found_by`: the first agent that found it. `scored`: distinct candidates; `epochs`: of training before their scores,
    together. `finalist_correlation`: Spearman's, between the first scores of finalists and those after more training;
    None if it is undefined. `history`: every evaluation in order.
    """

    chosen: Allocation
    score: float
    found_by: str
    results: tuple[AgentResult, ...]
    scored: int
    epochs: int
    finalist_correlation: float | None
    history: tuple[Evaluation, ...]

    def result_of(self, agent: str) -> AgentResult:
        """Return the result of the agent of this name, which must be one of the search."""
        return next(result for result in self.results if result.agent == agent)


Steps: TypeAlias = Generator[tuple[Allocation, ...], Mapping[str, float], SearchOutcome]


class RatioSearch:
    """Run a search from its beginning. Raises ConfigError for settings that do not fit the budget's decisions."""

    def __init__(self, settings: SearchSettings, budget: Budget, seed: int) -> None:
        self._settings, self._budget = settings, budget
        rivals = [rival for rival in RIVALS if type(rival) is not type(settings.agent)]
        self._agents = {
            type(agent).__name__: agent.start(budget, seed, settings.evaluations) for agent in (settings.agent, *rivals)
        }
        self._history: list[Evaluation] = []
        self._asked: dict[str, Allocation] = {}
        self._number = 0
        self.later = 0.0  # evaluations that may follow the wanted generation, those of finalists by their epochs
        self._steps = self._run()
        self._wanted = next(self._steps)
        self._outcome: SearchOutcome | None = None

    def step(self, scores: Mapping[str, float]) -> tuple[Allocation, ...] | SearchOutcome:
        """Return the distinct candidates to score next, or the result. Higher scores are better.

        `scores` holds at least all scores known before, by the digest of their candidate.

        Raises ConfigError for a score that is not finite, or an agent that asks for nothing within the budget.
        """
        while self._outcome is None:
            missing = {candidate.digest: candidate for candidate in self._wanted if candidate.digest not in scores}
            if missing:
                return tuple(missing.values())
            for candidate in self._wanted:
                finite(f"the score of candidate {candidate.digest[:12]}", scores[candidate.digest])
            try:
                self._wanted = self._steps.send(scores)
            except StopIteration as stop:
                self._outcome = stop.value
        return self._outcome

    @property
    def place(self) -> tuple[int, int]:
        """Return the number of the wanted generation, counted from 1, and how many there are with the finalists."""
        settings = self._settings
        full = -(-settings.evaluations // settings.generation)
        generations = sum(min(full, self._max_candidates(name)) for name in self._agents)
        return self._number, max(generations + 1, self._number)

    def _run(self) -> Steps:
        found: dict[str, dict[Sizes, float]] = {}
        settings, behind = self._settings, sum(map(self._max_candidates, self._agents))
        longer = settings.finalist_epochs / max(settings.tune_epochs, 1)
        finals = longer * sum(min(settings.finalists, self._max_candidates(name)) for name in self._agents)
        for name, agent in self._agents.items():
            behind -= self._max_candidates(name)
            found[name] = yield from self._explore(name, agent, behind + finals)
            if not found[name]:
                raise ConfigError(f"agent {name} must ask for a candidate within the budget, got none: use another one")
        finalists = {
            name: best_of(list(own), list(own.values()), self._settings.finalists) for name, own in found.items()
        }
        epochs, self.later = self._settings.finalist_epochs, 0.0
        final = yield from self._score((sizes for best in finalists.values() for sizes in best), epochs)
        results = []
        for name, candidates in finalists.items():
            best = max(candidates, key=final.__getitem__)
            evaluations = sum(evaluation.agent == name for evaluation in self._history)
            first = max(found[name].values())
            results.append(AgentResult(name, evaluations, first, final[best], self._allocation(best, epochs)))
        winner = max(results, key=lambda result: result.final_score)
        before = {sizes: score for own in found.values() for sizes, score in own.items()}
        return SearchOutcome(
            winner.best,
            winner.final_score,
            winner.agent,
            tuple(results),
            len(self._asked),
            sum(candidate.epochs for candidate in self._asked.values()),
            spearman([before[sizes] for sizes in final], list(final.values())),
            tuple(self._history),
        )

    def _explore(
        self, name: str, agent: Agent, behind: float
    ) -> Generator[tuple[Allocation, ...], Mapping[str, float], dict[Sizes, float]]:
        """Ask an agent for all its generations. Return the scores of what is within the budget.

        `behind`: how many evaluations may follow those of this agent.
        """
        settings, left, generation = self._settings, self._max_candidates(name), 0
        found: dict[Sizes, float] = {}
        while candidates := agent.ask(min(settings.generation, left)):
            self.later = left - len(candidates) + behind
            scores = yield from self._score(candidates, settings.tune_epochs)
            agent.tell(candidates, [scores[sizes] for sizes in candidates])
            for sizes in candidates:
                digest, allowed = self._allocation(sizes, settings.tune_epochs).digest, self._budget.allows(sizes)
                self._history.append(Evaluation(name, generation, digest, scores[sizes], allowed))
            found |= {sizes: score for sizes, score in scores.items() if self._budget.allows(sizes)}
            left, generation = left - len(candidates), generation + 1
            if not left:
                break
        return found

    def _max_candidates(self, agent: str) -> int:
        """Return how many candidates an agent may ask for."""
        return 1 if agent == Uniform.__name__ else self._settings.evaluations

    def _score(
        self, candidates: Iterable[Sizes], epochs: int
    ) -> Generator[tuple[Allocation, ...], Mapping[str, float], dict[Sizes, float]]:
        wanted = {sizes: self._allocation(sizes, epochs) for sizes in candidates}
        self._number += 1
        scores = yield tuple(wanted.values())
        self._asked |= {candidate.digest: candidate for candidate in wanted.values()}
        return {sizes: float(scores[candidate.digest]) for sizes, candidate in wanted.items()}

    def _allocation(self, sizes: Sizes, epochs: int) -> Allocation:
        names = [decision.name for decision in self._budget.decisions]
        return Allocation(self._settings.mode, tuple(zip(names, sizes, strict=True)), epochs)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the rank correlation of two rows of values, in [-1, 1]; equal values share their mean rank.

    Return None if one of them has fewer than two different values.
    """
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = np.sort(values)
    return [float(np.searchsorted(ordered, v, "left") + np.searchsorted(ordered, v, "right") - 1) / 2 for v in values]
