"""Search the networks of a trained supernet: which are scored next, and which is the best for each budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.block_latency import BlockLatency
from orchestrator.ofa.evolution import Limit
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.predictor_quality import compare_predictors
from orchestrator.ofa.subnet import Elastic, Subnet
from orchestrator.ofa.subnet_search import Finalist, Front, Measure, SubnetSearch
from orchestrator.pruning.candidate import Chosen, Generation, Score, Scoring, SearchCandidate


class FrontState:
    """One search of `FrontSearch`, as `StructureSearch` has it."""

    def __init__(self, settings: FrontSearch, supernet: Elastic, place: int, seed: int) -> None:
        self._settings, self._supernet, self._place = settings, supernet, place
        self._searches = searches(settings, supernet, seed)
        # By the digest of the architecture.
        self._candidates: dict[str, SearchCandidate] = {}
        self._architectures: dict[str, Architecture] = {}

    @property
    def scoring(self) -> Scoring:
        return self._settings.scoring

    def step(self, scores: Mapping[str, Score]) -> Generation | Chosen:
        """Return what to score next, or the network of the budget. `scores`: by the digests of candidates."""
        known: dict[str, float] = {}  # by the digest of the architecture
        fronts: dict[str, Front] = {}
        for name, search in self._searches.items():
            while isinstance(step := search.next(known), Measure):
                candidates = [self._candidate(each) for each in step.architectures]
                missing = tuple(candidate for candidate in candidates if candidate.digest not in scores)
                if missing:
                    return self._generation(missing, name, step.number, max(known.values(), default=None))
                for architecture, candidate in zip(step.architectures, candidates, strict=True):
                    known[architecture.digest] = scores[candidate.digest].value
            fronts[name] = step
        return self._chosen(fronts, known, scores)

    def _candidate(self, architecture: Architecture) -> SearchCandidate:
        """Return the candidate with the digest of its architecture and of how it is scored."""
        if (digest := architecture.digest) not in self._candidates:
            self._candidates[digest] = candidate_of(Subnet(self._supernet, architecture), self.scoring)
            self._architectures[digest] = architecture
        return self._candidates[digest]

    def _generation(
        self, missing: tuple[SearchCandidate, ...], name: str, number: int, best: float | None
    ) -> Generation:
        settings = self._settings
        generations = 1 + -(-(settings.evaluations - settings.first) // settings.batch)
        place = generations if name == "random" else number
        return Generation(missing, min(place, generations) + 1, generations + 1, best)

    def _chosen(self, fronts: Mapping[str, Front], known: Mapping[str, float], scores: Mapping[str, Score]) -> Chosen:
        finalists = {name: front.finalists[self._place] for name, front in fronts.items()}
        found_by, best = max(finalists.items(), key=lambda item: item[1].score)  # of equals the first
        unit, limit = self._settings.limits[self._place]
        proof = {
            "space": self._supernet.space.name,
            "unit": unit,
            "budget": limit,
            "cost": self._cost(best, unit),
            "architecture": best.architecture.to_json(),
            "found_by": found_by,
            "score": best.score,
            "scored": len(known),
            "epochs": 0,
            "seconds": sum(scores[self._candidates[digest].digest].seconds for digest in known),
            "results": {
                name: {
                    "evaluations": fronts[name].evaluations,
                    "score": finalist.score,
                    "cost": self._cost(finalist, unit),
                    "architecture": finalist.architecture.to_json(),
                }
                for name, finalist in finalists.items()
            },
            **({"latency_error": table.error} if (table := self._settings.table) else {}),
            "predictors": self._predictors(fronts["predictor and evolution"].evaluations, known),
        }
        return Chosen(Subnet(self._supernet, best.architecture), proof)

    def _cost(self, finalist: Finalist, unit: str) -> float:
        """Return a finalist's cost in what its budget counts: milliseconds, or parts of the largest network."""
        cost = finalist.budget.cost(finalist.architecture)
        return cost if unit == "latency_ms" else cost / float(getattr(self._supernet.largest, unit))

    def _predictors(self, fitted: int, known: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Return how predictors of the search's own networks do on those that only its rival measured."""
        if len(known) - fitted < 2:
            return {}
        architectures = [self._architectures[digest] for digest in known]
        space, costs = self._supernet.space, self._supernet.costs
        found = compare_predictors(space, costs, architectures, list(known.values()), known=fitted)
        return {name: asdict(quality) for name, quality in found.items()}


def searches(settings: FrontSearch, supernet: Elastic, seed: int) -> dict[str, SubnetSearch]:
    """Return the search and its rival at equal cost. Raise ConfigError for a budget that no network meets."""
    latency = BlockLatency.of(supernet, settings.table) if settings.table else None
    budgets = tuple(
        Limit(unit, limit, latency)
        if latency and unit == "latency_ms"
        else Limit(unit, limit * getattr(supernet.largest, unit), supernet.costs, getattr(supernet.largest, unit))
        for unit, limit in settings.limits
    )
    search = SubnetSearch(
        supernet.space,
        budgets,
        settings.evaluations,
        seed,
        settings.first,
        settings.batch,
        settings.predictor,
        settings.evolution,
    )
    return {"predictor and evolution": search, "random": replace(search, first=settings.evaluations)}


def candidate_of(subnet: Subnet, scoring: Scoring) -> SearchCandidate:
    """Return the candidate for a network: equal architectures have one digest, whatever search asks for them."""
    settings = {"architecture": subnet.architecture.digest, "scoring": asdict(scoring)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return SearchCandidate(digest, subnet, 0)
