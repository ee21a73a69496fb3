"""Search the networks of a trained supernet: which are scored next, and which is the best for each budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.evolution import Limit, SubnetEvolution
from orchestrator.ofa.predictor import Kind
from orchestrator.ofa.predictor_quality import compare_predictors
from orchestrator.ofa.subnet import Elastic, Subnet
from orchestrator.ofa.subnet_search import Finalist, Front, Measure, SubnetSearch
from orchestrator.pruning.candidate import Chosen, Generation, Score, Scoring, SearchCandidate
from orchestrator.validate import finite, tuple_of, whole

CALIBRATION = 2000  # training images that batch norm is measured on, as in the paper's code
SHORT_EVALUATIONS, SHORT_FIRST, SHORT_BATCH = 12, 8, 4  # of --smoke


@dataclass(frozen=True)
class FrontSearch:
    """Find the best network of a supernet for each budget, with `evaluations` measured networks in all.

    `macs` and `parameters`: fractions of the largest network's, each a budget. A network is measured on validation
    data with batch norm of `calibration` training images. The other fields are those of `SubnetSearch`. Its rival,
    which draws at random, measures as many networks; the best of both is the result.
    """

    macs: tuple[float, ...] = ()
    parameters: tuple[float, ...] = ()
    evaluations: int = 200
    first: int = 64
    batch: int = 16
    predictor: Kind = "ridge"
    evolution: SubnetEvolution = field(default_factory=SubnetEvolution)
    calibration: int = CALIBRATION

    def __post_init__(self) -> None:
        for name in ("macs", "parameters"):
            values = tuple_of(f"FrontSearch.{name}", getattr(self, name), _part)
            object.__setattr__(self, name, values)
        if not self.limits:
            raise ConfigError("FrontSearch needs a budget: give macs=(0.5,) or parameters=(0.5,)")
        whole("FrontSearch.evaluations", self.evaluations, minimum=1)
        whole("FrontSearch.first", self.first, minimum=1, maximum=self.evaluations, way_out="they are measured first")
        whole("FrontSearch.calibration", self.calibration, minimum=1)

    @property
    def limits(self) -> tuple[tuple[str, float], ...]:
        """The unit and the limit of each budget, as a fraction of the largest network's."""
        return (*(("macs", part) for part in self.macs), *(("parameters", part) for part in self.parameters))

    @property
    def scoring(self) -> Scoring:
        """How networks are scored."""
        return Scoring("bn", self.calibration)

    def searches(self, supernet: Elastic, seed: int) -> dict[str, SubnetSearch]:
        """Return the search and its rival at equal cost. Raise ConfigError for a budget that no network meets."""
        budgets = tuple(
            Limit(unit, part * getattr(supernet.largest, unit), supernet.costs) for unit, part in self.limits
        )
        search = SubnetSearch(
            supernet.space, budgets, self.evaluations, seed, self.first, self.batch, self.predictor, self.evolution
        )
        return {"predictor and evolution": search, "random": replace(search, first=self.evaluations)}

    def begin(self, supernet: Elastic, place: int, seed: int) -> FrontState:
        """Return the search at its beginning, for the network of the budget number `place`."""
        return FrontState(self, supernet, place, seed)

    def shortened(self) -> FrontSearch:
        """Return the same search with few evaluations."""
        evaluations, first = min(self.evaluations, SHORT_EVALUATIONS), min(self.first, SHORT_FIRST)
        evolution = replace(self.evolution, generations=min(self.evolution.generations, 10))
        batch = max(len(self.limits), min(self.batch, SHORT_BATCH))
        return replace(self, evaluations=evaluations, first=first, batch=batch, evolution=evolution)


def _part(name: str, value: object) -> float:
    return finite(name, value, above=0, maximum=1, way_out="it is a fraction of the largest network's")


class FrontState:
    """One search of `FrontSearch`, as `StructureSearch` has it."""

    def __init__(self, settings: FrontSearch, supernet: Elastic, place: int, seed: int) -> None:
        self._settings, self._supernet, self._place = settings, supernet, place
        self._searches = settings.searches(supernet, seed)
        self._candidates: dict[str, SearchCandidate] = {}  # by the digest of their architecture

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
            "cost": self._part(best, unit),
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
                    "cost": self._part(finalist, unit),
                    "architecture": finalist.architecture.to_json(),
                }
                for name, finalist in finalists.items()
            },
            "predictors": self._predictors(fronts["predictor and evolution"].evaluations, known),
        }
        return Chosen(Subnet(self._supernet, best.architecture), proof)

    def _part(self, finalist: Finalist, unit: str) -> float:
        """Return a finalist's cost as a fraction of the largest network's."""
        return finalist.budget.cost(finalist.architecture) / float(getattr(self._supernet.largest, unit))

    def _predictors(self, fitted: int, known: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Return how predictors of the search's own networks do on those that only its rival measured."""
        if len(known) - fitted < 2:
            return {}
        architectures = [self._architecture(digest) for digest in known]
        space, costs = self._supernet.space, self._supernet.costs
        found = compare_predictors(space, costs, architectures, list(known.values()), known=fitted)
        return {name: asdict(quality) for name, quality in found.items()}

    def _architecture(self, digest: str) -> Architecture:
        structure = self._candidates[digest].structure
        assert isinstance(structure, Subnet)  # which `_candidate` made
        return structure.architecture


def candidate_of(subnet: Subnet, scoring: Scoring) -> SearchCandidate:
    """Return the candidate for a network: equal architectures have one digest, whatever search asks for them."""
    settings = {"architecture": subnet.architecture.digest, "scoring": asdict(scoring)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return SearchCandidate(digest, subnet, 0)
