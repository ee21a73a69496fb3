"""Write the report as one self-contained web page, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import formatting
from orchestrator.errors import OrchestratorError
from orchestrator.extras import extra
from orchestrator.files import written_for_report
from orchestrator.formatting import plain, shorten
from orchestrator.record import Record
from orchestrator.report.chapters.exported import ExportedSection
from orchestrator.report.comparison import CONFIDENCE, RESAMPLES, Comparison, Difference
from orchestrator.report.pictures import COLOURS, Picture
from orchestrator.report.pictures.style import join_units
from orchestrator.report.published import SOURCE, PublishedPoint, PublishedResult
from orchestrator.report.summary import Quantity, Row
from orchestrator.report.tables import SortableTable, TextTable, medians_table, pairs_table, rounds_table

MAX_OPEN_TABLES = 2  # of experiments, which are visible without a click
EXPORT_STATEMENT = re.compile(r"export\s*\{([^{}]*)\}\s*;?")
FILTERS = (
    formatting.compression, formatting.duration, formatting.milliseconds, plain, formatting.size,
)  # fmt: skip


@dataclass(frozen=True)
class Sharing:
    """Count finished rounds and their epochs, as the paths ask for them and as they were trained."""

    rounds_asked: int
    rounds_trained: int
    epochs_asked: int
    epochs_trained: int

    @property
    def saved(self) -> float:
        """Return the fraction of the asked epochs that did not have to be trained."""
        return 1 - self.epochs_trained / self.epochs_asked if self.epochs_asked else 0.0


@dataclass(frozen=True)
class PublishedMatch:
    """Pair a round of ours with what was published at its density."""

    row: Row
    point: PublishedPoint


@dataclass(frozen=True)
class Section:
    """Hold one section of a chapter. `name` is a word that no other section of the chapter has."""

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[TextTable] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Chapter:
    """Prepare the part of the page about one comparison.

    `references` has published results by experiment, `drawings` all pictures as SVG elements by name. `sections` stand
    after the others. `command` exports the recommended round; "" if none is recommended. `may_need_data` says that the
    command may need the folder of the data. `load_call` stands in place of a command that cannot import the round's
    functions, which are of a script or notebook.
    """

    comparison: Comparison
    references: Mapping[str, PublishedResult]
    drawings: Mapping[str, str]
    sections: Sequence[Section] = ()
    command: str = ""
    may_need_data: bool = False
    load_call: str = ""

    @property
    def end(self) -> str:
        """Return what the names of this chapter's picture files end in: `-2` for the second chapter."""
        return f"-{self.comparison.number}" if self.comparison.number > 1 else ""

    @property
    def quantity(self) -> Quantity:
        return self.comparison.quantity

    @property
    def typical(self) -> float:
        """Return a test value that says how many decimals differences need."""
        return self.comparison.rows[0].test.median

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
        return medians_table(self.comparison.rows, self.quantity)

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
        return pairs_table(self.comparison.differences, self.quantity, self.typical)

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


def count_sharing(records: Iterable[Record]) -> Sharing:
    """Count the shared rounds of `records` from `path_records`, where a round appears once for each of its paths.

    Several searches of one supernet ask for its rounds once: a search trains none of them.
    """
    paths: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        paths.setdefault((record.experiment, record.seed), []).append(record)
    asked: list[Record] = []
    supernets: set[tuple[str, ...]] = set()
    for path in paths.values():
        phases = [place for place, record in enumerate(path) if "phase" in record.settings]
        supernet = tuple(record.key for record in path[: phases[-1] + 1]) if phases else ()
        asked += path[len(supernet) :] if supernet in supernets else path
        supernets.add(supernet)
    trained = {record.key: record for record in asked}.values()
    return Sharing(
        rounds_asked=len(asked),
        rounds_trained=len(trained),
        epochs_asked=sum(record.epochs for record in asked),
        epochs_trained=sum(record.epochs for record in trained),
    )


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
            "rules": list(dict.fromkeys(chapter.quantity.rule for chapter in chapters)),
        }
    )
    with written_for_report(path):
        path.write_text(text, encoding="utf-8", newline="\n")
    return path


def check_page_packages() -> None:
    """Raise OrchestratorError if `render` lacks a package, or has a version of one that it cannot read."""
    with extra(None, "the report page"):
        import jinja2  # noqa: F401
    _datatables_script()


def render(values: Mapping[str, Any]) -> str:
    """Return the page for the template's `values`. Raises OrchestratorError if a package is missing."""
    check_page_packages()
    template = _template()
    from markupsafe import Markup

    script = _datatables_script() + "\n" + _read_part("page.js")
    constants = {
        "colours": COLOURS,
        "level": round(100 * CONFIDENCE),
        "resamples": RESAMPLES,
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "source": SOURCE,
        "style": Markup(_read_part("page.css")),
    }
    text: str = template.render({**constants, **values})
    return text


@cache
def _template() -> Any:
    """Return jinja2's template of the page, which is compiled once in a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def one_line(value: Any) -> Any:
        """Put text on one line: names come from storage, where other programs may have written. Join units."""
        return join_units(plain(value)) if isinstance(value, str) and not isinstance(value, Markup) else value

    def shortened(name: str, max_length: int) -> Markup:
        """Shorten a name, and leave its spaces as they are: readers copy names."""
        return escape(shorten(name, max_length))

    environment = Environment(
        loader=PackageLoader("orchestrator.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=one_line,
    )
    environment.filters.update({function.__name__: function for function in FILTERS})
    environment.filters |= {"markup": Markup, "shorten": shortened}
    return environment.get_template("page.html.j2")


def _datatables_script() -> str:
    """Return DataTables with jQuery from the package itables: a module whose export is turned into a constant.

    itables itself is not imported, because that would load pandas for a second, only to read a file.
    """
    with extra(None, "the report page"):
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
