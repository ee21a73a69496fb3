"""Exported files side by side: what each takes to download, and how long an image takes it."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.export.proof import Artifact, Deployment
from orchestrator.report.pictures.style import LINES, Picture, frame, legend
from orchestrator.report.text import milliseconds, percent, shorten, size


def deployed_pictures(deployment: Deployment) -> list[Picture]:
    """A picture of sizes and one of times, a bar a file. None without files."""
    if not deployment.artifacts:
        return []
    speed = deployment.artifacts[0].speed
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    return [
        _bars(
            deployment,
            "download",
            "Size to download",
            "each file compressed by zstd, or as it is where it is compressed already",
            lambda artifact: artifact.download_bytes,
            lambda value: size(round(value)),
        ),
        _bars(
            deployment,
            "latency",
            "Time for one image",
            f"median, {threads} of {speed.processor}, one image at a time",
            lambda artifact: artifact.speed.latency_p50,
            milliseconds,
        ),
    ]


def _bars(
    deployment: Deployment,
    name: str,
    title: str,
    subtitle: str,
    value: Callable[[Artifact], float],
    text: Callable[[float], str],
) -> Picture:
    artifacts = deployment.artifacts
    networks = [facts.name for facts in deployment.networks if any(a.network == facts.name for a in artifacts)]
    colours = {network: LINES[place % len(LINES)] for place, network in enumerate(networks)}
    figure, (axes,) = frame(title, subtitle, heights=(0.3 + 0.24 * len(artifacts),), left=1.85, right=0.3, legend=1)
    places, values = range(len(artifacts)), [value(artifact) for artifact in artifacts]
    bars = axes.barh(places, values, height=0.7, color=[colours[a.network] for a in artifacts], zorder=2)
    titles: dict[str, list[str]] = {}
    for place, (artifact, bar) in enumerate(zip(artifacts, bars, strict=True)):
        bar.set_gid(f"{name}-{place}")
        shown = text(values[place])
        axes.annotate(shown, (values[place], place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        accuracy = "" if artifact.accuracy is None else f", test {percent(artifact.accuracy)} %"
        titles[f"{name}-{place}"] = [f"{artifact.file}: {shown}{accuracy}"]
    axes.set_xlim(0, 1.2 * max(values))
    axes.set_ylim(len(artifacts) - 0.4, -0.6)
    axes.set_yticks(places, [shorten(f"{a.network} {a.format}", 28) for a in artifacts], fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(_few())
    axes.xaxis.set_major_formatter(lambda tick, _: text(tick) if tick else "0")
    handles = [(next(bar for a, bar in zip(artifacts, bars, strict=True) if a.network == n), n) for n in networks]
    legend(figure, axes, handles, 3)
    return Picture(f"deploy-{name}", f"{title}: {len(artifacts)} files", figure, titles)


def _few() -> object:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
