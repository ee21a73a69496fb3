"""Write the report as one self-contained web page, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import formatting
from orchestrator.errors import OrchestratorError
from orchestrator.extras import extra
from orchestrator.files import written_for_report
from orchestrator.formatting import plain, shorten
from orchestrator.record import Record
from orchestrator.report.comparison import CONFIDENCE, RESAMPLES, Comparison, Difference
from orchestrator.report.exported import ExportedSection
from orchestrator.report.paths import count_sharing
from orchestrator.report.pictures import COLOURS
from orchestrator.report.published import SOURCE, PublishedPoint, PublishedResult
from orchestrator.report.summary import RECOMMENDATION_RULE, Row

MAX_OPEN_TABLES = 2  # of experiments, which are visible without a click
EXPORT_STATEMENT = re.compile(r"export\s*\{([^{}]*)\}\s*;?")
FILTERS = (
    formatting.compression, formatting.duration, formatting.milliseconds, formatting.percent, formatting.points,
    formatting.shorten, formatting.size,
)  # fmt: skip


@dataclass(frozen=True)
class SortableTable:
    """Hold the title and kind of each column, and the raw values of each line, of a table that the reader can sort.

    page.js formats the values by kind: text, whole, density, ratio, percent, points, loss, seconds, size.
    """

    columns: list[tuple[str, str]]
    lines: list[list[Any]]


@dataclass(frozen=True)
class PublishedMatch:
    """Pair a round of ours with what was published at its density."""

    row: Row
    point: PublishedPoint


@dataclass(frozen=True)
class Chapter:
    """Prepare the part of the page about one comparison.

    `references` has published results by experiment, `drawings` the pictures as SVG elements by name.
    """

    comparison: Comparison
    references: Mapping[str, PublishedResult]
    drawings: Mapping[str, str]

    @cached_property
    def tables(self) -> list[tuple[str, list[Row], bool]]:
        """Return (name, rows, open at first) of each shown experiment, the recommended one first."""
        names = sorted(self.comparison.shown, key=lambda name: name != self._recommended)
        open_ones = names if len(names) <= MAX_OPEN_TABLES else names[:1]
        return [(name, self.comparison.experiments[name], name in open_ones) for name in names]

    @cached_property
    def medians(self) -> SortableTable | None:
        """Return the rows of all experiments; None if each experiment has a table of its own."""
        if len(self.comparison.shown) == len(self.comparison.experiments):
            return None
        return medians_table(self.comparison.rows)

    @cached_property
    def differences(self) -> tuple[str, list[str], list[tuple[float, list[Difference | None]]]] | None:
        """Compare the first experiment with each other one.

        Return (its name, the other names, (density, differences other minus first) by density); None without pairs.
        """
        if not self.comparison.differences:
            return None
        first = self.comparison.differences[0].first
        found = {(d.density, d.second): d.swapped() for d in self.comparison.differences if d.first == first}
        others = [name for name in self.comparison.shown if any(second == name for _, second in found)]
        densities = sorted({density for density, _ in found}, reverse=True)
        return first, others, [(density, [found.get((density, name)) for name in others]) for density in densities]

    @cached_property
    def all_differences(self) -> SortableTable:
        """Return the differences between every two shown experiments."""
        columns = [
            ("first", "text"), ("second", "text"), ("compression", "ratio"), ("pairs", "whole"),
            ("first - second", "points"), ("low", "points"), ("high", "points"),
        ]  # fmt: skip
        lines = [
            [plain(d.first), plain(d.second), 1 / d.density, len(d.seeds), d.mean, d.low, d.high]
            for d in self.comparison.differences
        ]
        return SortableTable(columns, lines)

    @cached_property
    def published(self) -> list[tuple[str, PublishedResult, list[PublishedMatch]]]:
        """Return (experiment, published result, rounds of equal density) of each experiment that has such rounds."""
        found = []
        for name, reference in sorted(self.references.items(), key=lambda item: item[0] != self._recommended):
            points = {round(point.density, 4): point for point in reference.points}
            rows = [row for row in self.comparison.experiments[name] if row.round and round(row.density, 4) in points]
            found.append((name, reference, [PublishedMatch(row, points[round(row.density, 4)]) for row in rows]))
        return [entry for entry in found if entry[2]]

    @property
    def _recommended(self) -> str | None:
        return self.comparison.recommendation.row.experiment if self.comparison.recommendation else None


def save_page(
    chapters: Sequence[Chapter],
    records: Sequence[Record],
    failures: Iterable[Mapping[str, Any]],
    path: Path,
    exported: ExportedSection | None = None,
) -> Path:
    """Write the page of `chapters` and of exported files, and return `path`.

    Raises OrchestratorError if a package is missing or `path` cannot be written.
    """
    text = render(
        {
            "chapters": chapters,
            "data": ", ".join(dict.fromkeys(shorten(chapter.comparison.data, 60) for chapter in chapters)),
            "exported": exported,
            "experiments": sum(len(chapter.comparison.experiments) for chapter in chapters),
            "sharing": count_sharing(records),
            "rounds": rounds_table(records),
            "failures": list(failures),
        }
    )
    with written_for_report(path):
        path.write_text(text, encoding="utf-8", newline="\n")
    return path


def rounds_table(records: Iterable[Record]) -> SortableTable:
    """Return a table of every finished round of every path."""
    columns = [
        ("experiment", "text"), ("technique", "text"), ("seed", "whole"), ("round", "whole"), ("density", "density"),
        ("compression", "ratio"), ("kept", "whole"), ("val %", "percent"), ("test %", "percent"),
        ("train loss", "loss"), ("epochs", "whole"), ("seconds", "seconds"), ("model file", "size"),
        ("dead layers", "whole"), ("key", "text"),
    ]  # fmt: skip
    lines: list[list[Any]] = [
        [
            plain(record.experiment), plain(record.technique), record.seed, record.round, record.density,
            record.compression, record.weights_kept, record.val, record.test,
            record.metrics.get("train_loss"), record.epochs, record.seconds, record.model_bytes,
            len(record.dead_layers), record.key[:12],
        ]
        for record in sorted(records, key=lambda record: (record.experiment, record.seed, record.round, record.key))
    ]  # fmt: skip
    return SortableTable(columns, lines)


def medians_table(rows: Iterable[Row]) -> SortableTable:
    """Return a table of `rows`."""
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
            row.test.high, row.retraining_epochs, row.bytes, "recommended" if row.recommended else "",
        ]
        for row in rows
    ]  # fmt: skip
    return SortableTable(columns, lines)


def check_page_packages() -> None:
    """Raise OrchestratorError if `render` lacks a package, or has a version of one that it cannot read."""
    with extra("plots", "the report page"):
        import jinja2  # noqa: F401
    _datatables_script()


def render(values: Mapping[str, Any]) -> str:
    """Return the page for the template's `values`. Raises OrchestratorError if a package is missing."""
    with extra("plots", "the report page"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup

    def one_line(value: Any) -> Any:
        """Put text on one line: names come from storage, where other programs may have written."""
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("orchestrator.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=one_line,
    )
    environment.filters.update({function.__name__: function for function in FILTERS})
    environment.filters["markup"] = Markup
    script = _datatables_script() + "\n" + _read_part("page.js")
    constants = {
        "colours": COLOURS,
        "level": round(100 * CONFIDENCE),
        "resamples": RESAMPLES,
        "rule": RECOMMENDATION_RULE,
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "source": SOURCE,
        "style": Markup(_read_part("page.css")),
    }
    return environment.get_template("page.html.j2").render({**constants, **values})


def _datatables_script() -> str:
    """Return DataTables with jQuery from the package itables: a module whose export is turned into a constant.

    itables itself is not imported, because that would load pandas for a second, only to read a file.
    """
    with extra("plots", "the report page"):
        package = importlib.util.find_spec("itables")
        if package is None or not package.submodule_search_locations:
            raise ImportError("No module named 'itables'")
    bundle = Path(package.submodule_search_locations[0], "html", "dt_bundle.js").read_text(encoding="utf-8")
    statements = "".join(EXPORT_STATEMENT.findall(bundle))
    exports = {exported: local for local, exported in re.findall(r"([\w$]+) as ([\w$]+)", statements)}
    if "jQuery" not in exports or "</script" in bundle.lower():
        raise OrchestratorError("this version of itables carries DataTables in another form: pip install 'itables<3'")
    return EXPORT_STATEMENT.sub("", bundle) + f"\nconst jQuery = {exports['jQuery']};"


def _read_part(name: str) -> str:
    return resources.files("orchestrator.report").joinpath(name).read_text(encoding="utf-8")
