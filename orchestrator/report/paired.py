"""Differences between experiments, paired by seed: what two techniques make of the same dense network.

Two runs of one seed share initialisation, order of the data and the dense round, so their difference varies less
from seed to seed than either accuracy does.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from orchestrator.record import Record

RESAMPLES = 10_000
CONFIDENCE = 0.95
MIN_PAIRS = 6
Rounds = dict[float, dict[int, Record]]  # density -> seed -> round


@dataclass(frozen=True)
class Difference:
    """Mean of test accuracy of `first` minus `second` at one density over the seeds that both have finished.

    `low`, `high`: the bootstrap interval, None with fewer than two pairs. Fractions.
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
        """Whether the interval leaves out zero, and there are pairs enough for it to mean that.

        Signs that all agree are chance in more than one of twenty cases until there are six (2 / 2^6 = 3 %), and the
        interval of so few values hardly reaches beyond them.
        """
        ends = self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
        return ends and len(self.seeds) >= MIN_PAIRS


def paired_differences(records: Iterable[Record], experiments: Sequence[str]) -> list[Difference]:
    """Of every two of `experiments`, in their order, at each density that both reached with the same network.

    Rounds that the two share are no comparison and are left out.
    """
    rounds: dict[str, Rounds] = {name: defaultdict(dict) for name in experiments}
    for record in records:
        if record.experiment in rounds:
            rounds[record.experiment][round(record.density, 9)][record.seed] = record
    found: list[tuple[str, str, float, dict[int, float]]] = []
    for first, second in combinations(experiments, 2):
        for density in sorted(rounds[first].keys() & rounds[second].keys(), reverse=True):
            pairs = _pairs(rounds[first][density], rounds[second][density])
            if pairs:
                found.append((first, second, density, pairs))
    intervals = bootstrap([list(pairs.values()) for *_, pairs in found])
    return [
        Difference(first, second, density, tuple(pairs), sum(pairs.values()) / len(pairs), *(ends or (None, None)))
        for (first, second, density, pairs), ends in zip(found, intervals, strict=True)
    ]


def bootstrap(samples: Sequence[Sequence[float]]) -> list[tuple[float, float] | None]:
    """The percentile interval of each sample's mean (Efron and Tibshirani 1993, section 13.3); None below two values.

    RESAMPLES draws with replacement, the same ones for all samples of a size: the generator has a fixed seed, so a
    report of the same ledger is the same report.
    """
    import numpy as np

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
            # Around their mean, so that equal values give an interval of exactly no width.
            low, high = values.mean() + np.percentile(shares @ (values - values.mean()), tails)
            intervals[index] = (float(low), float(high))
    return intervals


def _pairs(first: dict[int, Record], second: dict[int, Record]) -> dict[int, float]:
    """Seed -> difference, of the seeds where both are the same network and neither is the other's round."""
    return {
        seed: first[seed].metrics["test_accuracy"] - second[seed].metrics["test_accuracy"]
        for seed in sorted(first.keys() & second.keys())
        if first[seed].key != second[seed].key and _network(first[seed]) == _network(second[seed])
    }


def _network(record: Record) -> str:
    settings = record.settings
    counted = (record.channels or {}).get("unit", "weights")  # densities of MACs and of weights are no comparison
    network = [settings.get(name) for name in ("model", "model_options", "model_identity")]
    return json.dumps([*network, counted], sort_keys=True)
