"""What was measured of exported files, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError
from orchestrator.export.proof import Artifact, Deployment, Facts, Skipped
from orchestrator.report.tasks import tasks
from orchestrator.report.text import milliseconds, percent, plain, size

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Record


@dataclass(frozen=True)
class Deployed:
    """A deployment with at least one file, and its drawings, by name, as elements of the page."""

    deployment: Deployment
    drawings: Mapping[str, str]

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
    """The recommended network of the experiments that mask weights, and that of those that remove channels.

    What recommends the dense network is left out, unless nothing else is recommended. Raises as `recommended_round`.
    """
    records = list(records)
    smaller = {record.experiment for record in records if record.channels}
    kinds = [[r for r in records if (r.experiment in smaller) is removed] for removed in (False, True)]
    found = [recommended_round(kind) for kind in kinds if kind]
    return [record for record in found if record.round] or found[:1]


def recommended_round(records: Iterable[Record]) -> Record:
    """The recommended network's record; of several seeds the one that is best on validation.

    Raises ConfigError where nothing is recommended, or where there are several data sets.
    """
    found = tasks(records)
    choices = [task.choice for task in found if task.choice]
    if len(found) != 1 or not choices:
        reason = f"there are {len(found)} data sets" if len(found) > 1 else "no dense round has finished"
        raise ConfigError(f"--round must say which network to export, as {reason}: orchestrator status has the keys")
    row = choices[0].row
    seeds = [record for record in found[0].paths[row.experiment] if record.round == row.round]
    return max(seeds, key=lambda record: (record.metrics["val_accuracy"], -record.seed))


def round_line(record: Record) -> str:
    """One line about a round that is exported."""
    size = f"{record.weights_kept:,} of {record.weights:,} weights"
    if record.channels:
        size += ", {:,} of {:,} MACs".format(*record.channels["macs"])
    return plain(f"{record.experiment}, round {record.round}, key {record.key[:12]}: {size}")


def artifact_line(artifact: Artifact | Skipped) -> str:
    """One line about a file that was just measured, or about one that is not there."""
    if isinstance(artifact, Skipped):
        return plain(f"left out: {artifact.network} as {artifact.format}: {artifact.reason}")
    line = f"written: {artifact.file}: {size(artifact.bytes)}, to download {size(artifact.download_bytes)}"
    if artifact.speed is None:
        return plain(f"{line}, not run here: {artifact.not_run}")
    speed = artifact.speed
    accuracy = "" if artifact.accuracy is None else f", test {percent(artifact.accuracy)} %"
    took = f"{milliseconds(speed.latency_p50)} an image ({speed.runtime}, {speed.threads} thread)"
    return plain(f"{line}{accuracy}, {took}")
