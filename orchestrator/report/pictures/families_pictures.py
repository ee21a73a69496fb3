"""Networks of several methods in one picture, and what they cost by the number of networks wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.export.proof import ExportedNetworks
from orchestrator.formatting import milliseconds, size
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison
from orchestrator.report.families import FAMILIES, Families, FamilyPoint, families_of
from orchestrator.report.page import Section
from orchestrator.report.pictures.style import GREY, LINES, MARKERS, Picture, handle, new_figure

GAP = 0.5  # inches between two panels, for the names of their axes
MAX_TARGETS = 40


def families_section(
    comparison: Comparison, every: Iterable[Record], exported: ExportedNetworks | None
) -> list[Section]:
    """Return the section of a chapter about methods side by side, if it has several (see `families_of`)."""
    families = families_of(comparison, every, exported)
    if families is None:
        return []
    return [Section("methods", "Methods side by side", families.sentences, pictures=families_pictures(families))]


def families_pictures(families: Families) -> list[Picture]:
    """Draw validation values against size, multiply-accumulates and measured time, and the total epochs."""
    return [_front(families), _cost(families)]


def _front(families: Families) -> Picture:
    panels: list[tuple[str, Callable[[FamilyPoint], float | None], Callable[[float], str]]] = [
        ("size of the model file (bytes)", lambda each: each.record.model_bytes, lambda value: size(round(value))),
        ("multiply-accumulates", lambda each: each.macs, _short),
    ]
    if any(each.seconds is not None for each in families.points):
        panels.append(("time for one sample, fastest file", lambda each: each.seconds, milliseconds))
    heights = [height for _ in panels for height in (1.9, GAP)]
    title, name = "Small and fast networks by method", families.quantity.name
    shown = [family for family in FAMILIES if any(each.family == family for each in families.points)]
    legend = [(handle(**_style(family)), family) for family in shown]
    figure, axes = new_figure(title, f"validation {name} of each network", heights=heights, axis=0, legend=legend)
    factor = 100 if families.quantity.objective.fraction else 1
    titles: dict[str, list[str]] = {}
    for number, (label, cost_of, text_of) in enumerate(panels):
        panel = axes[2 * number]
        axes[2 * number + 1].set_axis_off()
        for family in FAMILIES:
            known = [(cost, each) for each in families.points if each.family == family and (cost := cost_of(each))]
            if known:
                gid = f"families-{number}-{FAMILIES.index(family)}"
                values = [factor * each.record.val for _, each in known]
                panel.plot([cost for cost, _ in known], values, gid=gid, **_style(family))
                titles[gid] = [
                    f"{e.name}: {text_of(cost)}, {families.quantity.text(e.record.val)}" for cost, e in known
                ]
        panel.set_xscale("log")
        panel.minorticks_off()
        _ticks(panel, text_of)
        panel.set_xlabel(label)
        panel.set_ylabel(f"validation{families.quantity.unit}")
    return Picture("families", f"{title}: {len(families.points)} networks", figure, titles)


def _cost(families: Families) -> Picture:
    """Draw the total epochs of each method by the number of networks wanted."""
    most = min(MAX_TARGETS, max(6, 2 * (families.cheaper_from or 3)))
    targets, title = range(1, most + 1), "Total epochs by the number of targets"
    note = "Each sub-network of a step counts as an epoch of its own."
    legend = [(handle(**_style(costs.family, line="-")), costs.family) for costs in families.costs]
    figure, (axes,) = new_figure(title, "training, retraining and search", heights=(2.2,), note=note, legend=legend)
    for costs in families.costs:
        axes.plot(targets, [costs.of(count) for count in targets], **_style(costs.family, line="-"))
    if (cheaper := families.cheaper_from) is not None and cheaper <= most:
        axes.axvline(cheaper, color=GREY, linewidth=1.1, linestyle=":")
    axes.set_xlabel("networks wanted")
    axes.set_ylabel("epochs")
    axes.set_ylim(bottom=0)
    return Picture("families-cost", f"{title}: {len(families.costs)} methods", figure)


def _style(family: str, line: str = "none") -> dict[str, Any]:
    place = FAMILIES.index(family)
    return {"color": LINES[place], "marker": MARKERS[place], "linestyle": line, "markersize": 5, "linewidth": 1.3}


def _ticks(axes: Any, text_of: Callable[[float], str]) -> None:
    """Put ticks at both ends of a logarithmic axis and between them."""
    low, high = axes.get_xlim()
    ticks = [low * (high / low) ** part for part in (0.1, 0.37, 0.63, 0.9)]
    axes.set_xticks(ticks, [text_of(tick) for tick in ticks])


def _short(count: float) -> str:
    """Return 1.23 million as 1.2M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g}{letter}"
    return f"{count:.0f}"
