"""Show exported files in a report: which rounds to export, what was measured of the files, and pictures of that."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from orchestrator.data.builtin import BUILTIN
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.export.proof import Artifact, ExportedNetworks, Facts, Skipped
from orchestrator.export.recorded_code import named_code, named_in_script
from orchestrator.formatting import distinct_names, milliseconds, plain, size
from orchestrator.lookup import signature_of, takes
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison, comparisons, identity
from orchestrator.report.pictures.style import CHARACTER, LINES, SMALL, Picture, handle, new_figure
from orchestrator.report.summary import Quantity

MAX_NETWORK_NAME = 14  # characters, in pictures


@dataclass(frozen=True)
class ExportedSection:
    """Prepare the section of the page about exported `files`, of which there is at least one.

    `drawings` has its pictures as SVG elements, by name.
    """

    files: ExportedNetworks
    drawings: Mapping[str, str]

    @property
    def quantity(self) -> Quantity | None:
        """Return what was measured through the files on test data; None for files that were written without data."""
        return Quantity(self.dense.objective) if self.dense.objective else None

    def includes(self, records: Iterable[Record]) -> bool:
        """Return whether the network of one of `records` is among the files."""
        return any(record.key in self.files.keys for record in records)

    @cached_property
    def smallest(self) -> Artifact:
        return min(self.files.artifacts, key=lambda artifact: artifact.download_bytes)

    @cached_property
    def dense(self) -> Facts:
        return self.files.networks[0]

    @cached_property
    def dense_artifact(self) -> Artifact | None:
        """Return the dense network's file in the format of the smallest file."""
        wanted = (self.dense.name, self.smallest.format)
        return next((each for each in self.files.artifacts if (each.network, each.format) == wanted), None)

    @cached_property
    def fastest(self) -> Artifact | None:
        """Return the file with the lowest median latency; None if no file was run."""
        measured = self.files.measured
        return min(measured, key=lambda pair: pair[1].latency_p50)[0] if measured else None

    @cached_property
    def equally_fast(self) -> int:
        """Count the other files that take at most a tenth longer than the fastest; two runs differ by as much."""
        times = sorted(speed.latency_p50 for _, speed in self.files.measured)
        return sum(time <= 1.1 * times[0] for time in times) - 1

    @cached_property
    def has_unmeasured(self) -> bool:
        """Return whether there is a file that this machine could not run."""
        return len(self.files.measured) < len(self.files.artifacts)

    @property
    def has_predictions(self) -> bool:
        """Return whether the predictions of a file were compared with the network's."""
        return any(each.equal_predictions is not None for each in self.files.artifacts)

    def agreement(self, artifact: Artifact) -> str:
        """Return how well a file agrees with torch: `99.87 %` of the predictions, or else the largest difference."""
        if self.has_predictions:
            equal = artifact.equal_predictions
            return "" if equal is None else f"{math.floor(10_000 * equal) / 100:.2f} %"
        error = artifact.relative_error
        return "" if error is None else f"{100 * error:.2g} %"

    @property
    def agreement_note(self) -> str:
        """Explain what `agreement` returns."""
        if self.has_predictions:
            return "Same predictions: how many of the file's predictions are those of the network in torch."
        return "Difference: the largest from torch's outputs, in per cent of the largest output of the same sample."

    @cached_property
    def skipped(self) -> list[tuple[str, str, str]]:
        """Return (format, reason, networks) of the files that could not be written, with each reason once."""
        networks: dict[tuple[str, str], list[str]] = {}
        for each in self.files.skipped:
            networks.setdefault((each.format, each.reason), []).append(each.network)
        return [(format, reason, ", ".join(names)) for (format, reason), names in networks.items()]

    @cached_property
    def sparse_kernels(self) -> bool:
        """Return whether the runtime of any file skips the work on zeros."""
        return any(speed.sparse_kernels for _, speed in self.files.measured)

    @cached_property
    def runtimes(self) -> str:
        return ", ".join(sorted({speed.runtime for _, speed in self.files.measured}))


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
    networks = list(dict.fromkeys(artifact.network for artifact, _ in values))
    colours = {network: LINES[place % len(LINES)] for place, network in enumerate(networks)}
    short = distinct_names(networks, MAX_NETWORK_NAME)
    labels = [f"{short[artifact.network]} {artifact.format}" for artifact, _ in values]
    texts = [text_of(value) for _, value in values]
    figure, (axes,) = new_figure(
        title, subtitle, heights=(0.1 + 0.24 * len(values),), left=0.15 + CHARACTER * max(map(len, labels)),
        right=0.15 + CHARACTER * max(map(len, texts)), axis=0.1, note=note,
        legend=[
            (handle(color=colours[network], marker="s", linestyle="none", markersize=8), short[network])
            for network in networks
        ],
    )  # fmt: skip
    titles: dict[str, list[str]] = {}
    for place, ((artifact, value), text) in enumerate(zip(values, texts, strict=True)):
        (bar,) = axes.barh(place, value, height=0.7, color=colours[artifact.network], zorder=2)
        gid = f"{name}-{place}"
        bar.set_gid(gid)
        axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=SMALL)
        titles[gid] = [f"{artifact.file}: {text}{tested(artifact) if artifact.speed else ', not run here'}"]
    axes.set_xlim(0, max(*(value for _, value in values), 1e-9))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(range(len(values)), labels)
    axes.set_xticks([])  # every bar has its value beside it
    axes.grid(visible=False)
    return Picture(f"deploy-{name}", f"{title}: {len(values)} files", figure, titles)


