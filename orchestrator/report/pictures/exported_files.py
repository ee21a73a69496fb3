"""Exported files side by side: what each takes to download, and how long an image takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.export.proof import Artifact, ExportedNetworks
from orchestrator.formatting import milliseconds, percent, shorten, size
from orchestrator.report.pictures.style import LINES, Picture, frame, legend


def deployed_pictures(deployment: ExportedNetworks) -> list[Picture]:
    """A picture of sizes, a bar a file, and one of times, a bar a file that was run. None without files."""
    if not deployment.artifacts:
        return []
    sizes = _bars(
        deployment,
        "download",
        "Size to download",
        "each file compressed by zstd, or as it is where it is compressed already",
        [(artifact, artifact.download_bytes) for artifact in deployment.artifacts],
        lambda value: size(round(value)),
    )
    if not deployment.measured:
        return [sizes]
    speed = deployment.measured[0][1]
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    times = _bars(
        deployment,
        "latency",
        "Time for one image",
        f"median, {threads} of {speed.processor}, one image at a time",
        [(artifact, speed.latency_p50) for artifact, speed in deployment.measured],
        milliseconds,
        _runtimes(deployment),
    )
    return [sizes, times]


def _runtimes(deployment: ExportedNetworks) -> str:
    """What ran what, if that was not one runtime for all."""
    formats: dict[str, list[str]] = {}
    for artifact, speed in deployment.measured:
        formats.setdefault(speed.runtime.split()[0], []).append(artifact.format)
    ran = [f"{', '.join(dict.fromkeys(names))} by {runtime}" for runtime, names in formats.items()]
    return "Each in its own runtime: " + "; ".join(ran) + "." if len(formats) > 1 else ""


def _bars(
    deployment: ExportedNetworks,
    name: str,
    title: str,
    subtitle: str,
    shown: Sequence[tuple[Artifact, float]],
    text: Callable[[float], str],
    note: str = "",
) -> Picture:
    artifacts, values = [artifact for artifact, _ in shown], [value for _, value in shown]
    networks = [facts.name for facts in deployment.networks if any(a.network == facts.name for a in artifacts)]
    colours = {network: LINES[place % len(LINES)] for place, network in enumerate(networks)}
    figure, (axes,) = frame(
        title, subtitle, heights=(0.3 + 0.24 * len(artifacts),), left=1.85, right=0.3, legend=1, note=note
    )
    places = range(len(artifacts))
    bars = axes.barh(places, values, height=0.7, color=[colours[a.network] for a in artifacts], zorder=2)
    titles: dict[str, list[str]] = {}
    for place, (artifact, bar) in enumerate(zip(artifacts, bars, strict=True)):
        bar.set_gid(f"{name}-{place}")
        number = text(values[place])
        axes.annotate(number, (values[place], place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        accuracy = "" if artifact.accuracy is None else f", test {percent(artifact.accuracy)} %"
        titles[f"{name}-{place}"] = [f"{artifact.file}: {number}{accuracy if artifact.speed else ', not run here'}"]
    axes.set_xlim(0, 1.2 * max(values))
    axes.set_ylim(len(artifacts) - 0.4, -0.6)
    axes.set_yticks(places, [shorten(f"{a.network} {a.format}", 28) for a in artifacts], fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(_few())
    axes.xaxis.set_major_formatter(lambda tick, _: text(tick) if tick else "0")
    handles = [(next(bar for a, bar in zip(artifacts, bars, strict=True) if a.network == n), n) for n in networks]
    legend(figure, axes, handles, 3, note=note)
    return Picture(f"deploy-{name}", f"{title}: {len(artifacts)} files", figure, titles)


def _few() -> object:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
