"""Decide which experiments may be compared, and how they differ.

Experiments are compared if they have the same model, data, task and objective, and so the same weights and values.

Differences are paired by seed. Two runs of one seed share initialisation, order of the data and the dense round, so
their difference varies less from seed to seed than either value does.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, groupby
from typing import Any

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.formatting import distinct_names
from orchestrator.objective import Objective
from orchestrator.ofa.architecture import Architecture
from orchestrator.record import Record
from orchestrator.report.summary import Quantity, Recommendation, Row, options_of, pareto_front, recommend, summary

MAX_SHORT_NAME = 30  # characters
MAX_SHOWN = 8  # experiments with a colour of their own
RESAMPLES = 10_000
CONFIDENCE = 0.95
MIN_PAIRS = 6
IDENTITY_SETTINGS = ("model_options", "model_identity", "data_options", "data_identity", "task")
IDENTITY = (*IDENTITY_SETTINGS, "objective")
RoundsByDensity = dict[float, dict[int, Record]]  # density -> seed -> round


@dataclass(frozen=True)
class Difference:
    """Hold the mean of the test value of `first` minus `second` at one density, over the seeds that both have finished.

    `low` and `high` are the ends of the bootstrap interval; None with fewer than two pairs. All are in the objective's
    own unit; a fraction is in [0, 1], not in per cent.
    """

    first: str
    second: str
    density: float
    seeds: tuple[int, ...]
    mean: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Return whether the interval excludes zero and rests on at least MIN_PAIRS pairs.

        With fewer pairs the interval hardly exceeds the differences that were seen, and all of them have the same sign
        by chance in more than one of twenty cases. With six pairs that happens in 2 / 2^6 = 3 % of cases.
        """
        excludes_zero = self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
        return excludes_zero and len(self.seeds) >= MIN_PAIRS

    def swapped(self) -> Difference:
        """Return the same difference as `second` minus `first`."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, first=self.second, second=self.first, mean=-self.mean, low=low, high=high)


@dataclass(frozen=True)
class Comparison:
    """Hold all rounds of one model on one data set with one task, by experiment.

    `number` counts the comparisons of a report from 1. `qualifier` tells this one from others in the report with the
    same names of model and data; it is "" if no other has them.
    """

    number: int
    data: str
    model: str
    records: tuple[Record, ...]
    qualifier: str = ""

    @property
    def title(self) -> str:
        """Return `resnet8 (width=8) on digits`, followed by the qualifier, as in `resnet8 on digits (data 3fa2b1)`."""
        return f"{self.model} on {self.data}" + (f" ({self.qualifier})" if self.qualifier else "")

    @property
    def quantity(self) -> Quantity:
        """Return the objective, in words, of all rounds; there must be one."""
        return Quantity(self.records[0].objective)

    @cached_property
    def rows(self) -> list[Row]:
        return summary(self.records)

    @cached_property
    def experiments(self) -> dict[str, list[Row]]:
        """Return the rows of each experiment, by its name."""
        return {name: list(rows) for name, rows in groupby(self.rows, key=lambda row: row.experiment)}

    @cached_property
    def short_names(self) -> dict[str, str]:
        """Return for each experiment a name that a picture has space for."""
        return distinct_names(self.experiments, MAX_SHORT_NAME)

    @property
    def seeds(self) -> int:
        """Return how many seeds there are."""
        return len({seed for row in self.rows for seed in row.seeds})

    @property
    def seeds_note(self) -> str:
        """Return `, median of 3 seeds`; "" for one seed."""
        return f", median of {self.seeds} seeds" if self.seeds > 1 else ""

    @cached_property
    def records_by_experiment(self) -> dict[str, list[Record]]:
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            groups.setdefault(record.experiment, []).append(record)
        return groups

    @cached_property
    def recommendation(self) -> Recommendation | None:
        return recommend(self.rows)

    @cached_property
    def recommended_records(self) -> list[Record]:
        """Return the records of the recommended row, one per seed, the best on validation first."""
        if self.recommendation is None:
            return []
        row = self.recommendation.row
        records = [record for record in self.records_by_experiment[row.experiment] if record.round == row.round]
        return sorted(records, key=lambda record: (-record.objective.gain(record.val), record.seed))

    @cached_property
    def front(self) -> list[Row]:
        """Return the rows on the Pareto front of bytes and validation values."""
        return pareto_front(self.rows)

    @cached_property
    def shown(self) -> list[str]:
        """Return the names of at most MAX_SHOWN experiments, those with the smallest recommended networks."""
        if len(self.experiments) <= MAX_SHOWN:
            return list(self.experiments)
        return sorted(sorted(self.experiments, key=self._rank)[:MAX_SHOWN])

    @cached_property
    def differences(self) -> list[Difference]:
        """Compare every two shown experiments; the one with the recommended network comes first."""
        first = [self.recommendation.row.experiment] if self.recommendation else []
        return paired_differences(self.records, first + [name for name in self.shown if name not in first])

    def _rank(self, name: str) -> tuple[float, float, str]:
        if self.recommendation and name == self.recommendation.row.experiment:
            return -1, 0, name
        best = next((row for row in self.experiments[name] if row.recommended), None)
        return (1 / best.compression, -best.gain, name) if best else (math.inf, 0, name)


def comparisons(records: Iterable[Record], first: Collection[str] = ()) -> list[Comparison]:
    """Return one comparison for each model, data set and task, sorted by name.

    Those that have a round whose key is in `first` come first.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(identity(record), []).append(record)
    found = sorted(groups, key=lambda group: (all(record.key not in first for record in groups[group]), group))
    qualifiers = _qualifiers(found)
    return [
        Comparison(number, group[0], group[1], tuple(groups[group]), qualifiers[group])
        for number, group in enumerate(found, 1)
    ]


