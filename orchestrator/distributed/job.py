"""Run one experiment as a job: flags, checks, training on Ray, and the table at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from orchestrator.distributed.deployment import Deployment, Workers
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.experiment import Experiment, Problem
from orchestrator.problem import load_problem
from orchestrator.report import print_table, save_picture
from orchestrator.report.text import make_console
from orchestrator.storage.ledger import Ledger, Record
from orchestrator.storage.store import open_store


@dataclass(frozen=True)
class Flags:
    """Where and on what a job runs. What it computes stands in the script."""

    storage: str = "./runs"
    """Folder, or s3://bucket/prefix (credentials and endpoint from the AWS variables)."""
    data: str | None = None
    """Where the data lies, for data sets that live in files."""
    seed: int = 0
    """Seed of initialisation, data order and augmentation."""
    smoke: bool = False
    """A very short run through the same code."""
    workers: str = "2"
    """Training workers: a number, or an elastic range such as 2:8."""
    cpus_per_worker: float = 1.0
    """CPU cores of each worker."""
    gpus_per_worker: float | None = None
    """GPUs of each worker; left out: 1 if the cluster has enough of them, else 0."""
    loader_workers: int | None = None
    """Processes that decode images for each worker; left out: one for each of its CPU cores."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints in the middle of a round; 0: after every epoch."""
    address: str | None = None
    """Ray cluster to join; left out: RAY_ADDRESS, else a local Ray for this job alone."""
    report: str | None = None
    """Folder for the picture; left out: no picture."""


def main(
    experiment: Experiment,
    *,
    smoke: Experiment,
    doc: str | None,
    make_smoke_data: Callable[[Path], None] | None = None,
) -> int:
    """Parse the flags, run, show the table, and return the exit code.

    `make_smoke_data` fills a temporary folder that stands for --data in a --smoke run without one.
    """
    flags = tyro.cli(Flags, description=doc)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    console = make_console()
    try:
        with contextlib.ExitStack() as stack:
            if flags.smoke and flags.data is None and make_smoke_data:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rewind-smoke-"))
                make_smoke_data(Path(folder))
                flags = dataclasses.replace(flags, data=folder)
            records = run(dataclasses.replace(smoke if flags.smoke else experiment, seed=flags.seed), flags, console)
        print_table(records, console)
        if flags.report:
            print(f"picture: {save_picture(records, Path(flags.report) / 'accuracy.png')}")
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def run(experiment: Experiment, flags: Flags, console: Console) -> list[Record]:
    """Train what `flags.storage` does not hold yet. Everything that can be checked is checked before Ray starts."""
    workers = Workers.parse(flags.workers, flags.cpus_per_worker, flags.gpus_per_worker or 0.0)
    if workers.most > experiment.training.batch_size:
        raise ConfigError(
            f"--workers must not exceed the batch of {experiment.training.batch_size}, got {workers.most}"
        )
    if not flags.checkpoint_seconds >= 0:
        raise ConfigError(f"--checkpoint-seconds must be 0 or more, got {flags.checkpoint_seconds}")
    if flags.loader_workers is not None and flags.loader_workers < 0:
        raise ConfigError(f"--loader-workers must be 0 or more, got {flags.loader_workers}")
    store = open_store(flags.storage)
    store.check()
    data_root = os.path.abspath(flags.data) if flags.data and "://" not in flags.data else flags.data
    problem, _ = load_problem(experiment, data_root)
    driver = Driver(experiment, Ledger(store), problem)
    records = driver.records()
    console.print(
        f"{experiment.name}: seed {experiment.seed}, {len(records)} of {len(driver.keys)} rounds are in {store.uri}",
        highlight=False,
    )
    if len(records) < len(driver.keys):
        deployment = Deployment(workers, data_root, flags.loader_workers, flags.checkpoint_seconds)
        _train(experiment, problem, driver, deployment, flags, console)
        records = driver.records()
        if missing := len(driver.keys) - len(records):
            raise OrchestratorError(f"{missing} round(s) are not in {store.uri}: run the same command again")
    store.delete_tree(f"train/{_run_name(driver)}")
    return records


def _train(
    experiment: Experiment,
    problem: Problem,
    driver: Driver,
    deployment: Deployment,
    flags: Flags,
    console: Console,
) -> None:
    # Imported late: a finished job shows its table without starting, or even importing, Ray.
    import ray

    from orchestrator.distributed import cluster, progress, trainer

    store = driver.ledger.store
    joined = cluster.connect(flags.address)
    try:
        cluster.check_storage_is_shared(store)
        workers = cluster.with_gpus(deployment.workers) if flags.gpus_per_worker is None else deployment.workers
        cluster.check_room(workers, cluster.WAIT_SECONDS if joined else 0.0)
        console.print(
            f"workers: {flags.workers}, each on {workers.gpus:g} GPU and {workers.cpus:g} CPU", highlight=False
        )
        deployment = dataclasses.replace(deployment, workers=workers)
        actor = trainer.start_driver(experiment, store.uri, problem)
        with progress.shown(actor, console):
            trainer.fit(experiment, actor, store, _run_name(driver), deployment)
        if failure := ray.get(actor.status.remote(0)).failure:
            raise OrchestratorError(failure)
    finally:
        ray.shutdown()


def _run_name(driver: Driver) -> str:
    """The name of a path's run in Ray Train: the same for the same path, so that a killed run is found again."""
    return f"{driver.experiment.name}-{driver.keys[-1][:16]}"