def recommended_rounds(records: Iterable[Record], flag: str = "--round ") -> list[Record]:
    """Return the recommended rounds to export: the best that masks weights, and the best that removes channels.

    Of several seeds the one that is best on validation is taken. A recommended dense network is left out, unless
    nothing else is recommended. `flag`: what a command wants before the key of a round. Raises ConfigError if nothing
    is recommended, or if the records are of several models, data sets or tasks.
    """
    found = [(each.title, rounds) for each in comparisons(records) if (rounds := _recommended_of(each))]
    if not found:
        raise ConfigError(
            f"{flag}KEY must name a network, as no dense round has finished: orchestrator status has the keys"
        )
    if len(found) > 1:
        each = (f"{' '.join(f'{flag}{r.key[:12]}' for r in rounds)} for {title}" for title, rounds in found)
        raise ConfigError(
            f"the storage holds {len(found)} networks (model, data and task), each with recommended rounds of its own: "
            f"pass {', or '.join(each)}"
        )
    return found[0][1]


def same_model_and_data(records: Iterable[Record], exported: Iterable[Record]) -> list[Record]:
    """Return those of `records` that have the model, data and task of a round of `exported`."""
    identities = {identity(record) for record in exported}
    return [record for record in records if identity(record) in identities]


def export_command(comparison: Comparison, storage: str | None) -> str:
    """Return the command that exports the recommended round; "" if none is recommended or no command can."""
    if not comparison.recommended_records:
        return ""
    record = comparison.recommended_records[0]
    if named_in_script(record):
        return ""
    words = ["orchestrator", "export", storage or "STORAGE", "--round", record.key[:12], "--out", "./deploy"]
    with contextlib.suppress(OrchestratorError):  # a record that does not name its model cannot be exported at all
        words += [word for spec in named_code(record).values() for word in ("--trust", spec)]
    return shlex.join(words)


def load_call(comparison: Comparison, storage: str | None) -> str:
    """Return the call that loads the recommended round if it names functions of a script or notebook; else ""."""
    if not (comparison.recommended_records and named_in_script(record := comparison.recommended_records[0])):
        return ""
    return f"load({storage or 'STORAGE'!r}, {record.key[:12]!r}, trust={list(named_code(record).values())})"


def may_need_data(comparison: Comparison) -> bool:
    """Return whether the data may lie in files, whose folder the command that exports must name."""
    data = str(comparison.records[0].settings.get("data"))
    return data not in BUILTIN or takes(signature_of(BUILTIN[data], f"data {data!r}"), "root")


def round_line(record: Record) -> str:
    """Return one line about a round that is exported."""
    line = f"{record.experiment}, round {record.round}, key {record.key[:12]}: "
    line += f"{record.weights_kept:,} of {record.weights:,} weights"
    if record.channels:
        line += ", {:,} of {:,} MACs".format(*record.channels["macs"])
    return plain(line)


def artifact_line(artifact: Artifact | Skipped, folder: Path) -> str:
    """Return one line about a file in `folder` that was just measured, or about a format that was skipped."""
    if isinstance(artifact, Skipped):
        return plain(f"left out: {artifact.network} as {artifact.format}: {artifact.reason}")
    line = f"written: {folder / artifact.file}: {size(artifact.bytes)}, to download {size(artifact.download_bytes)}"
    if artifact.speed is None:
        return plain(f"{line}, not run here: {artifact.not_run}")
    speed = artifact.speed
    took = f"{milliseconds(speed.latency_p50)} a sample ({speed.runtime}, {speed.threads} thread)"
    return plain(f"{line}{tested(artifact)}, {took}")


def tested(artifact: Artifact) -> str:
    """Return what was measured through a file on test data, to be put after a comma: `, test 97.31 %`, or ""."""
    return f", test {artifact.test_text}" if artifact.test_text else ""


def _recommended_of(comparison: Comparison) -> list[Record]:
    with_channels = {record.experiment for record in comparison.records if record.channels}
    masked = tuple(record for record in comparison.records if record.experiment not in with_channels)
    smaller = tuple(record for record in comparison.records if record.experiment in with_channels)
    recommended = [replace(comparison, records=records).recommended_records for records in (masked, smaller)]
    found = [records[0] for records in recommended if records]
    return [record for record in found if record.round] or found[:1]
