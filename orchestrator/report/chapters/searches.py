"""Show searches of each layer's ratio: what each found beside its rivals, and what its scores were worth.

A search is shown only with its rivals, at the same number of evaluations, and with pictures.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from orchestrator.amc.latency import MAX_ERROR
from orchestrator.amc.ratio_search import spearman
from orchestrator.decode import Count, decode
from orchestrator.formatting import duration
from orchestrator.record import MODEL, Record
from orchestrator.report.chapters.search_verdict import RIVALS, WHO, verdict_paragraphs, verdicts
from orchestrator.report.comparison import Comparison
from orchestrator.report.page import Section
from orchestrator.report.pictures.searches_picture import AgentCurve, RatioLine, ratios_picture, scores_picture
from orchestrator.report.published import find_published_searches
from orchestrator.report.summary import options_of
from orchestrator.report.tables import TextTable

MIN_NETWORKS = 3  # of a rank correlation
CHOICE = (*WHO, "evaluations", "generation", "finalists")  # fields that decide what is scored, not how


@dataclass(frozen=True)
class AgentProof:
    """Hold what an agent found: the `score` of its best candidate and the `final_score` of its best finalist."""

    evaluations: Count
    score: float
    final_score: float
    ratios: dict[str, float]


@dataclass(frozen=True)
class SearchProof:
    """Hold what a record has about the search for its structure, as `AmcSearch` wrote it.

    `found_by` names the agent whose finalist was trained. `scores` has the score of each agent's evaluations by
    generation, None for a candidate beyond the budget. `correlation` is that of the finalists' first scores and their
    scores after more training; it does not know the values after retraining.
    """

    agent: str
    unit: str
    mode: str
    cost: float
    found_by: str
    score: float
    scored: Count
    epochs: Count
    seconds: float
    results: dict[str, AgentProof]
    correlation: float | None
    ratios: dict[str, float]
    scores: dict[str, list[list[float | None]]]


@dataclass(frozen=True)
class Searched:
    """Hold a round whose structure a search found."""

    record: Record
    proof: SearchProof


def searched(records: Iterable[Record]) -> list[Searched]:
    """Return the rounds whose structure was found by a search that scored its rivals too."""
    found = []
    for record in records:
        with contextlib.suppress(ValueError):  # a search of another kind
            proof = decode(SearchProof, record.search, more_fields=True)
            if proof.results.keys() >= {*RIVALS, proof.agent, proof.found_by}:
                found.append(Searched(record, proof))
    return found


def retraining_correlation(found: Iterable[Searched]) -> tuple[float, int] | None:
    """Return the rank correlation of score and test value after retraining, and the number of networks in it.

    Networks are compared if they were cut from the same dense one, scored and retrained in the same way, whichever
    agent found them. Return the mean over dense networks with at least MIN_NETWORKS such networks, None without any.
    """
    groups: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for each in found:
        record, objective = each.record, each.record.objective
        pair = each.proof.score, objective.gain(record.test)
        alike = _alike(record, CHOICE)
        groups[alike][record.blobs[MODEL].sha256] = pair  # a network that two searches found counts once
    pairs = [list(networks.values()) for networks in groups.values() if len(networks) >= MIN_NETWORKS]
    values = [(spearman(*zip(*each, strict=True)), len(each)) for each in pairs]
    defined = [(value, networks) for value, networks in values if value is not None]
    if not defined:
        return None
    return mean(value for value, _ in defined), sum(networks for _, networks in defined)


def search_section(comparison: Comparison) -> list[Section]:
    """Return the section about the searches of `comparison`, if there are any. Must be called in `drawing_style()`."""
    every = searched(comparison.records)
    found = [each for each in every if each.record.experiment in comparison.shown]
    if not found:
        return []
    quantity = comparison.quantity
    rounds = {(each.record.experiment, each.record.round) for each in found}
    several = {name for name, count in Counter(name for name, _ in rounds).items() if count > 1}
    by_experiment: dict[str, list[Searched]] = defaultdict(list)
    for each in found:
        name, number = each.record.experiment, each.record.round
        by_experiment[f"{name}, round {number}" if name in several else name].append(each)
    columns = (
        "experiment", "search", "evaluations", "network of", *(f"{who}: {what}" for what in ("best score", "after more "
        "training") for who in ("agent", *RIVALS)), "networks scored", "epochs", "time", "correlation of the first and "
        "the finalists' scores",
        f"{quantity.column('test')} retrained",
    )  # fmt: skip
    lines = [_line(name, own, quantity.text) for name, own in by_experiment.items()]
    table = TextTable("Searches, medians over the seeds", columns, lines)
    ratios = [RatioLine(name, _median_ratios(own)) for name, own in by_experiment.items()]
    drawn = [own[0].proof.found_by for own in by_experiment.values()]
    smallest = min(each.record.density for each in found)
    curves = _curves([each for each in found if each.record.density == smallest], drawn)
    pictures = (ratios_picture(ratios), scores_picture(curves, quantity.objective, quantity.name))
    typical = median(each.record.test for each in every)
    verdict = verdict_paragraphs(verdicts(_by_agent(every)), quantity, typical)
    return [Section("searches", "Searches", [*_paragraphs(found), *verdict], (table,), pictures)]


def published_section(comparison: Comparison) -> list[Section]:
    """Return a table of our searched networks beside those of the searches' papers, where they are of one network."""
    records = [each for each in comparison.records if each.search and each.experiment in comparison.shown]
    published = find_published_searches(records)
    if not published:
        return []
    lines = [
        [f"{each.method}: {each.source}", each.network, each.cost, f"{each.top1:.2f} %", each.how] for each in published
    ]
    lines += [_own_line(each, comparison.quantity.text) for each in records]
    columns = ("who", "network", "cost", comparison.quantity.column("test"), "how")
    about = (
        "The papers' networks were trained by their own recipes, and measured on ImageNet. Compare equal networks at "
        "equal cost only."
    )
    table = TextTable("Searched networks, ours and published", columns, lines)
    return [Section("published-searches", "Beside the published searches", (about,), (table,))]


