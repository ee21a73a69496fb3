"""How every picture looks, and the two forms it is saved in: a PNG file, and an SVG element of the page."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from orchestrator.extras import extra
from orchestrator.files import written_for_report
from orchestrator.formatting import compression, shorten
from orchestrator.report.summary import Row

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
RING = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.5, "zorder": 5}

WIDTH = 6.2  # inches of every picture
LEFT, RIGHT, TOP = 0.62, 0.72, 0.76  # inches around the axes

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
URL_REFERENCE = re.compile(r"url\(#")
HEX_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


@dataclass(frozen=True)
class Picture:
    """Hold a drawing, the name of its file, and `alt`, a sentence that says what it shows.

    `titles` maps the gid of a line to the texts of its points, in drawing order. A text is shown at the pointer.
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


def new_figure(
    title: str,
    subtitle: str,
    *,
    heights: Sequence[float] = (3.2,),
    left: float = LEFT,
    right: float = RIGHT,
    legend: int = 0,
    note: str = "",
) -> tuple[Figure, list[Any]]:
    """Return a figure and its empty axes, which have `heights` inches and stand one above the other.

    Leaves space below them for `legend` lines and for `note`.
    """
    from matplotlib.figure import Figure

    lines = note.count("\n") + 1 if note else 0
    below = 0.56 + 0.2 * legend + 0.16 * lines + (0.08 if legend and lines else 0)
    gap = 0.22
    height = TOP + sum(heights) + gap * (len(heights) - 1) + below
    figure = Figure(figsize=(WIDTH, height), facecolor=PAPER)
    figure.text(0.16 / WIDTH, 1 - 0.3 / height, title, fontsize=13.5, weight="bold", color=INK)
    figure.text(0.16 / WIDTH, 1 - 0.53 / height, shorten(subtitle, 90), fontsize=8.8, color=GREY)
    if note:
        figure.text(0.16 / WIDTH, 0.09 / height, note, fontsize=7.8, color=GREY, linespacing=1.35, va="bottom")
    axes, top = [], height - TOP
    for panel in heights:
        rectangle = (left / WIDTH, (top - panel) / height, 1 - (left + right) / WIDTH, panel / height)
        axes.append(_styled(figure.add_axes(rectangle)))
        top -= panel + gap
    return figure, axes


def add_legend(figure: Figure, entries: Sequence[tuple[Any, str]], columns: int, *, note: str = "") -> None:
    """Draw the legend below the axes, above `note`. Each entry is a line or bar and its label."""
    bottom = (0.06 + (0.08 + 0.16 * (note.count("\n") + 1) if note else 0)) / float(figure.get_figheight())
    figure.legend(
        [handle for handle, _ in entries],
        [" " + label for _, label in entries],  # matplotlib leaves out a label that begins with "_"
        loc="lower left", bbox_to_anchor=(0.1 / WIDTH, bottom), ncols=columns, frameon=False, fontsize=8.3,
        labelcolor=INK, handlelength=2.2, columnspacing=1.6, labelspacing=0.45, borderpad=0.2, borderaxespad=0,
    )  # fmt: skip


def legend_shape(labels: Sequence[str]) -> tuple[int, int]:
    """Return the numbers of lines and columns of a legend with `labels`."""
    columns = 2 if max(map(len, labels), default=0) <= 40 else 1
    return -(-len(labels) // columns), columns


def short_name(experiment: str) -> str:
    """Shorten an experiment's name to what a picture has space for."""
    return shorten(experiment, 30)


def point_title(row: Row) -> str:
    """Return the text that a point shows at the pointer."""
    unit, name = row.quantity.unit, row.quantity.name
    return (
        f"{short_name(row.experiment)}, round {row.round}: {compression(row.compression)}, "
        f"test {name} {row.text(row.test)}{unit}, validation {row.quantity.text(row.validation.median)}, "
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
            ElementTree.SubElement(marker, f"{{{SVG}}}title").text = text


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
    axes.tick_params(length=0, labelsize=9, labelcolor=INK, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.xaxis.label.set(color=GREY, fontsize=9)
    axes.yaxis.label.set(color=GREY, fontsize=9)
    return axes


@contextlib.contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Silence the warning that the font lacks a script. The PNG shows boxes instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield
