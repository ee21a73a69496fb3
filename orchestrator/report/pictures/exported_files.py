"""Exported files side by side: their sizes to download, and their times for one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.export.proof import Artifact, ExportedNetworks
from orchestrator.formatting import milliseconds, shorten, size
from orchestrator.report.pictures.style import LINES, Picture, add_legend, new_figure


def exported_pictures(exported: ExportedNetworks) -> list[Picture]:
    """Draw one bar per file for its size, and one per file that was run for its time. Draw nothing without files."""
    if not exported.artifacts:
        return []
    sizes = _bar_chart(
        "download",
        "Size to download",
        "each file compressed by zstd, or as it is where it is compressed already",
        [(artifact, artifact.download_bytes) for artifact in exported.artifacts],
        lambda value: size(round(value)),
    )
    if not exported.measured:
        return [sizes]
    speed = exported.measured[0][1]
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    times = _bar_chart(
        "latency",
        "Time for one sample",
        f"median, {threads} of {speed.processor}, one sample at a time",
        [(artifact, speed.latency_p50) for artifact, speed in exported.measured],
        milliseconds,
        _runtimes_note(exported),
    )
    return [sizes, times]


def _runtimes_note(exported: ExportedNetworks) -> str:
    """Say which runtime ran which formats; "" if one runtime ran all of them."""
    formats: dict[str, list[str]] = {}
    for artifact, speed in exported.measured:
        formats.setdefault(speed.runtime.split()[0], []).append(artifact.format)
    ran = [f"{', '.join(dict.fromkeys(names))} by {runtime}" for runtime, names in formats.items()]
    return "Each in its own runtime: " + "; ".join(ran) + "." if len(formats) > 1 else ""


def _bar_chart(
    name: str,
    title: str,
    subtitle: str,
    values: Sequence[tuple[Artifact, float]],
    text_of: Callable[[float], str],
    note: str = "",
) -> Picture:
    """Draw one bar per file, in the colour of its network. `text_of` turns a value into the text beside the bar."""
    from matplotlib.ticker import MaxNLocator

    networks = list(dict.fromkeys(artifact.network for artifact, _ in values))
    colours = {network: LINES[place % len(LINES)] for place, network in enumerate(networks)}
    figure, (axes,) = new_figure(
        title, subtitle, heights=(0.3 + 0.24 * len(values),), left=1.85, right=0.3, legend=1, note=note
    )
    places = range(len(values))
    bars = axes.barh(
        places,
        [value for _, value in values],
        height=0.7,
        color=[colours[artifact.network] for artifact, _ in values],
        zorder=2,
    )
    titles: dict[str, list[str]] = {}
    handles: dict[str, Any] = {}
    for place, ((artifact, value), bar) in enumerate(zip(values, bars, strict=True)):
        gid, text = f"{name}-{place}", text_of(value)
        bar.set_gid(gid)
        handles.setdefault(artifact.network, bar)
        axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        test = f", test {artifact.test_text}" if artifact.test_text else ""
        titles[gid] = [f"{artifact.file}: {text}{test if artifact.speed else ', not run here'}"]
    axes.set_xlim(0, 1.2 * max(value for _, value in values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(places, [shorten(f"{a.network} {a.format}", 28) for a, _ in values], fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda tick, _: text_of(tick) if tick else "0")
    add_legend(figure, [(handles[network], network) for network in networks], 3, note=note)
    return Picture(f"deploy-{name}", f"{title}: {len(values)} files", figure, titles)
