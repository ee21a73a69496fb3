"""Define how every picture looks, its axis of values, and its two forms: a PNG file, and an SVG element of the page."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from orchestrator.extras import extra
from orchestrator.files import written_for_report
from orchestrator.formatting import compression, shorten
from orchestrator.report.summary import TOLERANCE, Quantity, Row, Spread

if TYPE_CHECKING:  # matplotlib is optional
    from matplotlib.figure import Figure

# name: (on white, on black). Pictures are drawn with the first colour. In the page it is replaced by a CSS variable of
# that name, so each must differ from all others.
COLOURS = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#212529", "#e6e9ec"),
    "grey": ("#5c6670", "#a2acb6"),
    "grid": ("#e3e7eb", "#2d333a"),
    "crowd": ("#b4bcc4", "#525b65"),
    "line-0": ("#0b6e99", "#52b9e3"),
    "line-1": ("#d9480f", "#ff8f61"),
    "line-2": ("#2b8a3e", "#6bcb7f"),
    "line-3": ("#862e9c", "#d08fe4"),
    "line-4": ("#c2255c", "#f784ad"),
    "line-5": ("#866100", "#d9b23c"),
    "line-6": ("#364fc7", "#93a9ff"),
    "line-7": ("#495057", "#c0c7ce"),
}
INK, GREY, GRID, CROWD, PAPER = (COLOURS[name][0] for name in ("ink", "grey", "grid", "crowd", "paper"))
PIXELS = "#8b949d"  # of what is drawn as pixels, which no CSS variable reaches: visible on white and on black
LINES = tuple(light for name, (light, _) in COLOURS.items() if name.startswith("line-"))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
RING = {
    "marker": "o",
    "linestyle": "none",
    "markersize": 12,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 1.5,
    "zorder": 5,
}

# A phone shows a picture 356 pixels wide. Text of SMALL points then has 10 pixels.
WIDTH = 5.0  # inches of every picture
SMALL, TITLE = 10.3, 12.5  # points
CHARACTER = 0.092  # inches of an average character of small text
LINE = 0.19  # inches from one line of small text to the next
MAX_LINE, MAX_TITLE_LINE = 56, 41  # characters of a line of text
MAX_AXIS_NAME = 22  # characters of the objective's name that labels and titles have space for
MAX_TICKS = 6  # of the axis of values
LEFT, RIGHT = 1.0, 0.22  # inches beside the axes; on the left are the labels of their ticks and their name

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
URL_REFERENCE = re.compile(r"url\(#")
HEX_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|B|kB|MB|GB|ms|s|m|h)(?!\w))")


@dataclass(frozen=True)
class Picture:
    """Hold a drawing, the name of its file, and `alt`, a sentence that says what it shows.

    `titles` maps the gid of a line to the texts of its points, in drawing order. The page shows the text of the point
    that the reader points at, touches or reaches with the arrow keys.
    """

    name: str
    alt: str
    figure: Figure
    titles: dict[str, list[str]] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        """Write a PNG and return `path`. Raises OrchestratorError if it cannot be written."""
        with written_for_report(path), _no_glyph_warnings():
            self.figure.savefig(path, format="png", dpi=200)
        return path

    def svg(self, prefix: str) -> str:
        """Return the drawing as an element of a page. Its ids begin with `prefix`; its colours are CSS variables."""
        data = io.BytesIO()
        with _no_glyph_warnings():
            self.figure.savefig(data, format="svg")
        variables = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
        return svg_element(data.getvalue(), prefix, self.alt, self.titles, variables)


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """Set matplotlib up for drawing and saving pictures inside the block. Raises ConfigError without matplotlib.

    The user's own style file is not used: it would change the picture, or ask for a TeX that is not installed. Names
    are not read as formulas, and the ids in an SVG are the same each time.
    """
    with extra(None, "pictures"):
        from matplotlib import rc_context, rcParamsDefault
    style: dict[Any, Any] = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    style |= {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "report", "text.color": INK}
    with rc_context(style):
        yield


def join_units(text: str) -> str:
    """Return `text` with a space that breaks no line between each number and its unit: `97.31 %`, `4.21 ms`."""
    return BEFORE_UNIT.sub("\u00a0", text)


def new_figure(
    title: str,
    subtitle: str,
    *,
    heights: Sequence[float] = (2.7,),
    left: float = LEFT,
    right: float = RIGHT,
    above: float = 0.0,
    axis: float = 0.56,
    legend: Sequence[tuple[Any, str]] = (),
    note: str = "",
) -> tuple[Figure, list[Any]]:
    """Return a figure and its empty axes, which have `heights` inches and stand one above the other.

    Leaves `above` inches over the first axes, and `axis` for the labels below the last. Below these are `legend`, lines
    or bars and their labels, and `note`.
    """
    from matplotlib.figure import Figure

    titles, subtitles = textwrap.wrap(title, MAX_TITLE_LINE), textwrap.wrap(join_units(subtitle), MAX_LINE)
    notes = [line for part in note.splitlines() for line in textwrap.wrap(join_units(part), MAX_LINE)]
    columns = _legend_columns([label for _, label in legend])
    legend_height = LINE * -(-len(legend) // columns)
    top = 0.12 + 0.22 * len(titles) + LINE * len(subtitles) + 0.14 + above
    gap = 0.16  # inches between axes
    below = axis + legend_height + LINE * len(notes) + (0.1 if legend or notes else 0)
    height = top + sum(heights) + gap * (len(heights) - 1) + below
    figure = Figure(figsize=(WIDTH, height), facecolor=PAPER)
    text = functools.partial(figure.text, 0.12 / WIDTH, va="top", linespacing=1.3)
    text(1 - 0.1 / height, "\n".join(titles), fontsize=TITLE, weight="bold", color=INK)
    text(1 - (0.14 + 0.22 * len(titles)) / height, "\n".join(subtitles), fontsize=SMALL, color=GREY)
    if notes:
        text(0.08 / height, "\n".join(notes), fontsize=SMALL, color=GREY, va="bottom")
    axes, place = [], height - top
    for panel in heights:
        rectangle = (left / WIDTH, (place - panel) / height, 1 - (left + right) / WIDTH, panel / height)
        axes.append(_styled(figure.add_axes(rectangle)))
        place -= panel + gap
    if legend:
        figure.legend(
            [handle for handle, _ in legend],
            [" " + label for _, label in legend],  # matplotlib leaves out a label that begins with "_"
            loc="lower left", bbox_to_anchor=(0.08 / WIDTH, (0.06 + LINE * len(notes)) / height), ncols=columns,
            frameon=False, fontsize=SMALL, labelcolor=INK, handlelength=1.9, handletextpad=0.3, columnspacing=1,
            labelspacing=0.28, borderpad=0.2, borderaxespad=0,
        )  # fmt: skip
    return figure, axes


class ValueAxis:
    """Turn values of an objective into numbers to draw, and set up the axis.

    Numbers grow upwards, as readers expect, and the label says where lower is better. The caller computes the ends of
    the axis in gains, which are larger where values are better, so one computation serves both directions. Drawn
    numbers and gains of fractions are in per cent. `tolerance` is how much worse than the best of `values` a
    recommended network may be, or a small number if the best is zero: a measure for the height of the axis.
    """

    def __init__(self, quantity: Quantity, values: Iterable[float]) -> None:
        self.quantity, self._objective, values = quantity, quantity.objective, list(values)
        self._factor = 100 if self._objective.fraction else 1
        best, largest = max(values, key=self._objective.gain), max(values, key=abs)
        self.tolerance = self._factor * (quantity.tolerance(best) or quantity.tolerance(largest) or TOLERANCE)

    @property
    def name(self) -> str:
        """Return the objective's name, as long as there is space for."""
        return shorten(self.quantity.name, MAX_AXIS_NAME)

    @property
    def gain_bounds(self) -> tuple[float, float]:
        """Return the worst and the best gain that there can be."""
        worst, best = sorted(map(self.gain, self._objective.limits))
        return worst, best

    def drawn(self, value: float) -> float:
        """Return the number that is drawn for `value`."""
        return self._factor * value

    def gain(self, value: float) -> float:
        """Return the gain of `value`."""
        return self._objective.gain(self.drawn(value))

    def gains(self, spread: Spread) -> tuple[float, float]:
        """Return the worst and the best gain of a spread over seeds."""
        worst, best = sorted((self.gain(spread.low), self.gain(spread.high)))
        return worst, best

    def drawn_gain(self, gain: float) -> float:
        """Return the number that is drawn for a value of this gain."""
        return self._objective.gain(gain)  # undoes itself

    def rounded_down(self, gain: float) -> float:
        """Return a gain of few digits that is not above `gain`."""
        step = 10.0 ** math.ceil(math.log10(self.tolerance))
        return math.floor(gain / step) * step

    def set_up(self, axes: Any, worst: float, best: float, data: str) -> None:
        """Give `axes` these gains as ends, and a label that says which `data` was measured on and what is better."""
        from matplotlib.ticker import MaxNLocator

        ends = sorted((self.drawn_gain(worst), self.drawn_gain(best)))
        worst_possible, best_possible = self.gain_bounds
        ticks = [float(tick) for tick in MaxNLocator(MAX_TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends)]
        inside = [
            tick
            for tick in ticks
            if ends[0] <= tick <= ends[1] and worst_possible <= self.drawn_gain(tick) <= best_possible
        ]
        axes.set_yticks(inside, [f"{tick:g}{self.quantity.unit}" for tick in inside])
        axes.set_ylim(*ends)
        direction = self.quantity.direction
        axes.set_ylabel(f"{data} {self.name}" + (f"\n({direction})" if direction else ""))


