"""Where the weights of the recommended network are: the density of each layer."""

from __future__ import annotations

from orchestrator.formatting import compression, percent, shorten
from orchestrator.report.curves import layers
from orchestrator.report.pictures.style import GREY, INK, LINES, Picture, frame, label_of
from orchestrator.report.tasks import Task

MAX_LAYER_LABELS = 40


def layers_picture(task: Task) -> Picture | None:
    """A bar a layer, in the order of the model. None where there is no choice or no layer to show."""
    if task.choice is None:
        return None
    row = task.choice.row
    bars = layers(task.paths[row.experiment], row)
    if not bars:
        return None
    title = "Weights kept in each layer"
    seeds = f"median of {len(row.seeds)} seeds, line from least to greatest" if len(row.seeds) > 1 else "one seed"
    subtitle = f"{label_of(row.experiment)}, {compression(row.compression)}: {seeds}"
    inches = 0.4 + len(bars) * max(0.06, 0.185 - 0.0012 * len(bars))
    figure, (axes,) = frame(title, subtitle, heights=(inches,), left=2.05)
    places = range(len(bars))
    middle = [100 * bar.density.median for bar in bars]
    drawn = axes.barh(places, middle, height=0.72, color=LINES[0], zorder=2)
    for place, bar, patch in zip(places, bars, drawn, strict=True):
        patch.set_gid(f"bar-{place}")
        if bar.density.low < bar.density.high:
            axes.hlines(place, 100 * bar.density.low, 100 * bar.density.high, color=INK, linewidth=1.1, zorder=3)
    axes.axvline(100 * row.density, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2.5)
    right = min(max(100 * bar.density.high for bar in bars) * 1.08 + 0.01, 104)
    axes.set_xlim(0, max(right, 100 * row.density * 1.15))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    step = -(-len(bars) // MAX_LAYER_LABELS)
    axes.set_yticks(places[::step], [shorten(bar.name, 30) for bar in bars[::step]], fontsize=8 if step == 1 else 7)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("kept, of each layer's weights (dashed: of all layers together)")
    if step == 1:
        for place, bar in enumerate(bars):
            text = f"{bar.weights:,}"
            axes.text(1.015, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=GREY)
        axes.text(1.015, 1.005, "weights", transform=axes.transAxes, va="bottom", fontsize=7.5, color=GREY)
    titles = {f"bar-{place}": [_title(bar.name, bar.density.median)] for place, bar in zip(places, bars, strict=True)}
    return Picture("layers", f"{title}: {subtitle}", figure, titles)


def _title(name: str, density: float) -> str:
    return f"{shorten(name, 80)}: {percent(density)} % kept"
