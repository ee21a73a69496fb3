"""Decide by a search what each layer keeps (He et al., "AMC", ECCV 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from orchestrator.amc.agents import AgentSettings, Cem
from orchestrator.amc.bounds import Budget, Sizes
from orchestrator.amc.cost import SEARCH_UNITS, SearchUnit
from orchestrator.amc.latency import LatencyTable
from orchestrator.amc.ratio_search import (
    RIVALS,
    AgentResult,
    Allocation,
    Mode,
    RatioSearch,
    SearchOutcome,
    SearchSettings,
)
from orchestrator.errors import ConfigError
from orchestrator.field_json import NOT_IN_KEY_IF_NONE
from orchestrator.lazy import lazy
from orchestrator.pruning.candidate import Chosen, Generation, Reconstruction, Score, Scoring, SearchCandidate
from orchestrator.pruning.geometry import Geometry
from orchestrator.pruning.patterns import Pattern, capacities, check_is_pattern, check_pattern, without_pattern
from orchestrator.pruning.selection import Selection
from orchestrator.randomness import derive, own_randomness, seed_all
from orchestrator.validate import one_of, whole

if TYPE_CHECKING:
    from orchestrator.amc import decisions
    from orchestrator.pruning import masks, structure
    from orchestrator.pruning.channels import budget as channel_choice
    from orchestrator.pruning.structure import Structure
    from orchestrator.pruning.view import View
else:
    decisions, channel_choice = lazy("orchestrator.amc.decisions"), lazy("orchestrator.pruning.channels.budget")
    masks, structure = lazy("orchestrator.pruning.masks"), lazy("orchestrator.pruning.structure")

__all__ = ["Amc"]
BEST = "best"  # of all finalists
SHORT_EVALUATIONS, SHORT_GENERATION, SHORT_FINALISTS = 12, 6, 2  # of --smoke


@dataclass(frozen=True)
class Amc(Selection):
    """Search how much each layer keeps, so that the network has the density; then the round is trained as any other.

    `unit`: what the density counts: macs, parameters, prunable weights, or latency by `table`. `mode`: "channels" takes
    whole channels out, `round_to` of a layer together; "weights" removes single ones. Within a layer the criterion
    decides, and the zeros follow `pattern` with mode="weights". Layers that share channels keep the same number.

    The `agent` asks for `evaluations` candidates, a `generation` at a time, and so does each of its rivals, `Uniform`
    and `Random`. A candidate is trained for `tune_epochs` and then scored on validation data. The best `finalists` of
    each are scored again after `finalist_epochs`, and the best of these is trained as the round. `take` names an agent
    of the search, as "Uniform", whose best finalist is trained instead: such experiments share all scores, and show how
    the score and the objective after retraining go together. `tune_rate`, `reconstruct` and `calibration`: see
    `Scoring`. `Amc(agent=Ddpg(), tune_epochs=0, reconstruct="least_squares", evaluations=400)` searches
    as the paper does. What is reconstructed serves the scores alone: the round starts from the weights that its
    technique chooses, as every round does.
    """

    unit: SearchUnit = "macs"
    agent: AgentSettings = field(default_factory=Cem)
    evaluations: int = 128
    generation: int = 16
    finalists: int = 4
    tune_epochs: int = 1
    finalist_epochs: int = 4
    tune_rate: float | None = None
    reconstruct: Reconstruction = "none"
    calibration: int = 1024
    round_to: int = 8
    mode: Mode = "channels"
    table: LatencyTable | None = None
    pattern: Pattern | None = field(default=None, metadata=NOT_IN_KEY_IF_NONE)
    take: str = BEST
    ratios: InitVar[object] = None  # a field of `Channels`, which is refused here by a sentence

    def __post_init__(self, ratios: object) -> None:
        if ratios is not None:
            raise ConfigError(
                "ratios and Amc cannot be combined, because Amc searches for the ratio of each layer: leave them out, "
                f"or give them to Channels(ratios=...), got {ratios!r:.100}"
            )
        one_of("Amc.unit", self.unit, SEARCH_UNITS)
        whole("Amc.round_to", self.round_to, minimum=1)
        _ = self.settings, self.scoring  # which check the other fields
        one_of("Amc.take", self.take, (BEST, *(type(agent).__name__ for agent in (self.agent, *RIVALS))))
        if self.mode == "weights" and self.reconstruct == "least_squares":
            raise ConfigError("Amc.reconstruct must be none or bn with mode='weights', whose layers keep all inputs")
        check_is_pattern("Amc.pattern", self.pattern)
        if self.pattern and self.mode != "weights":
            raise ConfigError(f"Amc.pattern must be None unless mode is 'weights', got {self.pattern}")
        if self.table is not None and self.unit != "latency":
            raise ConfigError(f"Amc.table must be None unless unit is 'latency', got a table with unit {self.unit!r}")
        if self.unit == "latency" and not isinstance(self.table, LatencyTable):
            raise ConfigError(
                "Amc.table must be a LatencyTable with unit 'latency': orchestrator latency writes one, and "
                f"read_latency_table(file) of orchestrator.amc.latency reads it, got {self.table!r:.100}"
            )

    @property
    def needs_channels(self) -> bool:
        return self.mode == "channels"

    @property
    def needs_geometry(self) -> bool:
        return True

    @property
    def settings(self) -> SearchSettings:
        """Return how the search spends its evaluations."""
        own = {item.name: getattr(self, item.name) for item in fields(SearchSettings)}
        return SearchSettings(**own)

    @property
    def scoring(self) -> Scoring:
        """Return how candidates are scored."""
        return Scoring(self.reconstruct, self.calibration, self.tune_rate)

    def check(self, view: View, density: float) -> None:
        """Raise ConfigError for a density that cannot be reached, and for an agent that needs more evaluations."""
        if view.min_kept_per_layer:
            raise ConfigError("min_kept_per_layer must be 0 with Amc, which decides what each layer keeps")
        if self.pattern:
            check_pattern(self.pattern, view.shapes)
        RatioSearch(self.settings, self.budget(view, density), seed=0)

    def unstructured(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        return without_pattern(self.pattern, shapes)

    def select(self, view: View, density: float) -> Structure:
        """Raise ConfigError: a search needs scores of trained networks."""
        raise ConfigError("Amc decides by scores of networks, which an Experiment trains: run it as one")

    def search(self, view: View, density: float, seed: int) -> AmcSearch:
        """Return the search at its beginning. Raises ConfigError as `check` does."""
        return AmcSearch(self, view, self.budget(view, density), seed)

    def shortened(self) -> Amc:
        """Return the same search with few evaluations."""
        evaluations = min(self.evaluations, SHORT_EVALUATIONS)
        agent: Any = self.agent
        if getattr(agent, "warm_up", 0) >= evaluations:
            agent = replace(agent, warm_up=evaluations // 2)
        return replace(
            self,
            agent=agent,
            evaluations=evaluations,
            generation=min(self.generation, SHORT_GENERATION),
            finalists=min(self.finalists, SHORT_FINALISTS),
            tune_epochs=min(self.tune_epochs, 1),
            finalist_epochs=min(self.finalist_epochs, min(self.tune_epochs, 1) + 1),
        )

    def budget(self, view: View, density: float) -> Budget:
        """Return what the search chooses from, within `density` of the dense network. Raises ConfigError."""
        sizes, geometry = _dense_sizes(view), view.geometry or Geometry()
        if self.mode == "weights":
            capacity = dict(zip(sizes, capacities(self.pattern, view.shapes.values()), strict=True))
            alive = {
                n: min(capacity[n], masks.count_true(view.masks[n]) if view.masks else size)
                for n, size in sizes.items()
            }
            return decisions.weight_budget(
                alive,
                density,
                unit=self.unit,
                sizes=sizes,
                uses=geometry.uses,
                macs=geometry.macs,
                parameters=geometry.parameters,
                shapes=geometry.shapes,
                steps={
                    n: self.pattern.size for n, s in view.shapes.items() if self.pattern and self.pattern.divides(s)
                },
            )
        if view.graph is None:
            raise ConfigError("Amc needs the graph of the network's channels: View(graph=trace_channels(...))")
        return decisions.channel_budget(
            view.graph,
            sizes,
            density,
            unit=self.unit,
            round_to=self.round_to,
            kept=view.structure.channels,
            shapes=geometry.shapes,
            table=self.table,
        )

    def structure(self, view: View, sizes: Sizes) -> Structure:
        """Return the structure whose decisions keep these sizes, by the criterion of `view`."""
        how: dict[str, Any] = {"criterion": view.criterion, "gradients": view.gradients}
        if self.mode == "weights":
            return structure.Masks(
                decisions.kept_weights(view.weights, sizes, masks=view.masks, pattern=self.pattern, **how)
            )
        assert view.graph is not None  # `budget` needs it too
        by_group = decisions.group_sizes(view.graph, view.weights, sizes)
        kept = channel_choice.keep_sizes(view.graph, view.weights, by_group, kept=view.structure.channels, **how)
        return structure.FewerChannels(kept, view.graph, self.unit if self.unit == "parameters" else "macs")


class AmcSearch:
    """Run one search of `Amc`, as `StructureSearch` has it."""

    def __init__(self, selection: Amc, view: View, budget: Budget, seed: int) -> None:
        self._selection, self._view, self._budget, self._seed = selection, view, budget, seed
        self._search = RatioSearch(selection.settings, budget, seed)
        self._scores: dict[str, Score] = {}  # by the digest of the allocation
        self._digests: dict[str, str] = {}  # of candidates, by that of their allocation
        self._candidates: dict[str, SearchCandidate] = {}  # of the generation that is wanted, by the same
        self._best: dict[int, float] = {}  # score within the budget, by the epochs of training before it

    @property
    def scoring(self) -> Scoring:
        return self._selection.scoring

    def step(self, scores: Mapping[str, Score]) -> Generation | Chosen:
        while True:
            step = self._search.step({digest: score.value for digest, score in self._scores.items()})
            if isinstance(step, SearchOutcome):
                taken = step.result_of(step.found_by if self._selection.take == BEST else self._selection.take)
                return Chosen(self._structure(taken.best), self._proof(step, taken))
            missing = [allocation for allocation in step if self._digest(allocation) not in scores]
            if missing:
                return self._generation(missing)
            for allocation in step:
                score = self._scores[allocation.digest] = scores[self._digest(allocation)]
                if self._budget.allows(allocation.sizes):
                    epochs = allocation.epochs
                    self._best[epochs] = max(score.value, self._best.get(epochs, score.value))
            self._candidates.clear()

    def _digest(self, allocation: Allocation) -> str:
        """Return the digest of the allocation's candidate."""
        if allocation.digest not in self._digests:
            self._digests[allocation.digest] = self._candidate(allocation).digest
        return self._digests[allocation.digest]

    def _candidate(self, allocation: Allocation) -> SearchCandidate:
        """Return the allocation's candidate, which is made once and kept until its generation has scores."""
        if allocation.digest not in self._candidates:
            structure, allowed = self._structure(allocation), self._budget.allows(allocation.sizes)
            made = SearchCandidate.of(structure, allocation.epochs, self.scoring, allowed=allowed)
            self._candidates[allocation.digest] = made
        return self._candidates[allocation.digest]

    def _structure(self, allocation: Allocation) -> Structure:
        with own_randomness():  # a criterion that draws its scores draws the same for all candidates
            seed_all(derive(self._seed, "criterion"))
            return self._selection.structure(self._view, allocation.sizes)

    def _generation(self, missing: list[Allocation]) -> Generation:
        number, of = self._search.place
        best = self._best.get(missing[0].epochs)
        return Generation(tuple(map(self._candidate, missing)), number, of, best, self._search.later)

    def _proof(self, outcome: SearchOutcome, taken: AgentResult) -> dict[str, Any]:
        """Return what a record says of the search, and of the finalist that is trained: plain JSON."""
        selection, budget = self._selection, self._budget
        curves: dict[str, list[list[float | None]]] = {}
        for evaluation in outcome.history:
            curve = curves.setdefault(evaluation.agent, [])
            curve.extend([] for _ in range(evaluation.generation + 1 - len(curve)))
            curve[evaluation.generation].append(evaluation.score if evaluation.allowed else None)
        return {
            "agent": type(selection.agent).__name__,
            "unit": selection.unit,
            "mode": selection.mode,
            "cost": budget.cost(taken.best.sizes) / budget.dense,
            "found_by": taken.agent,
            "score": taken.final_score,
            "scored": outcome.scored,
            "epochs": outcome.epochs,
            "seconds": sum(score.seconds for score in self._scores.values()),
            "results": {
                result.agent: {
                    "evaluations": result.evaluations,
                    "score": result.score,
                    "final_score": result.final_score,
                    "ratios": _by_name(budget, budget.fractions(result.best.sizes)),
                }
                for result in outcome.results
            },
            "correlation": outcome.finalist_correlation,  # the name that records have
            **({"table": _about(selection.table)} if selection.table else {}),
            "ratios": _by_name(budget, budget.fractions(taken.best.sizes)),
            "scores": curves,
        }


def _about(table: LatencyTable) -> dict[str, Any]:
    """Return what a record says of a table: where it was measured, and its error on whole networks."""
    names = ("digest", "processor", "threads", "runtime", "error")
    return {name: getattr(table, name) for name in names} | {"networks": len(table.networks)}


def _by_name(budget: Budget, fractions: list[float]) -> dict[str, float]:
    return dict(zip((decision.name for decision in budget.decisions), fractions, strict=True))


def _dense_sizes(view: View) -> dict[str, int]:
    """Return how many elements each prunable weight has in the dense network."""
    cuts = {name: view.graph.cut_of(name) if view.graph else None for name in view.weights}
    return {name: math.prod(cut.shape) if cut else view.weights[name].numel() for name, cut in cuts.items()}