def handle(**style: Any) -> Any:
    """Return an entry of a legend: a line with this style, which is drawn nowhere else."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def thinned(ticks: Iterable[float], labels: Callable[[float], str], places: Callable[[float], float]) -> list[float]:
    """Return those of rising `ticks` whose labels have space beside each other, each label once.

    `places` maps a tick to its place along the axis, from 0 to 1. The axis is a horizontal one.
    """
    kept: list[float] = []
    seen: set[str] = set()
    end = -1.0
    for tick in ticks:
        half = 0.5 * CHARACTER * len(labels(tick)) / (WIDTH - LEFT - RIGHT)
        if labels(tick) not in seen and places(tick) - half >= end:
            kept.append(tick)
            seen.add(labels(tick))
            end = places(tick) + half + CHARACTER / (WIDTH - LEFT - RIGHT)
    return kept


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if len(labels) > 1 and max(map(len, labels)) <= 20 else 1


def point_title(row: Row, name: str) -> str:
    """Return the text that the page shows of a point. `name` is the experiment's."""
    unit, measured = row.quantity.unit, row.quantity.name
    return (
        f"{name}, round {row.round}: {compression(row.compression)}, "
        f"test {measured} {row.text(row.test)}{unit}, validation {row.quantity.text(row.validation.median)}, "
        f"{row.retraining_epochs:,} epochs of retraining"
    )


