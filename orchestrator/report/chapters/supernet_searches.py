"""Show searches of trained supernets: each budget's network beside random search, and what predictors knew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.decode import Count, decode
from orchestrator.errors import ConfigError
from orchestrator.formatting import percent
from orchestrator.ofa.architecture import Architecture
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison
from orchestrator.report.page import Section
from orchestrator.report.summary import Quantity
from orchestrator.report.tables import TextTable

RANDOM = "random"
UNITS = {"macs": "multiply-accumulates", "parameters": "parameters", "latency_ms": "latency"}


@dataclass(frozen=True)
class NetworkProof:
    """Hold the best network that one way of searching measured within a budget, and its `cost` in the budget's unit."""

    evaluations: Count
    score: float
    cost: float
    architecture: Any = None


@dataclass(frozen=True)
class PredictorProof:
    """Hold what a predictor knew of networks that it had not seen: Kendall's tau and root-mean-square errors."""

    kendall: float
    rmse: float
    rmse_of_mean: float


@dataclass(frozen=True)
class FrontProof:
    """Hold what a record has about the search for its network, as `FrontState` wrote it.

    `budget` and `cost` are milliseconds for `latency_ms`, else fractions of the largest network.
    """

    space: str
    unit: str
    budget: float
    cost: float
    found_by: str
    score: float
    scored: Count
    results: dict[str, NetworkProof]
    predictors: dict[str, PredictorProof]
    latency_error: float | None = None

    def text(self, cost: float) -> str:
        """Return a cost with its unit: `47.12 %`, `1.234 ms`."""
        return f"{cost:.4g} ms" if self.unit == "latency_ms" else f"{percent(cost)} %"


@dataclass(frozen=True)
class FoundNetwork:
    """Hold a round whose network was found in a supernet."""

    record: Record
    proof: FrontProof


def found_networks(records: Iterable[Record]) -> list[FoundNetwork]:
    """Return the rounds whose network was found in a supernet by a search that measured its rival too."""
    found = []
    for record in records:
        with contextlib.suppress(ValueError):  # a search of another kind
            proof = decode(FrontProof, record.search, more_fields=True)
            if {RANDOM, proof.found_by} <= proof.results.keys():
                found.append(FoundNetwork(record, proof))
    return found


def supernet_section(comparison: Comparison) -> list[Section]:
    """Return the section about the supernets of `comparison` and their searches, if there are any."""
    shown = [record for record in comparison.records if record.experiment in comparison.shown]
    rounds = [record for record in shown if "space" in (record.channels or {})]
    if not rounds:
        return []
    found, quantity = found_networks(shown), comparison.quantity
    tables = [_networks_table(found, quantity), _predictors_table(found, quantity)] if found else []
    return [Section("supernets", "Searches of a supernet", _paragraphs(found), (*tables, _rounds_table(rounds)))]


def _paragraphs(found: Sequence[FoundNetwork]) -> list[str]:
    if not found:
        return ["No search of these supernets is finished. orchestrator ofa search makes one."]
    better = sum(_random(each).score < each.proof.score for each in found)
    return [
        "A search measures networks of a trained supernet on validation data and fits a predictor to their scores. "
        "Evolution on the predictor proposes the next ones. Random search measures as many. The best of both is the "
        f"result. The search beat random search for {better} of {len(found)} budgets.",
        "Predictors were fitted to the networks of the search, and judged by those that only random search measured. "
        "One that is not better than multiply-accumulates or depth alone was not worth fitting.",
    ]


def _networks_table(found: Sequence[FoundNetwork], quantity: Quantity) -> TextTable:
    columns = (
        "experiment", "seed", "round", "budget", "limit", "cost", "found by", quantity.column("val"),
        "random: cost", f"random: {quantity.column('val')}", "evaluations of each", "networks scored",
        "largest error of the latency table",
    )  # fmt: skip
    return TextTable("The network found for each budget", columns, [_network_line(each, quantity) for each in found])


def _network_line(each: FoundNetwork, quantity: Quantity) -> list[str]:
    record, proof, rival = each.record, each.proof, _random(each)
    gain = quantity.objective.gain
    counts = dict.fromkeys(str(result.evaluations) for result in proof.results.values())
    error = "" if proof.latency_error is None else f"{percent(proof.latency_error)} %"
    return [
        record.experiment,
        str(record.seed),
        str(record.round),
        UNITS.get(proof.unit, proof.unit),
        proof.text(proof.budget),
        proof.text(proof.cost),
        proof.found_by,
        quantity.number(gain(proof.score)),
        proof.text(rival.cost),
        quantity.number(gain(rival.score)),
        ", ".join(counts),
        str(proof.scored),
        error,
    ]


def _predictors_table(found: Sequence[FoundNetwork], quantity: Quantity) -> TextTable:
    """Return a line for each predictor of each search, whose rounds all have the same predictors."""
    lines: dict[tuple[str, ...], None] = {}
    for each in found:
        for name, known in each.proof.predictors.items():
            search = (each.record.experiment, str(each.record.seed), name, f"{known.kendall:+.2f}")
            lines[(*search, _error(known.rmse, quantity), _error(known.rmse_of_mean, quantity))] = None
    columns = ("experiment", "seed", "predictor", "Kendall's tau", "RMSE", "RMSE of the mean score")
    return TextTable(f"What predictors knew of other networks{quantity.points}", columns, list(map(list, lines)))


def _error(error: float, quantity: Quantity) -> str:
    return percent(error) if quantity.objective.fraction else f"{error:.3g}"


def _rounds_table(rounds: Sequence[Record]) -> TextTable:
    columns = ("experiment", "seed", "round", "network", "multiply-accumulates", "of the largest", "parameters")
    return TextTable("Multiply-accumulates of each round", columns, [_round_line(each) for each in rounds])


def _round_line(record: Record) -> list[str]:
    channels = record.channels or {}
    network = f"all of {channels['space']}, the largest counted"
    if "architecture" in channels:
        with contextlib.suppress(ConfigError):
            network = str(Architecture.from_json(channels["architecture"]))
    (macs, largest), parameters = channels["macs"], channels["parameters"][0]
    part = f"{percent(macs / largest)} %"
    return [record.experiment, str(record.seed), str(record.round), network, f"{macs:,}", part, f"{parameters:,}"]


def _random(each: FoundNetwork) -> NetworkProof:
    return each.proof.results[RANDOM]
