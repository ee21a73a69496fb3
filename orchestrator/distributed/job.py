"""Run experiments as a job: parse flags, check, train on Ray, and print the table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.distributed.deployment import Deployment
from orchestrator.distributed.flags import Flags, parse_flags, run_job, write_report
from orchestrator.distributed.sweep_job import run_sweep
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.experiment import Experiment, Problem
from orchestrator.formatting import make_console
from orchestrator.storage.opening import open_store

if TYPE_CHECKING:  # imported where they are used, because they import torch, for which --help does not wait
    from orchestrator.driver import Driver
    from orchestrator.record import Record


def main(
    experiments: Experiment | Sequence[Experiment],
    *,
    shorten: Callable[[Experiment], Experiment] = Experiment.shortened,
    make_smoke_data: Callable[[Path], None] | None = None,
) -> int:
    """Parse the flags, train one experiment, or several as a sweep, show the table, and return the exit code.

    The docstring of the script is the text of --help. --smoke trains `shorten(experiment)` instead of each experiment.
    Without --data, `make_smoke_data` then fills a temporary folder, which is used as --data.
    """
    first = experiments if isinstance(experiments, Experiment) else next(iter(experiments), None)
    flags = parse_flags(Flags, sys.modules["__main__"].__doc__, first)
    return run_experiments(experiments, flags, shorten=shorten, make_smoke_data=make_smoke_data)


def run_experiments(
    experiments: Experiment | Sequence[Experiment],
    flags: Flags,
    *,
    shorten: Callable[[Experiment], Experiment] = Experiment.shortened,
    make_smoke_data: Callable[[Path], None] | None = None,
) -> int:
    """Do what `main` does, with flags that are parsed already."""
    several = not isinstance(experiments, Experiment)
    listed = [experiments] if isinstance(experiments, Experiment) else list(experiments)

    def job(flags: Flags) -> int:
        if wrong := [each for each in listed if not isinstance(each, Experiment)]:
            raise ConfigError(f"a job runs an Experiment or a list of them, got a {type(wrong[0]).__name__}")
        chosen = [flags.applied(experiment) for experiment in listed]
        chosen = [shorten(experiment) for experiment in chosen] if flags.smoke else chosen
        return run_sweep(chosen, flags) if several or flags.sweeps else _run_one(chosen[0], flags)

    return run_job(flags.of_several() if several else flags, job, make_smoke_data)


def _run_one(experiment: Experiment, flags: Flags) -> int:
    """Train every replicate of `experiment`, one after another; show the table or write the report."""
    console = make_console()
    records = [record for replicate in experiment.replicates() for record in run(replicate, flags, console)]
    if flags.report:
        return write_report(flags, [experiment])
    from orchestrator.report import print_table

    print_table(records, console)
    return 0


def run(experiment: Experiment, flags: Flags, console: Console) -> list[Record]:
    """Train the rounds that are not in `flags.storage` yet, and return all records; check all input before Ray starts.

    Raises OrchestratorError.
    """
    from orchestrator.driver import Driver
    from orchestrator.problem import load_problem
    from orchestrator.storage.experiments import stored_path
    from orchestrator.storage.ledger import Ledger

    deployment = flags.deployment()
    deployment.check_batch(experiment.training.batch_size)
    store = open_store(flags.storage)
    store.check()
    problem, _ = load_problem(experiment, deployment.data_root, deployment.workers.maximum)
    before = stored_path(store, experiment.name, experiment.seed)
    driver = Driver(experiment, Ledger(store), problem)
    records = driver.records()
    if before and before[0] != driver.keys[0]:
        console.print(
            f"{experiment.name}: the dense round has another key than when seed {experiment.seed} was run here before "
            "(settings, data, loaded weights or version have changed): it starts again, and the old rounds are kept",
            highlight=False,
            markup=False,
        )
    console.print(
        f"{experiment.name}: seed {experiment.seed}, {len(records)} of {len(driver.keys)} rounds are in {store.uri}",
        highlight=False,
        markup=False,
    )
    if len(records) < len(driver.keys):
        _train(experiment, problem, driver, deployment, flags, console)
        records = driver.records()
        if missing := len(driver.keys) - len(records):
            raise OrchestratorError(f"{missing} round(s) are not in {store.uri}: run the same command again")
    return records


def _train(
    experiment: Experiment,
    problem: Problem,
    driver: Driver,
    deployment: Deployment,
    flags: Flags,
    console: Console,
) -> None:
    # Imported late, so that a finished job shows its table without importing Ray.
    from orchestrator.distributed import cluster, orphans, path_trainer, progress_line, termination

    store = driver.ledger.store
    with cluster.connected(flags.address) as joined:
        deployment = cluster.fit_deployment(deployment, store, joined)
        deployment.check_layers(problem.gpu_only)
        workers = deployment.workers
        console.print(
            f"workers: {workers.label}, each on {workers.gpus:g} GPU and {workers.cpus:g} CPU", highlight=False
        )
        actor = path_trainer.start_driver(experiment, store.uri, problem)
        with (
            orphans.orphans_removed(),
            progress_line.show_progress(actor, console),
            termination.stop_cleanly(partial(path_trainer.stop, [actor])),
        ):
            path_trainer.train_rounds(
                experiment,
                actor,
                store,
                deployment,
                lambda holder: console.print(f"the next round is being trained by {holder}: waiting for it"),
            )
