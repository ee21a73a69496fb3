"""What may be compared: experiments with the same model and data, hence the same weights and images to count."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from orchestrator.record import Record
from orchestrator.report.choice import Choice, choose, pareto
from orchestrator.report.paired import Difference, paired_differences
from orchestrator.report.summary import Row, summary

MOST_SHOWN = 8  # experiments with a colour of their own
_ABOUT = (
    "model_options",
    "model_identity",
    "data_options",
    "data_identity",
    "task",
)  # what decides which model and data


@dataclass(frozen=True)
class Task:
    """All rounds of one model on one data set, each by its name. `number` counts the tasks of a report from 1.

    `mark` tells it from the tasks of the same names in the report; "" if there are none.
    """

    number: int
    data: str
    model: str
    records: tuple[Record, ...]
    mark: str = ""

    @property
    def title(self) -> str:
        """`resnet8 (width=8) on digits`, or `resnet8 on digits (data 3fa2b1)` where another task has the same names."""
        return f"{self.model} on {self.data}" + (f" ({self.mark})" if self.mark else "")

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
    def chosen(self) -> list[Record]:
        """The rounds of the recommended row, a record a seed; the best on validation first."""
        if self.choice is None:
            return []
        row = self.choice.row
        records = [record for record in self.paths[row.experiment] if record.round == row.round]
        return sorted(records, key=lambda record: (-record.metrics["val_accuracy"], record.seed))

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


def tasks(records: Iterable[Record], first: Collection[str] = ()) -> list[Task]:
    """Return one task for each model and data set, by their names; those that have a round of the keys `first` lead."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(identity(record), []).append(record)
    found = sorted(groups, key=lambda group: (all(record.key not in first for record in groups[group]), group))
    marks = _marks(found)
    return [
        Task(number, group[0], group[1], tuple(groups[group]), marks[group]) for number, group in enumerate(found, 1)
    ]


def identity(record: Record) -> tuple[str, str, str]:
    """Return (name of the data, name of the model, everything that decides which they are)."""
    settings = record.settings
    model, options = str(settings.get("model", "unknown model")), settings.get("model_options")
    if isinstance(options, dict) and options:
        model += f" ({_options(options)})"
    about = json.dumps({name: settings.get(name) for name in _ABOUT}, sort_keys=True)
    return str(settings.get("data", "unknown data")), model, about


def _marks(groups: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Return what tells each group from those with the same names: the settings that differ; "" where none has them."""
    namesakes: dict[tuple[str, str], list[tuple[tuple[str, str, str], dict[str, Any]]]] = {}
    for group in groups:
        namesakes.setdefault(group[:2], []).append((group, json.loads(group[2])))
    marks = {}
    for alike in namesakes.values():
        differing = [name for name in _ABOUT if any(about[name] != alike[0][1][name] for _, about in alike)]
        for group, about in alike:
            marks[group] = ", ".join(_mark(name, about[name]) for name in differing)
    return marks


def _mark(name: str, value: Any) -> str:
    """Return `data 3fa2b1` for an identity, `data_options size=32` for options."""
    if name.endswith("_identity"):
        return f"{name.removesuffix('_identity')} {str(value)[:6]}"
    return f"{name} {_options(value) if isinstance(value, dict) and value else value or 'none'}"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
