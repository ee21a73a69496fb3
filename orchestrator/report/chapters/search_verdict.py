"""Judge whether a search was worth its cost: its agent's networks against those of Uniform and Random, retrained."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean

from orchestrator.amc.agents import Random, Uniform
from orchestrator.record import Record
from orchestrator.report.comparison import CONFIDENCE, MIN_PAIRS, Difference, bootstrap_intervals
from orchestrator.report.summary import Quantity, options_of

WHO = ("agent", "take")  # fields of a selection that say which agent found the network
RIVALS = (Uniform.__name__, Random.__name__)
ORDER = RIVALS[::-1]  # the rival that costs as much as the agent comes first
Networks = Iterable[Mapping[str, Record]]  # the retrained round of each agent, for every group of comparable ones


@dataclass(frozen=True)
class SearchVerdict:
    """Hold the test values of an agent's networks minus those of each rival, over the seeds that have both."""

    agent: str
    density: float
    unit: str
    mode: str
    differences: tuple[Difference, ...]

    def worth(self, quantity: Quantity) -> bool:
        """Return whether the agent is clearly better than every rival."""
        found = [each for each in self.differences if each.clear and quantity.objective.is_better(each.mean, 0)]
        return len(found) == len(RIVALS)

    def text(self, quantity: Quantity, typical: float) -> str:
        """Return one clause about the agent. `typical` is a value that decides how many digits are shown."""
        parts = []
        for each in self.differences:
            ends = [] if each.low is None or each.high is None else [each.low, each.high]
            interval = "..".join(quantity.difference(end, typical) for end in ends)
            parts.append(
                f"minus {each.second} {quantity.difference(each.mean, typical)} ({interval or 'no interval'}, "
                f"{len(each.seeds)} seed{'s' if len(each.seeds) > 1 else ''})"
            )
        missing = [rival for rival in ORDER if rival not in {each.second for each in self.differences}]
        parts += [f'no retrained network of {rival}, which Amc(take="{rival}") gives' for rival in missing]
        verdict = "worth its cost" if self.worth(quantity) else "not shown to be worth its cost"
        what = f"{self.agent} for {self.mode} at density {self.density:g} of the {self.unit}"
        return f"{what}: {', '.join(parts)}: {verdict}."


def verdicts(groups: Networks) -> list[SearchVerdict]:
    """Return a verdict for each agent, density and settings of its search.

    A group has networks cut from one dense network, trained alike.
    """
    pairs: dict[tuple[str, float, str], dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for networks in groups:
        for agent in networks.keys() - set(RIVALS):
            own = networks[agent]
            settings = {name: value for name, value in options_of(own, "selection").items() if name not in WHO}
            found = pairs[agent, own.density, json.dumps(settings, sort_keys=True)]
            for rival in networks.keys() & set(RIVALS):
                found[rival].append((own.seed, own.test - networks[rival].test))
    result = []
    for (agent, density, text), found in sorted(pairs.items()):
        differences = tuple(_difference(agent, rival, density, found[rival]) for rival in ORDER if rival in found)
        settings = json.loads(text)
        result.append(
            SearchVerdict(agent, density, settings.get("unit", "budget"), settings.get("mode", "networks"), differences)
        )
    return result


def verdict_paragraphs(found: Iterable[SearchVerdict], quantity: Quantity, typical: float) -> list[str]:
    """Return the paragraphs that say for each agent whether its search was worth its cost; none without a verdict."""
    clauses = [each.text(quantity, typical) for each in found]
    if not clauses:
        return []
    return [
        f"Was the search worth its cost? Test {quantity.name} of the retrained networks{quantity.points}, the agent's "
        f"minus a rival's: mean, and {100 * CONFIDENCE:g} % interval over the seeds that have both. "
        + " ".join(clauses),
        f"A search is called worth its cost if it is better than both rivals, and both intervals exclude zero and rest "
        f"on at least {MIN_PAIRS} seeds.",
    ]


def _difference(agent: str, rival: str, density: float, pairs: list[tuple[int, float]]) -> Difference:
    values = [value for _, value in pairs]
    (interval,) = bootstrap_intervals([values])
    seeds = tuple(sorted({seed for seed, _ in pairs}))
    return Difference(agent, rival, density, seeds, mean(values), *(interval or (None, None)))
