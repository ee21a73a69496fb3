"""Define the settings of a search in a trained supernet: its budgets, and how many networks it measures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import ConfigError
from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.validate import finite, tuple_of, whole

if TYPE_CHECKING:
    from orchestrator.amc.latency import LatencyTable
    from orchestrator.pruning.candidate import Scoring

CALIBRATION = 2000  # training samples that batch norm is measured on, as in the paper's code
SHORT_EVALUATIONS, SHORT_FIRST, SHORT_BATCH = 12, 8, 4  # of --smoke


@dataclass(frozen=True)
class FrontSearch:
    """Find the best network of a supernet for each budget, with `evaluations` measured networks in all.

    `macs` and `parameters`: fractions of the largest network's, each a budget. `latency_ms`: milliseconds for one
    sample by `table`, which `orchestrator latency` makes of an experiment with `Phases`. A network is measured on
    validation data with batch norm of `calibration` training samples. The other fields are those of `SubnetSearch`. Its
    rival, which draws at random, measures as many networks; the best of both is the result.
    """

    macs: tuple[float, ...] = ()
    parameters: tuple[float, ...] = ()
    latency_ms: tuple[float, ...] = ()
    table: LatencyTable | None = None
    evaluations: int = 200
    first: int = 64
    batch: int = 16
    predictor: Literal["ridge", "mlp"] = "ridge"
    evolution: SubnetEvolution = field(default_factory=SubnetEvolution)
    calibration: int = CALIBRATION

    def __post_init__(self) -> None:
        for name in ("macs", "parameters"):
            values = tuple_of(f"FrontSearch.{name}", getattr(self, name), _part)
            object.__setattr__(self, name, values)
        milliseconds = tuple_of("FrontSearch.latency_ms", self.latency_ms, partial(finite, above=0))
        object.__setattr__(self, "latency_ms", milliseconds)
        for name in ("macs", "parameters", "latency_ms"):
            if len(set(values := getattr(self, name))) < len(values):
                raise ConfigError(f"FrontSearch.{name} must hold each budget once, got {values}")
        if not self.limits:
            raise ConfigError("FrontSearch needs a budget: give macs=(0.5,), parameters=(0.5,) or latency_ms=(2.0,)")
        if bool(self.latency_ms) != (self.table is not None):
            raise ConfigError(
                "FrontSearch.table must be a LatencyTable with latency_ms, and None without, got "
                f"{type(self.table).__name__} with latency_ms {self.latency_ms}: orchestrator latency makes one"
            )
        whole("FrontSearch.evaluations", self.evaluations, minimum=1)
        whole("FrontSearch.first", self.first, minimum=1, maximum=self.evaluations, way_out="they are measured first")
        whole("FrontSearch.calibration", self.calibration, minimum=1)

    @property
    def limits(self) -> tuple[tuple[str, float], ...]:
        """Return the unit and the limit of each budget; of macs and parameters a fraction of the largest network's."""
        units = ("macs", "parameters", "latency_ms")
        return tuple((unit, limit) for unit in units for limit in getattr(self, unit))

    @property
    def scoring(self) -> Scoring:
        """Return how networks are scored."""
        from orchestrator.pruning.candidate import Scoring

        return Scoring("bn", self.calibration)

    def shortened(self) -> FrontSearch:
        """Return the same search with few evaluations."""
        evaluations, first = min(self.evaluations, SHORT_EVALUATIONS), min(self.first, SHORT_FIRST)
        evolution = replace(self.evolution, generations=min(self.evolution.generations, 10))
        batch = max(len(self.limits), min(self.batch, SHORT_BATCH))
        return replace(self, evaluations=evaluations, first=first, batch=batch, evolution=evolution)


def _part(name: str, value: object) -> float:
    return finite(name, value, above=0, maximum=1, way_out="it is a fraction of the largest network's")
