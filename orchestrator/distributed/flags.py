"""Define the flags of all jobs, and run a job with them, from its checks to its exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from orchestrator.distributed.deployment import Deployment, Workers
from orchestrator.distributed.termination import RESUME, Terminated, print_last, raise_terminated
from orchestrator.distributed.trackers import TrackerName
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.experiment import Experiment
from orchestrator.files import expand_home
from orchestrator.formatting import plain, print_problems
from orchestrator.objective import Objective
from orchestrator.stopping import Floor
from orchestrator.storage.opening import open_store

_AS = "97 is 97 % of the samples, 0.5 is one of 200 samples"


@dataclass(frozen=True)
class Flags:
    """Where and on which resources a job runs. The script defines what it computes."""

    storage: str = "./runs"
    """Folder, or s3://bucket/prefix (credentials and endpoint from the AWS variables)."""
    data: str | None = None
    """Folder or uri of the data, for data sets in files."""
    seed: int | None = None
    """Seed of initialisation, data order and augmentation. Default: the script's."""
    smoke: bool = False
    """A very short run through the same code."""
    workers: str = "2"
    """Training workers: a number, or an elastic range such as 2:8."""
    cpus_per_worker: float = 1.0
    """CPU cores of each worker."""
    gpus_per_worker: float | None = None
    """GPUs of each worker. Default: 1 if the cluster has enough of them, else 0."""
    loader_workers: int | None = None
    """Processes that decode images for each worker. Default: one for each of its CPU cores."""
    checkpoint_seconds: float = 30.0
    """Minimum time between two checkpoints in the middle of a round, in seconds."""
    address: str | None = None
    """Ray cluster to join. Default: RAY_ADDRESS, else a local Ray for this job alone."""
    report: str | None = None
    """Folder for the report. Default: no report."""

    def seeded(self, experiment: Experiment) -> Experiment:
        """Return `experiment` with the seed of the flags, if they have one."""
        return experiment if self.seed is None else dataclasses.replace(experiment, seed=self.seed, seeds=())

    def deployment(self) -> Deployment:
        """Return the deployment of these flags. Raises ConfigError for values that are not allowed."""
        return Deployment(
            Workers.parse(self.workers, self.cpus_per_worker, self.gpus_per_worker or 0.0),
            os.path.abspath(expand_home(self.data)) if self.data and "://" not in self.data else self.data,
            self.loader_workers,
            self.checkpoint_seconds,
            gpus_if_there=self.gpus_per_worker is None,
        )


@dataclass(frozen=True)
class SweepFlags(Flags):
    """Where and on which resources a sweep runs, and when it stops. The script defines what it computes."""

    workers: str = "1"
    """Training workers of each path: a number, or an elastic range such as 2:8."""
    report: str | None = "./report"
    """Folder for the report."""
    max_concurrent: int | None = None
    """Paths at a time. Default: as many as the cluster holds."""
    target: Annotated[float | None, tyro.conf.arg(aliases=["--target-accuracy"])] = None
    """Cut a path after a round whose validation objective is worse than this: an accuracy in per cent, as 97, another
    objective in its own unit."""
    max_drop: float | None = None
    """Cut a path after a round whose validation objective is more than this worse than dense: an accuracy in per cent,
    as 0.5, another objective in its own unit."""
    asha: bool = False
    """Stop the weaker half of the paths early, round by round (successive halving)."""
    tracker: TrackerName | None = None
    """Log every path to a tracker."""

    def stop(self, objective: Objective) -> Floor | None:
        """Return the floor of the flags, or None without --target and --max-drop. Raises ConfigError."""
        target, drop = self.target, self.max_drop
        if target is not None and drop is not None:
            raise ConfigError(f"give --target or --max-drop, not both, got {target:g} and {drop:g}")
        if target is None and drop is None:
            return None
        if not objective.fraction:
            return Floor(target, drop)
        if target is not None and not 1 < target <= 100:
            raise ConfigError(f"--target must be in per cent, above 1 and up to 100, got {target:g}: {_AS}")
        if drop is not None and not (drop == 0 or 0.1 <= drop <= 100):
            raise ConfigError(f"--max-drop must be in per cent, 0 or from 0.1 to 100, got {drop:g}: {_AS}")
        return Floor(None if target is None else target / 100, None if drop is None else drop / 100)


F = TypeVar("F", bound=Flags)


def run_job(flags: F, job: Callable[[F], int], make_smoke_data: Callable[[Path], None] | None = None) -> int:
    """Return the exit code of `job(flags)`; print errors as sentences.

    For --smoke without --data, `make_smoke_data` fills a temporary folder, which becomes `flags.data`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        if flags.report:
            from orchestrator.report import check_folder

            # Check it now, because the report is written after all training.
            check_folder(Path(expand_home(flags.report)), "--report")
        with contextlib.ExitStack() as stack:
            if flags.smoke and flags.data is None and make_smoke_data:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rewind-smoke-"))
                make_smoke_data(Path(folder))
                flags = dataclasses.replace(flags, data=folder)
            return job(flags)
    except OrchestratorError as error:
        print_last(f"error: {plain(error)}")
        return 1
    except KeyboardInterrupt as stop:
        if not (isinstance(stop, Terminated) and stop.reported):
            print_last(RESUME)
        return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def write_report(flags: Flags, experiments: Iterable[Experiment]) -> int:
    """Write the report of these experiments alone: the storage may hold others. Return the exit code."""
    from orchestrator.report import report_storage
    from orchestrator.storage.ledger import Ledger

    assert flags.report is not None
    names = list(dict.fromkeys(experiment.name for experiment in experiments))
    problems = report_storage(Ledger(open_store(flags.storage)), Path(expand_home(flags.report)), names)
    return print_problems(problems)
