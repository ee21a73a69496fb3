"""Run a list of experiments as one job: the sweep, the tables, and the epochs that sharing rounds has saved."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.distributed.flags import Flags, write_report
from orchestrator.distributed.trackers import tracker
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.formatting import duration, make_console
from orchestrator.task import objective_of
from orchestrator.validate import whole

if TYPE_CHECKING:
    from orchestrator.distributed.sweep import SweepResult


def run_sweep(experiments: Sequence[Experiment], flags: Flags) -> int:
    """Train all paths, show the results, and return the exit code."""
    from orchestrator.distributed.sweep import sweep_paths

    if flags.max_concurrent is not None:
        whole("--max-concurrent", flags.max_concurrent, minimum=1)
    floor, deployment = flags.stop(objective_of(experiments[0].task)), flags.deployment()
    callbacks = [tracker(flags.tracker, experiments[0].name)] if flags.tracker else []
    result = sweep_paths(
        experiments,
        flags.storage,
        deployment,
        address=flags.address,
        max_concurrent=flags.max_concurrent,
        floor=floor,
        asha=flags.asha,
        callbacks=callbacks,
        folder=str(Path("./tensorboard").absolute()) if flags.tracker == "tensorboard" else None,
    )
    return show(result, flags)


def run_search(experiment: Experiment, flags: Flags, *, probes: int) -> int:
    """Find and print the smallest density above the flags' floor. Return the exit code, 1 if no round is above it."""
    from orchestrator.distributed.sweep import search

    if (floor := flags.stop(objective_of(experiment.task))) is None:
        raise ConfigError("a search needs --target or --max-drop, got neither")
    if flags.asha or flags.tracker:
        raise ConfigError("a search is one path after another: it takes neither --asha nor --tracker")
    found = search(
        experiment,
        floor,
        flags.storage,
        flags.deployment(),
        address=flags.address,
        max_concurrent=flags.max_concurrent,
        probes=probes,
    )
    first = found.records[0]
    text = first.objective.text
    val, test = (
        text(statistics.median(values)) for values in zip(*((r.val, r.test) for r in found.records), strict=True)
    )
    print(
        f"{'smallest' if found.holds else 'none holds; best'}: {first.compression:.2f}x, val {val}, "
        f"test {test}, round {first.round} of {found.experiment.name} ({found.reason}); "
        f"{found.rounds} rounds and {found.epochs} epochs looked at"
    )
    code = 0 if found.holds else 1
    return max(code, write_report(flags, [experiment, found.experiment])) if flags.report else code


def show(result: SweepResult, flags: Flags) -> int:
    """Print the result of a sweep, write its report, and return the exit code."""
    from orchestrator.report import print_table

    console = make_console()
    records = [record for outcome in result.outcomes for record in outcome.records]
    if flags.report is None:
        print_table(records, console)
    for outcome in result.outcomes:
        if outcome.state != "finished":
            label = f"{outcome.experiment.name}, seed {outcome.experiment.seed}"
            line = f"{outcome.state}: {label} after {len(outcome.records)} rounds: {outcome.reason}"
            console.print(line, markup=False)
    trained, asked = result.epochs_trained, result.epochs_asked
    console.print(
        f"epochs trained / epochs asked: {trained} / {asked}"
        + (f" = {trained / asked:.2f}" if asked else "")
        + f"; {len(records)} rounds, {len({record.key for record in records})} of them distinct; "
        f"this run took {duration(result.seconds)}",
        highlight=False,
    )
    code = 1 if any(outcome.state == "failed" for outcome in result.outcomes) else 0
    begun = [outcome.experiment for outcome in result.outcomes if outcome.records]
    return max(code, write_report(flags, begun)) if flags.report and begun else code