def svg_element(
    svg: bytes, prefix: str, alt: str, titles: Mapping[str, Sequence[str]], variables: Mapping[str, str]
) -> str:
    """Turn an SVG file of matplotlib into an element of a page that holds several.

    Ids and references get `prefix`, and colours in styles become `variables`. The k-th marker (or shape) of the group
    whose id is a key of `titles` gets the k-th text as its title. Screen readers read `alt`.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for group in list(root.iter(f"{{{SVG}}}g")):
        _add_titles(group, titles.get(group.get("id", ""), ()))
    for parent in list(root.iter()):
        for child in list(parent):
            # The metadata changes with matplotlib's version. The style would apply to the whole page.
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _rewrite(element, prefix, variables)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _add_titles(group: ElementTree.Element, texts: Sequence[str]) -> None:
    markers = list(group.iter(f"{{{SVG}}}use")) or list(group.iter(f"{{{SVG}}}path"))
    if len(markers) == len(texts):  # else matplotlib has left out a point outside the figure
        for marker, text in zip(markers, texts, strict=True):
            ElementTree.SubElement(marker, f"{{{SVG}}}title").text = join_units(text)


def _rewrite(element: ElementTree.Element, prefix: str, variables: Mapping[str, str]) -> None:
    """Prefix the ids and references of `element`, and replace its colours by `variables`."""
    if "id" in element.attrib:
        element.set("id", prefix + element.attrib["id"])
    if element.get(HREF, "").startswith("#"):
        element.set(HREF, f"#{prefix}{element.attrib[HREF][1:]}")
    for name in ("clip-path", "style"):
        if name in element.attrib:
            element.set(name, URL_REFERENCE.sub(f"url(#{prefix}", element.attrib[name]))
    if "style" in element.attrib:
        style = HEX_COLOUR.sub(lambda colour: variables.get(colour[0], colour[0]), element.attrib["style"])
        element.set("style", style)


def _styled(axes: Any) -> Any:
    axes.set_facecolor(PAPER)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.xaxis.label.set(color=GREY, fontsize=SMALL)
    axes.yaxis.label.set(color=GREY, fontsize=SMALL)
    return axes


@contextlib.contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Silence the warning that the font lacks a script. The PNG shows boxes instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield
