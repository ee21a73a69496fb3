"""Run a sweep's paths with Ray Tune: quietly, with light trials, and a line for every round."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import tune
from rich.markup import escape

from orchestrator.distributed import autoscaler, cluster, orphans, path_trainer, termination
from orchestrator.distributed.deployment import Workers
from orchestrator.distributed.progress_line import paths_shown
from orchestrator.distributed.trial import Sweep, SweptPath, run_trial
from orchestrator.formatting import compression, duration, make_console
from orchestrator.storage.opening import open_store

_RESTARTS = 3  # of a trial whose process dies; it resumes from the ledger
# Trials request memory, not CPU: even a fraction of a CPU would take a whole one from training on a small cluster.
_TRIAL_RESOURCES = {"memory": 256 * 2**20}


def run_paths(
    path_of: Callable[[dict[str, Any]], SweptPath],
    sweep: Sweep,
    space: Mapping[str, Any],
    config: tune.TuneConfig,
    *,
    address: str | None,
    callbacks: Sequence[tune.Callback],
    folder: str | None,
) -> list[tune.Result]:
    """Train the paths that `path_of` makes from points of `space`, several at a time. Return their trials' results.

    Tune's files go to `folder`; None: they are deleted. It uses a connected Ray, else the one at `address`, else a
    local one.
    """
    with cluster.connected(address) as joined, tempfile.TemporaryDirectory(prefix="rewind-sweep-") as temporary:
        sweep = replace(sweep, deployment=cluster.fit_deployment(sweep.deployment, open_store(sweep.storage), joined))
        concurrent = config.max_concurrent_trials or concurrent_paths(sweep.deployment.workers, sweep.paths)
        config = replace(config, max_concurrent_trials=concurrent)
        with orphans.orphans_removed(), paths_shown(sweep.job), termination.stop_cleanly(partial(_stop, sweep.job)):
            return list(_make_tuner(path_of, sweep, space, config, callbacks, folder or temporary).fit())


def _stop(job: str, late: threading.Event) -> None:
    drivers = []
    for name in ray.util.list_named_actors():
        if name.startswith(f"{job}/"):
            with contextlib.suppress(ValueError):  # its path has just ended
                drivers.append(ray.get_actor(name))
    path_trainer.stop(drivers, late)


def _make_tuner(
    path_of: Callable[[dict[str, Any]], SweptPath],
    sweep: Sweep,
    space: Mapping[str, Any],
    config: tune.TuneConfig,
    callbacks: Sequence[tune.Callback],
    folder: str,
) -> tune.Tuner:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else verbose=0 still prints tables
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the ledger is the log
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the job handles Ctrl-C, with checkpoints
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `ShowRounds` reports a path that dies
    trainable = tune.with_parameters(run_trial, path_of=path_of, sweep=sweep)
    return tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([_TRIAL_RESOURCES])),
        param_space=dict(space),
        tune_config=config,
        run_config=tune.RunConfig(
            name=f"sweep-{sweep.job[:8]}",
            storage_path=folder,
            callbacks=[*callbacks, ShowRounds(sweep)],
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            verbose=0,
        ),
    )


def concurrent_paths(workers: Workers, paths: int) -> int:
    """Return how many of `paths` the cluster can train at a time, with the nodes that an autoscaler may still add."""
    fit = min(max(1, cluster.capacity(workers.resources) // workers.minimum), paths)
    too_many = paths + 1
    while fit + 1 < too_many:  # without an autoscaler the answer is no at once
        tried = (fit + too_many) // 2
        if autoscaler.can_hold(replace(workers, minimum=tried * workers.minimum)):
            fit = tried
        else:
            too_many = tried
    return fit


class ShowRounds(tune.Callback):  # type: ignore[misc]
    """Print a line for every new round of every path, and for every failure and end of a path.

    Rounds that were finished before the sweep began are counted, and not printed.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._ended, self._began, self._rounds = 0, time.monotonic(), 0

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "failure" in result:
            _print(result, f"[red]failed[/red]: {escape(result['failure'])}")
            return
        self._rounds += 1
        if result["round"] < self._sweep.finished.get(result["path"], 0):
            return
        _print(
            result,
            f"round {result['round']}/{result['rounds']}  {result['technique']}  "
            f"{compression(result['compression'])}  {result['shown']}",
            self._place(),
        )

    def _place(self) -> str:
        """Return how many of the sweep's rounds are there, and the time that the others take at this pace."""
        before = sum(self._sweep.finished.values())
        new, missing = self._rounds - before, self._sweep.rounds - self._rounds
        left = f", {duration((time.monotonic() - self._began) / new * missing)} left" if new > 0 < missing else ""
        return f"  [{self._rounds}/{self._sweep.rounds} rounds{left}]"

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        _print(trial.last_result, "[yellow]its process died and is restarted[/yellow]")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        _print(trial.last_result, "[red]its process died too often[/red]")
        self._end(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial)

    def _end(self, trial: Any) -> None:
        self._ended += 1
        _print(
            trial.last_result,
            f"path {self._ended} of {self._sweep.paths} has ended, after {duration(time.monotonic() - self._began)}",
        )


def _print(result: Mapping[str, Any] | None, text: str, place: str = "") -> None:
    path = (result or {}).get("path") or "a path that has not begun"
    make_console().print(
        f"{path}: {text}{escape(place)}", highlight=False
    )  # made here, because Tune pickles its callbacks
