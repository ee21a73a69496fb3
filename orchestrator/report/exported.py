"""What was measured of exported files, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.export.proof import Artifact, ExportedNetworks, Facts, Skipped
from orchestrator.formatting import milliseconds, percent, plain, size
from orchestrator.record import Record
from orchestrator.report.tasks import Task, identity, tasks


@dataclass(frozen=True)
class Deployed:
    """A deployment with at least one file, and its drawings, by name, as elements of the page."""

    deployment: ExportedNetworks
    drawings: Mapping[str, str]

    def has(self, records: Iterable[Record]) -> bool:
        """Whether the network of one of `records` is among the files."""
        return any(record.key in self.deployment.keys for record in records)

    @cached_property
    def smallest(self) -> Artifact:
        return min(self.deployment.artifacts, key=lambda artifact: artifact.download_bytes)

    @cached_property
    def dense_alike(self) -> Artifact | None:
        """The dense network in the format of the smallest file."""
        wanted = (self.dense.name, self.smallest.format)
        return next((each for each in self.deployment.artifacts if (each.network, each.format) == wanted), None)

    @cached_property
    def fastest(self) -> Artifact | None:
        """None if no file was run."""
        measured = self.deployment.measured
        return min(measured, key=lambda pair: pair[1].latency_p50)[0] if measured else None

    @cached_property
    def as_fast(self) -> int:
        """How many other files take at most a tenth longer than the fastest: no more than two runs differ by."""
        times = sorted(speed.latency_p50 for _, speed in self.deployment.measured)
        return sum(time <= 1.1 * times[0] for time in times) - 1

    @cached_property
    def left_out(self) -> list[tuple[str, str, str]]:
        """(format, reason, networks) of what is not there, each reason once."""
        networks: dict[tuple[str, str], list[str]] = {}
        for each in self.deployment.skipped:
            networks.setdefault((each.format, each.reason), []).append(each.network)
        return [(name, reason, ", ".join(of)) for (name, reason), of in networks.items()]

    @cached_property
    def unrun(self) -> bool:
        """Whether there is a file that this machine could not run."""
        return len(self.deployment.measured) < len(self.deployment.artifacts)

    @cached_property
    def dense(self) -> Facts:
        return self.deployment.networks[0]

    @cached_property
    def sparse_kernels(self) -> bool:
        """Whether any file ran without spending time on zeros."""
        return any(speed.sparse_kernels for _, speed in self.deployment.measured)

    @cached_property
    def runtimes(self) -> str:
        return ", ".join(sorted({speed.runtime for _, speed in self.deployment.measured}))


def recommended_rounds(records: Iterable[Record]) -> list[Record]:
    """Return the recommended rounds to export: the best that masks weights, and the best that removes channels.

    Of several seeds the one that is best on validation is taken. What recommends the dense network is left out, unless
    nothing else is recommended. Raises ConfigError where nothing is recommended, or where the records are of several
    models or data sets.
    """
    found = [(task.title, rounds) for task in tasks(records) if (rounds := _recommended(task))]
    if not found:
        raise ConfigError(
            "--round must say which network to export, as no dense round has finished: orchestrator status has the keys"
        )
    if len(found) > 1:
        each = (f"{' '.join(f'--round {r.key[:12]}' for r in rounds)} for {title}" for title, rounds in found)
        raise ConfigError(
            f"the storage holds {len(found)} networks (model and data), each with recommended rounds of its own: "
            f"pass {', or '.join(each)}"
        )
    return found[0][1]


def _recommended(task: Task) -> list[Record]:
    smaller = {record.experiment for record in task.records if record.channels}
    masked = replace(task, records=tuple(r for r in task.records if r.experiment not in smaller))
    removed = replace(task, records=tuple(r for r in task.records if r.experiment in smaller))
    found = [kind.chosen[0] for kind in (masked, removed) if kind.chosen]
    return [record for record in found if record.round] or found[:1]


def same_tasks(records: Iterable[Record], exported: Iterable[Record]) -> list[Record]:
    """Return those of `records` that have the model and data of a round of `exported`."""
    identities = {identity(record) for record in exported}
    return [record for record in records if identity(record) in identities]


def round_line(record: Record) -> str:
    """One line about a round that is exported."""
    size = f"{record.weights_kept:,} of {record.weights:,} weights"
    if record.channels:
        size += ", {:,} of {:,} MACs".format(*record.channels["macs"])
    return plain(f"{record.experiment}, round {record.round}, key {record.key[:12]}: {size}")


def artifact_line(artifact: Artifact | Skipped, folder: Path) -> str:
    """Return one line about a file in `folder` that was just measured, or about one that is not there."""
    if isinstance(artifact, Skipped):
        return plain(f"left out: {artifact.network} as {artifact.format}: {artifact.reason}")
    line = f"written: {folder / artifact.file}: {size(artifact.bytes)}, to download {size(artifact.download_bytes)}"
    if artifact.speed is None:
        return plain(f"{line}, not run here: {artifact.not_run}")
    speed = artifact.speed
    accuracy = "" if artifact.accuracy is None else f", test {percent(artifact.accuracy)} %"
    took = f"{milliseconds(speed.latency_p50)} an image ({speed.runtime}, {speed.threads} thread)"
    return plain(f"{line}{accuracy}, {took}")
