"""Hold what was measured of exported networks: the values of deploy.json, which the report page shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.decode import decode, format_of, parse
from orchestrator.errors import DamagedError, ExportError
from orchestrator.export.measure import Speed
from orchestrator.files import atomic_write
from orchestrator.objective import Objective

DEPLOY = "deploy.json"
DEPLOY_FORMAT = 3  # 2: of classifiers alone


@dataclass(frozen=True, kw_only=True)
class HasMetrics:
    """Hold what was measured on the test set: the finite metrics of the task by name, and the one that decides.

    Without data there is no metric, and the objective is None.
    """

    objective: Objective | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def test(self) -> float | None:
        """Return the objective on the test set."""
        return self.metrics.get(self.objective.name) if self.objective else None

    @property
    def test_text(self) -> str:
        """Return the objective on the test set as people read it; "" without it."""
        return "" if self.test is None or self.objective is None else self.objective.text(self.test)


@dataclass(frozen=True, kw_only=True)
class Facts(HasMetrics):
    """Hold what torch measured of a network before its export.

    `raw_bytes`: of its parameters and buffers as they are in memory. `macs` of one sample; `effective_macs` leaves out
    zero weights, as only sparse kernels do. `origin`: what the ledger says of it.
    """

    name: str
    parameters: int
    nonzero: int
    raw_bytes: int
    macs: int
    effective_macs: int
    origin: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Artifact(HasMetrics):
    """Describe one file of a network, measured through the file itself if it runs here.

    `bytes`: its size; `download_bytes`: compressed by zstd. `relative_error`: how far its outputs are from
    torch's (see `Agreement`); None without data. `equal_predictions`: the share of predictions that are torch's, in
    [0, 1]; None without data and for tasks without classes. `not_run`: why this machine could not run the file; then
    nothing is measured and `speed` is None.
    """

    network: str
    format: str
    file: str
    sha256: str
    bytes: int
    download_bytes: int
    relative_error: float | None
    speed: Speed | None
    not_run: str | None = None
    equal_predictions: float | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Name a format that a network could not be written in, and why."""

    network: str
    format: str
    reason: str


@dataclass(frozen=True)
class ExportedNetworks:
    """List networks side by side, and their files."""

    networks: tuple[Facts, ...]
    artifacts: tuple[Artifact, ...]
    skipped: tuple[Skipped, ...]

    @property
    def keys(self) -> set[str]:
        """Return the keys of the rounds that the networks are from."""
        return {str(facts.origin["key"]) for facts in self.networks if "key" in facts.origin}

    def present(self, folder: Path) -> ExportedNetworks:
        """Return it with only those files that are in `folder`; the others count as left out."""
        gone = [artifact for artifact in self.artifacts if not (folder / artifact.file).is_file()]
        skipped = [Skipped(network=each.network, format=each.format, reason=f"{each.file} is gone") for each in gone]
        artifacts = tuple(artifact for artifact in self.artifacts if artifact not in gone)
        return replace(self, artifacts=artifacts, skipped=(*self.skipped, *skipped))

    @property
    def measured(self) -> list[tuple[Artifact, Speed]]:
        """Return the files that were run."""
        return [(artifact, artifact.speed) for artifact in self.artifacts if artifact.speed]

    def save(self, folder: Path) -> Path:
        """Write deploy.json and return its path."""
        path = folder / DEPLOY
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"format": DEPLOY_FORMAT, **asdict(self)}, indent=1, allow_nan=False))
        return path

    @staticmethod
    def load(folder: Path) -> ExportedNetworks | None:
        """Return what `save` wrote here, or None. Raises DamagedError."""
        path = folder / DEPLOY
        if not path.is_file():
            return None
        try:
            value = parse(path.read_bytes())
            _check_format(path, format_of(value))
            return decode(ExportedNetworks, value, more_fields=True)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path} cannot be read ({error}): run orchestrator export again") from error


def _check_format(path: Path, number: int) -> None:
    if number > DEPLOY_FORMAT:
        raise DamagedError(f"{path} has format {number}, this one reads up to {DEPLOY_FORMAT}: update")
    if number < DEPLOY_FORMAT:
        raise DamagedError(
            f"{path} was written by an earlier version, whose format {number} is not read any more: run orchestrator "
            "export again"
        )


def remove_exported(folder: Path) -> None:
    """Remove deploy.json from `folder`, and the files that it lists if they are still what it says of them.

    Nothing else is removed. If deploy.json cannot be read, nothing is known of the files and they stay. Raises
    ExportError.
    """
    try:
        earlier = ExportedNetworks.load(folder)
    except DamagedError:
        earlier = None
    try:
        for artifact in earlier.artifacts if earlier else ():
            path = folder / artifact.file
            named_here = Path(artifact.file).name == artifact.file
            if named_here and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256:
                path.unlink()
        (folder / DEPLOY).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"{error.filename} of an earlier export cannot be removed ({reason}): remove it") from error
