"""Define the flags of all jobs, and run a job with them, from its checks to its exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from orchestrator.distributed.deployment import Deployment, Workers
from orchestrator.distributed.termination import RESUME, Terminated, print_last, raise_terminated
from orchestrator.distributed.usage import parsed
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.experiment import Experiment
from orchestrator.files import expand_home
from orchestrator.formatting import plain, print_problems
from orchestrator.objective import Objective
from orchestrator.stopping import Floor
from orchestrator.storage.opening import open_store
from orchestrator.validate import finite

F = TypeVar("F", bound="Flags")


def _flag(metavar: str, default: str = "") -> Any:
    """Return how a flag is shown in --help: its value, and what happens without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else None)


def _number(kind: type[int] | type[float]) -> Any:
    """Return how a number is read from the command line; without it the flag is None, or has its default."""
    what = "a whole number" if kind is int else "a number"

    def read(given: list[str]) -> int | float:
        try:
            return kind(given[0])
        except ValueError:
            raise ValueError(f"it must be {what}, got {given[0]!r}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int | float | None),
        str_from_instance=lambda value: [str(value)],
    )


_AS = "97 is 97 % of the samples, 0.5 is one of 200 samples"


@dataclass(frozen=True)
class Flags:
    """Where and on which resources a job runs, and when it stops. The experiment defines what it computes."""

    storage: Annotated[str, _flag("STORAGE")] = "./runs"
    """Folder, or s3://bucket/prefix (credentials and endpoint from the AWS variables)."""
    data: Annotated[str | None, _flag("PLACE", "none")] = None
    """Folder or uri of the data, for data sets in files."""
    settings: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="FIELD=VALUE")
    ] = ()
    """Change a field of the experiment, as training.epochs=5 or technique=FineTuning(epochs=3)."""
    seed: Annotated[int | None, _number(int), _flag("INT", "the experiment's")] = None
    """Seed of initialisation, data order and augmentation."""
    smoke: bool = False
    """A very short run through the same code."""
    workers: Annotated[str | None, _flag("N", "2; of several experiments 1")] = None
    """Training workers of each path: a number, or an elastic range such as 2:8."""
    cpus_per_worker: Annotated[float, _number(float), _flag("N")] = 1.0
    """CPU cores of each worker."""
    gpus_per_worker: Annotated[float | None, _number(float), _flag("N", "1 if the cluster has enough, else 0")] = None
    """GPUs of each worker."""
    loader_workers: Annotated[int | None, _number(int), _flag("N", "one for each CPU core")] = None
    """Processes that read samples for each worker."""
    checkpoint_seconds: Annotated[float, _number(float), _flag("SECONDS")] = 30.0
    """Minimum time between two checkpoints in the middle of a round."""
    address: Annotated[str | None, _flag("ADDRESS", "RAY_ADDRESS, else a local Ray")] = None
    """Ray cluster to join."""
    report: Annotated[str | None, _flag("DIR", "none; of several experiments ./report")] = None
    """Folder for the report."""
    tracker: Annotated[str | None, _flag("mlflow|wandb|tensorboard", "none")] = None
    """Log every round to a tracker, under the experiment's name."""
    target: Annotated[float | None, _number(float), _flag("VALUE", "none")] = None
    """Cut a path after a round whose validation objective is worse; a fraction in per cent, as 97."""
    max_drop: Annotated[float | None, _number(float), _flag("VALUE", "none")] = None
    """Cut a path after a round whose validation objective is so much worse than dense: per cent points, as 0.5."""
    max_concurrent: Annotated[int | None, _number(int), _flag("N", "as many as the cluster holds")] = None
    """Paths at a time."""
    asha: bool = False
    """Stop the weaker half of the paths early, round by round (successive halving)."""

    @property
    def sweeps(self) -> bool:
        """Return whether a flag is given that only a sweep has; one experiment is then a sweep of its seeds."""
        given = (self.tracker, self.target, self.max_drop, self.max_concurrent)
        return self.asha or any(value is not None for value in given)

    def of_several(self: F) -> F:
        """Return the flags with the defaults of several experiments."""
        return dataclasses.replace(self, workers=self.workers or "1", report=self.report or "./report")

    def applied(self, experiment: Experiment) -> Experiment:
        """Return `experiment` with the changes and the seed of the flags. Raises ConfigError."""
        if self.settings:
            from orchestrator.settings import changed

            experiment = changed(experiment, self.settings)
        return experiment if self.seed is None else dataclasses.replace(experiment, seed=self.seed, seeds=())

    def deployment(self) -> Deployment:
        """Return the deployment of these flags. Raises ConfigError for values that are not allowed."""
        return Deployment(
            Workers.parse(self.workers or "2", self.cpus_per_worker, self.gpus_per_worker or 0.0),
            os.path.abspath(expand_home(self.data)) if self.data and "://" not in self.data else self.data,
            self.loader_workers,
            self.checkpoint_seconds,
            gpus_if_there=self.gpus_per_worker is None,
        )

    def stop(self, objective: Objective) -> Floor | None:
        """Return the floor of the flags, or None without --target and --max-drop. Raises ConfigError."""
        target, drop = self.target, self.max_drop
        if target is not None and drop is not None:
            raise ConfigError(f"give --target or --max-drop, not both, got {target:g} and {drop:g}")
        if target is None and drop is None:
            return None
        if not objective.fraction:
            if target is not None:
                finite("--target", target)
            if drop is not None:
                finite("--max-drop", drop, minimum=0)
            return Floor(target, drop)
        if target is not None and not 1 < target <= 100:
            raise ConfigError(f"--target must be in per cent, above 1 and up to 100, got {target:g}: {_AS}")
        if drop is not None and not (drop == 0 or 0.1 <= drop <= 100):
            raise ConfigError(f"--max-drop must be in per cent, 0 or from 0.1 to 100, got {drop:g}: {_AS}")
        return Floor(None if target is None else target / 100, None if drop is None else drop / 100)


def parse_flags(kind: type[F], description: str | None, experiment: Experiment | None) -> F:
    """Parse the program's arguments. Exits with 2 for wrong usage; a field of `experiment` is answered with --set."""
    # tyro joins lines that begin with a letter, and examples are to stay in lines of their own.
    shown = re.sub(r"(?m)^(?=(python|ray|orchestrator) )", "    ", description or "")

    def parse(arguments: Sequence[str]) -> F:
        return tyro.cli(kind, args=arguments, description=shown, config=(tyro.conf.FlagCreatePairsOff,))

    return parsed(parse, sys.argv[1:], experiment)


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
