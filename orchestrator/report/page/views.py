"""What the page shows, as values that its template only has to lay out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.formatting import plain
from orchestrator.record import Record
from orchestrator.report.paired import Difference
from orchestrator.report.pictures import Picture
from orchestrator.report.published import Published, PublishedPoint
from orchestrator.report.summary import Row
from orchestrator.report.tasks import Task

OPEN_TABLES = 2  # experiments whose tables need no click


@dataclass(frozen=True)
class Grid:
    """A table that the reader sorts and filters: (title, kind) of each column, and the raw values of each line.

    Kinds, which page.js formats: text, whole, density, ratio, percent, points, loss, seconds, size.
    """

    columns: list[tuple[str, str]]
    lines: list[list[Any]]


@dataclass(frozen=True)
class Comparison:
    """A round of ours and what was published at its density."""

    row: Row
    point: PublishedPoint


@dataclass(frozen=True)
class Chapter:
    """One task and its drawings, by name, as elements of the page."""

    task: Task
    references: Mapping[str, Published]
    drawings: Mapping[str, str]

    @cached_property
    def tables(self) -> list[tuple[str, list[Row], bool]]:
        """(name, rows, open at first) of each experiment that is shown, the recommended one first."""
        chosen = self.task.choice.row.experiment if self.task.choice else None
        names = sorted(self.task.shown, key=lambda name: name != chosen)
        open_ones = names if len(names) <= OPEN_TABLES else names[:1]
        return [(name, self.task.experiments[name], name in open_ones) for name in names]

    @cached_property
    def medians(self) -> Grid | None:
        """All experiments round by round, where there are too many to have a table each."""
        return medians_table(self.task.rows) if len(self.task.shown) < len(self.task.experiments) else None

    @cached_property
    def against(self) -> tuple[str, list[str], list[tuple[float, list[Difference | None]]]] | None:
        """(reference, the others, (density, others minus reference) by density), where two may be compared."""
        differences = self.task.differences
        if not differences:
            return None
        reference = differences[0].first
        others = [
            name for name in self.task.shown if any((d.first, d.second) == (reference, name) for d in differences)
        ]
        found = {(d.density, d.second): d for d in differences if d.first == reference}
        densities = sorted({density for density, _ in found}, reverse=True)
        return reference, others, [(d, [_turned(found.get((d, name))) for name in others]) for d in densities]

    @cached_property
    def pairs(self) -> Grid:
        """Every difference between the experiments that are shown."""
        columns = [
            ("first", "text"), ("second", "text"), ("compression", "ratio"), ("pairs", "whole"),
            ("first - second", "points"), ("low", "points"), ("high", "points"),
        ]  # fmt: skip
        lines = [
            [plain(d.first), plain(d.second), 1 / d.density, len(d.seeds), d.mean, d.low, d.high]
            for d in self.task.differences
        ]
        return Grid(columns, lines)

    @cached_property
    def beside(self) -> list[tuple[str, Published, list[Comparison]]]:
        """(experiment, what was published, the rounds of which it tells the density) for each one that has such."""
        found = []
        chosen = self.task.choice.row.experiment if self.task.choice else None
        for name, reference in sorted(self.references.items(), key=lambda item: item[0] != chosen):
            points = {round(point.density, 4): point for point in reference.points}
            rows = [row for row in self.task.experiments[name] if row.round and round(row.density, 4) in points]
            found.append((name, reference, [Comparison(row, points[round(row.density, 4)]) for row in rows]))
        return [entry for entry in found if entry[2]]


def rounds_table(records: Iterable[Record]) -> Grid:
    """Every finished round of every path."""
    columns = [
        ("experiment", "text"), ("technique", "text"), ("seed", "whole"), ("round", "whole"), ("density", "density"),
        ("compression", "ratio"), ("kept", "whole"), ("val %", "percent"), ("test %", "percent"),
        ("train loss", "loss"), ("epochs", "whole"), ("seconds", "seconds"), ("model file", "size"),
        ("dead layers", "whole"), ("key", "text"),
    ]  # fmt: skip
    lines: list[list[Any]] = [
        [
            plain(record.experiment), plain(record.technique), record.seed, record.round, record.density,
            record.compression, record.weights_kept, record.metrics["val_accuracy"], record.metrics["test_accuracy"],
            record.metrics["train_loss"], record.epochs, record.seconds, record.model_bytes, len(record.dead_layers),
            record.key[:12],
        ]
        for record in sorted(records, key=lambda record: (record.experiment, record.seed, record.round, record.key))
    ]  # fmt: skip
    return Grid(columns, lines)


def medians_table(rows: Iterable[Row]) -> Grid:
    """Every row of a summary."""
    columns = [
        ("experiment", "text"), ("technique", "text"), ("round", "whole"), ("compression", "ratio"),
        ("kept", "whole"), ("seeds", "whole"), ("val %", "percent"), ("val min", "percent"), ("val max", "percent"),
        ("test %", "percent"), ("test min", "percent"), ("test max", "percent"), ("epochs so far", "whole"),
        ("model file", "size"), ("choice", "text"),
    ]  # fmt: skip
    lines: list[list[Any]] = [
        [
            plain(row.experiment), plain(row.technique), row.round, row.compression, row.weights_kept, len(row.seeds),
            row.validation.median, row.validation.low, row.validation.high, row.test.median, row.test.low,
            row.test.high, row.cost, row.bytes, "recommended" if row.recommended else "",
        ]
        for row in rows
    ]  # fmt: skip
    return Grid(columns, lines)


def drawings_of(pictures: Iterable[Picture], prefix: str) -> dict[str, str]:
    """Each picture as an element of the page, by its name; `prefix` keeps the ids of chapters apart."""
    return {picture.name: picture.svg(f"{prefix}{picture.name}-") for picture in pictures}


def _turned(difference: Difference | None) -> Difference | None:
    """Second minus first."""
    if difference is None:
        return None
    low, high = difference.low, difference.high
    return Difference(
        difference.second, difference.first, difference.density, difference.seeds, -difference.mean,
        None if high is None else -high, None if low is None else -low,
    )  # fmt: skip