def identity(record: Record) -> tuple[str, str, str]:
    """Return the names of data and model, and what decides which data, model and task these are, as JSON."""
    settings = record.settings
    model = str(settings.get("model", "unknown model"))
    if options := options_of(record, "model_options"):
        model += f" ({_options_text(options)})"
    decisive = {name: settings.get(name) for name in IDENTITY_SETTINGS} | {"objective": vars(record.objective)}
    return str(settings.get("data", "unknown data")), model, json.dumps(decisive, sort_keys=True)


def paired_differences(records: Iterable[Record], experiments: Sequence[str]) -> list[Difference]:
    """Compare every two of `experiments`, in their order, at each density that both reached with the same network.

    Values of different tasks or objectives are not compared. Rounds that two experiments share are left out.
    """
    rounds: dict[str, RoundsByDensity] = {name: defaultdict(dict) for name in experiments}
    for record in records:
        if record.experiment in rounds:
            rounds[record.experiment][round(record.density, 9)][record.seed] = record
    found: list[tuple[str, str, float, dict[int, float]]] = []
    for first, second in combinations(experiments, 2):
        for density in sorted(rounds[first].keys() & rounds[second].keys(), reverse=True):
            pairs = _paired_by_seed(rounds[first][density], rounds[second][density])
            if pairs:
                found.append((first, second, density, pairs))
    intervals = bootstrap_intervals([list(pairs.values()) for *_, pairs in found])
    return [
        Difference(first, second, density, tuple(pairs), sum(pairs.values()) / len(pairs), *(ends or (None, None)))
        for (first, second, density, pairs), ends in zip(found, intervals, strict=True)
    ]


def bootstrap_intervals(samples: Sequence[Sequence[float]]) -> list[tuple[float, float] | None]:
    """Return the percentile interval of each sample's mean; None for a sample of fewer than two values.

    Uses RESAMPLES draws with replacement (Efron and Tibshirani 1993, section 13.3). Samples of equal size share their
    draws, and the generator has a fixed seed, so the same ledger gives the same report.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        by_size[len(sample)].append(index)
    intervals: list[tuple[float, float] | None] = [None] * len(samples)
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]  # in per cent
    for n, indices in sorted(by_size.items()):
        if n < 2:
            continue
        shares = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=RESAMPLES) / n  # (RESAMPLES, n)
        for index in indices:
            values = np.asarray(samples[index])
            # Relative to the mean, so that equal values give an interval of width zero exactly.
            low, high = values.mean() + np.percentile(shares @ (values - values.mean()), tails)
            intervals[index] = (float(low), float(high))
    return intervals


def _paired_by_seed(first: dict[int, Record], second: dict[int, Record]) -> dict[int, float]:
    """Return first minus second by seed, where both have the same network and did not share the round."""
    return {
        seed: first[seed].test - second[seed].test
        for seed in sorted(first.keys() & second.keys())
        if first[seed].key != second[seed].key and _comparable(first[seed]) == _comparable(second[seed])
    }


def _comparable(record: Record) -> list[Any]:
    """Return what must be equal for the densities and the values of two records to be comparable."""
    removed = (record.channels or {}).get("unit", "weights")  # a density counts MACs, parameters or weights
    counted = options_of(record, "selection").get("unit", removed)  # a search for ratios may count others: latency
    settings = [record.settings.get(name) for name in ("model", "model_options", "model_identity", "task")]
    return [*settings, counted, record.objective]


def _qualifiers(groups: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Return for each group the settings that tell it from groups with the same names; "" if no other has them."""
    same_names: dict[tuple[str, str], list[tuple[tuple[str, str, str], dict[str, Any]]]] = {}
    for group in groups:
        same_names.setdefault(group[:2], []).append((group, json.loads(group[2])))
    qualifiers = {}
    for alike in same_names.values():
        first = alike[0][1]
        differing = [name for name in IDENTITY if any(decisive[name] != first[name] for _, decisive in alike)]
        for group, decisive in alike:
            qualifiers[group] = ", ".join(_qualifier(name, decisive[name]) for name in differing)
    return qualifiers


def _qualifier(name: str, value: Any) -> str:
    """Return `data 3fa2b1` for an identity, `data_options size=32` for options, `task Tokens unit=character`."""
    if name == "objective":
        return f"objective {Quantity(Objective(**value)).name}"
    if name == "task" and isinstance(value, dict) and "type" in value:
        options = {field: option for field, option in value.items() if field != "type"}
        return f"task {value['type']}" + (f" {_options_text(options)}" if options else "")
    if name.endswith("_identity"):
        return f"{name.removesuffix('_identity')} {str(value)[:6]}"
    return f"{name} {_options_text(value) if isinstance(value, dict) and value else value or 'none'}"


def _options_text(options: Mapping[str, Any]) -> str:
    return ", ".join(_option_text(name, value) for name, value in options.items())


def _option_text(name: str, value: Any) -> str:
    """Return `width=8`; of an architecture `blocks 3x2 3x3 | 3x4, kernel x expand`, as other tables show it."""
    if name == "architecture":
        with contextlib.suppress(ConfigError):
            architecture = Architecture.from_json(value)
            size = f"{architecture.resolution} px, " if architecture.resolution else ""
            return f"{size}blocks {' | '.join(map(str, architecture.stages))}, kernel x expand"
    return f"{name}={value}"