def _own_line(record: Record, text: Callable[[float], str]) -> list[str]:
    kept, dense = record.channels["macs"] if record.channels else (0, 0)
    if dense:
        cost = f"{100 * kept / dense:.0f} % of the MACs, {kept / 1e6:,.0f} million"
    else:
        cost = f"{100 * record.density:.0f} % of the weights"
    who = f"ours: {record.experiment}, round {record.round}, seed {record.seed}"
    return [who, str(record.settings.get("model")), cost, text(record.test), record.technique]


def _paragraphs(found: Sequence[Searched]) -> list[str]:
    retrained = retraining_correlation(found)
    worth = (
        f"Over {retrained[1]} networks that were retrained, the rank correlation of score and test value is "
        f"{retrained[0]:+.2f}."
        if retrained
        else f"Whether a score predicts the test value after retraining is not known. At least {MIN_NETWORKS} networks "
        f"that were cut from one dense network and retrained in the same way would show it: Amc(take=...) retrains the "
        f"networks of the rivals too."
    )
    return [
        "A search scores smaller networks on validation data and trains the best as the round. Uniform keeps the same "
        "fraction of every layer. Random draws as many candidates as the search's own agent asks for. A search that "
        "does not beat Random was not worth its cost.",
        worth,
        "The correlation in the table is another one: of the finalists' first scores and their scores after more "
        "training. It tells how far the first score can be trusted to choose finalists.",
        *_units(found),
        *_latency_warning(found),
    ]


def _units(found: Sequence[Searched]) -> list[str]:
    """Say that the recommendation counts something else than the budgets, if it does."""
    units = sorted({each.proof.unit for each in found} - {"weights"})
    if not units:
        return []
    return [
        f"The budget of these searches counts {' and '.join(units)}. The recommendation of this page goes by the "
        "number of weights, which differs between networks of one budget."
    ]


