"""What may be compared: experiments on the same data, hence on the same validation and test images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from orchestrator.report.choice import Choice, choose, pareto
from orchestrator.report.paired import Difference, paired_differences
from orchestrator.report.summary import Row, summary

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Record

MOST_SHOWN = 8  # experiments with a colour of their own


@dataclass(frozen=True)
class Task:
    """All rounds on one data set. `data` is its name; `number` counts the tasks of a report from 1."""

    number: int
    data: str
    records: tuple[Record, ...]

    @cached_property
    def rows(self) -> list[Row]:
        return summary(self.records)

    @cached_property
    def experiments(self) -> dict[str, list[Row]]:
        """The rows of each experiment, by name."""
        return {name: list(rows) for name, rows in groupby(self.rows, key=lambda row: row.experiment)}

    @cached_property
    def paths(self) -> dict[str, list[Record]]:
        """The records of each experiment, by name."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.experiment, []).append(record)
        return found

    @cached_property
    def choice(self) -> Choice | None:
        return choose(self.rows)

    @cached_property
    def front(self) -> list[Row]:
        return pareto(self.rows)

    @cached_property
    def shown(self) -> list[str]:
        """All experiments, or of many those with the smallest recommended networks; by name."""
        if len(self.experiments) <= MOST_SHOWN:
            return list(self.experiments)
        return sorted(sorted(self.experiments, key=self._rank)[:MOST_SHOWN])

    @cached_property
    def differences(self) -> list[Difference]:
        """Between the experiments that are shown; the one of the recommended network comes first."""
        first = [self.choice.row.experiment] if self.choice else []
        return paired_differences(self.records, first + [name for name in self.shown if name not in first])

    def _rank(self, name: str) -> tuple[float, float, str]:
        if self.choice and name == self.choice.row.experiment:
            return -1, 0, name
        best = next((row for row in self.experiments[name] if row.recommended), None)
        return (1 / best.compression, -best.validation.median, name) if best else (math.inf, 0, name)


def tasks(records: Iterable[Record]) -> list[Task]:
    """One task a data set, by its name."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(_data(record), []).append(record)
    found: Sequence[tuple[str, str]] = sorted(groups)
    return [Task(number, key[0], tuple(groups[key])) for number, key in enumerate(found, start=1)]


def _data(record: Record) -> tuple[str, str]:
    """(name, everything that decides which images are trained on and tested with)."""
    settings = record.settings
    identity = json.dumps([settings.get(name) for name in ("data_options", "data_identity")], sort_keys=True)
    return str(settings.get("data", "unknown data")), identity
