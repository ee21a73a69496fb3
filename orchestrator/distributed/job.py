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
from orchestrator.errors import OrchestratorError
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
    seed: int | None = None
    """Seed of initialisation, data order and augmentation; left out: the script's."""
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

    def deployment(self) -> Deployment:
        """Raises ConfigError for what cannot be."""
        return Deployment(
            Workers.parse(self.workers, self.cpus_per_worker, self.gpus_per_worker or 0.0),
            os.path.abspath(self.data) if self.data and "://" not in self.data else self.data,
            self.loader_workers,
            self.checkpoint_seconds,
            gpus_if_there=self.gpus_per_worker is None,
        )


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
            chosen = smoke if flags.smoke else experiment
            if flags.seed is not None:
                chosen = dataclasses.replace(chosen, seed=flags.seed, seeds=())
            records = [record for replicate in chosen.replicates() for record in run(replicate, flags, console)]
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
    deployment = flags.deployment()
    deployment.check_batch(experiment.training.batch_size)
    store = open_store(flags.storage)
    store.check()
    problem, _ = load_problem(experiment, deployment.data_root)
    driver = Driver(experiment, Ledger(store), problem)
    records = driver.records()
    console.print(
        f"{experiment.name}: seed {experiment.seed}, {len(records)} of {len(driver.keys)} rounds are in {store.uri}",
        highlight=False,
    )
    if len(records) < len(driver.keys):
        _train(experiment, problem, driver, deployment, flags, console)
        records = driver.records()
        if missing := len(driver.keys) - len(records):
            raise OrchestratorError(f"{missing} round(s) are not in {store.uri}: run the same command again")
    store.delete_tree(f"train/{driver.run_name}")
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
    from orchestrator.distributed import cluster, progress, trainer

    store = driver.ledger.store
    with cluster.connected(flags.address) as joined:
        deployment = cluster.placed(deployment, store, joined)
        workers = deployment.workers
        console.print(
            f"workers: {flags.workers}, each on {workers.gpus:g} GPU and {workers.cpus:g} CPU", highlight=False
        )
        actor = trainer.start_driver(experiment, store.uri, problem)
        with progress.shown(actor, console):
            trainer.train_rounds(
                experiment,
                actor,
                store,
                driver.run_name,
                deployment,
                lambda holder: console.print(f"the next round is being trained by {holder}: waiting for it"),
            )