def _latency_warning(found: Iterable[Searched]) -> list[str]:
    """Return a sentence about the largest error of a latency table on whole networks, if it is above MAX_ERROR."""
    tables = [(each.record.search or {}).get("table") for each in found]
    errors = [error for table in tables if isinstance(table, dict) and isinstance(error := table.get("error"), float)]
    if max(errors, default=0.0) <= MAX_ERROR:
        return []
    return [
        f"A latency table of these searches misses a whole network by {100 * max(errors):.0f} %: the milliseconds of "
        "the budget are not those of the network. Measure what was found."
    ]


def _line(name: str, own: Sequence[Searched], text: Callable[[float], str]) -> list[str]:
    objective = own[0].record.objective

    proofs = [each.proof for each in own]
    known = [proof.correlation for proof in proofs if proof.correlation is not None]
    by_agent = [[proof.results[proof.agent] for proof in proofs]]
    by_agent += [[proof.results[rival] for proof in proofs] for rival in RIVALS]
    return [
        name,
        ", ".join(dict.fromkeys(proof.agent for proof in proofs)),
        str(max(result.evaluations for proof in proofs for result in proof.results.values())),
        ", ".join(dict.fromkeys(proof.found_by for proof in proofs)),
        *(text(objective.gain(median(result.score for result in results))) for results in by_agent),
        *(text(objective.gain(median(result.final_score for result in results))) for results in by_agent),
        f"{median(proof.scored for proof in proofs):.0f}",
        f"{median(proof.epochs for proof in proofs):.0f}",
        duration(median(proof.seconds for proof in proofs)),
        f"{median(known):+.2f}" if known else "",
        text(median(each.record.test for each in own)),
    ]


def _by_agent(found: Iterable[Searched]) -> list[dict[str, Record]]:
    """Return the round that each agent's network became, for each dense network and settings of the search."""
    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for each in found:
        groups[_alike(each.record, WHO)].setdefault(each.proof.found_by, each.record)
    return list(groups.values())


def _alike(record: Record, without: Collection[str]) -> str:
    """Return, as JSON, what must be equal for two rounds to be comparable: all settings but fields of the search."""
    scored = {name: value for name, value in options_of(record, "selection").items() if name not in without}
    return json.dumps([record.parent, {**record.settings, "selection": scored}], sort_keys=True)


def _median_ratios(own: Sequence[Searched]) -> dict[str, float]:
    ratios = [each.proof.ratios for each in own]
    layers = [name for name in ratios[0] if all(name in each for each in ratios)]
    return {name: median(each[name] for each in ratios) for name in layers}


def _curves(found: Sequence[Searched], drawn: Sequence[str]) -> list[AgentCurve]:
    """Return the best score so far of each agent, medians over the searches that it took part in.

    `drawn` names the agents whose networks another picture has, in its order: an agent has one colour in both.
    """
    curves: dict[str, list[list[float | None]]] = defaultdict(list)
    generations: dict[str, list[int]] = {}
    for proof in {(each.record.parent, each.proof.agent): each.proof for each in found}.values():
        for agent in dict.fromkeys((proof.agent, *RIVALS)):
            rounds = proof.scores.get(agent, [])
            curves[agent].append(_best_so_far([score for scores in rounds for score in scores]))
            generations[agent] = [sum(map(len, rounds[: place + 1])) for place in range(len(rounds))]
    order = list(dict.fromkeys((*drawn, *curves)))
    places = {
        agent: drawn.index(agent) if agent in drawn else n
        for n, agent in enumerate(order, len(drawn) - len(set(drawn)))
    }
    return [AgentCurve(agent, _medians(each), generations[agent], places[agent]) for agent, each in curves.items()]


def _best_so_far(scores: Iterable[float | None]) -> list[float | None]:
    best: float | None = None
    found = []
    for score in scores:
        best = max((each for each in (best, score) if each is not None), default=None)
        found.append(best)
    return found


def _medians(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the median at each place that all curves have, None where one of them has no score yet."""
    found: list[float | None] = []
    for scores in zip(*curves, strict=False):
        known = [score for score in scores if score is not None]
        found.append(median(known) if len(known) == len(scores) else None)
    return found
