"""How every picture looks: its colours, its frame, and the file formats it comes in."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.extras import extra
from orchestrator.files import written_for_report
from orchestrator.formatting import shorten
from orchestrator.report.pictures.svg import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name: (on white, on black). The first is what is drawn; in the page it is replaced by a variable of that name, so
# each must differ from all others.
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
SHADE = "#8b949d"  # of what is drawn as pixels: no variable reaches them, so it must do on white and on black
LINES = tuple(light for name, (light, _) in COLOURS.items() if name.startswith("line-"))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

WIDTH = 6.2  # inches of every picture
LEFT, RIGHT, TOP = 0.62, 0.72, 0.76  # inches around the axes


@dataclass(frozen=True)
class Picture:
    """A drawing: the name of its file, a sentence that says what it shows, and what its points say when pointed at.

    `titles`: texts of the points of the line with that gid, in the order in which they were drawn.
    """

    name: str
    alt: str
    figure: Figure
    titles: dict[str, list[str]] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        """Write a PNG. Raises OrchestratorError if `path` cannot be written."""
        with written_for_report(path), _quiet():
            self.figure.savefig(path, format="png", dpi=200)
        return path

    def svg(self, prefix: str) -> str:
        """The drawing as an element of a page, its colours as the page's variables, its ids after `prefix`."""
        data = io.BytesIO()
        with _quiet():
            self.figure.savefig(data, format="svg")
        variables = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
        return inline(data.getvalue(), prefix, self.alt, self.titles, variables)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within it pictures are drawn and saved. Raises ConfigError without matplotlib.

    The user's own style file would change the picture, or ask for a TeX that is not there. Names are no formulas,
    and ids come out the same each time.
    """
    with extra("plots", "pictures"):
        from matplotlib import rc_context, rcParamsDefault
    style: dict[Any, Any] = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    style |= {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "report", "text.color": INK}
    with rc_context(style):
        yield


def frame(
    title: str,
    subtitle: str,
    *,
    heights: Sequence[float] = (3.2,),
    left: float = LEFT,
    right: float = RIGHT,
    legend: int = 0,
    note: str = "",
) -> tuple[Figure, list[Any]]:
    """An empty figure with panels of `heights` inches one above the other, room for `legend` lines, and a note."""
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
        place = (left / WIDTH, (top - panel) / height, 1 - (left + right) / WIDTH, panel / height)
        axes.append(_dress(figure.add_axes(place)))
        top -= panel + gap
    return figure, axes


def legend(figure: Figure, axes: Any, entries: Sequence[tuple[Any, str]], columns: int, *, note: str = "") -> None:
    """What each line is, below the axes."""
    bottom = (0.06 + (0.08 + 0.16 * (note.count("\n") + 1) if note else 0)) / float(figure.get_figheight())
    figure.legend(
        [handle for handle, _ in entries],
        [" " + label for _, label in entries],  # matplotlib leaves out a label that begins with "_"
        loc="lower left", bbox_to_anchor=(0.1 / WIDTH, bottom), ncols=columns, frameon=False, fontsize=8.3,
        labelcolor=INK, handlelength=2.2, columnspacing=1.6, labelspacing=0.45, borderpad=0.2, borderaxespad=0,
    )  # fmt: skip


def legend_shape(labels: Sequence[str]) -> tuple[int, int]:
    """(lines, columns) that `labels` take."""
    columns = 2 if max(map(len, labels), default=0) <= 40 else 1
    return -(-len(labels) // columns), columns


def _dress(axes: Any) -> Any:
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
def _quiet() -> Iterator[None]:
    """A name in a script that the font lacks is drawn as boxes in the PNG, and is no reason to warn anybody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def label_of(name: str) -> str:
    """An experiment's name where there is little room."""
    return shorten(name, 30)
