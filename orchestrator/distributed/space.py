"""Search a space of experiments with Optuna, instead of a list of them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ray import tune

from orchestrator.distributed.deployment import Deployment
from orchestrator.distributed.sweep import SweepResult, checked_sweep, outcome_of
from orchestrator.distributed.trial import SweptPath
from orchestrator.distributed.tuner import run_paths
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.experiment import Experiment
from orchestrator.extras import extra
from orchestrator.problem import load_problem
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import Classification, Task, objective_of
from orchestrator.validate import whole

Build = Callable[[dict[str, Any]], Experiment]
DEFAULT_TASK = Classification()  # that of an experiment


def sweep_space(
    build: Build,
    space: Mapping[str, Any],
    storage: str = "./runs",
    deployment: Deployment | None = None,
    *,
    samples: int = 20,
    metrics: Mapping[str, str] | None = None,
    task: Task = DEFAULT_TASK,
    address: str | None = None,
    max_concurrent: int | None = None,
    floor: Floor | None = None,
    callbacks: Sequence[tune.Callback] = (),
    folder: str | None = None,
    seed: int = 0,
) -> SweepResult:
    """Train `samples` points of `space`, chosen one after another by Optuna's sampler (TPE, Bergstra et al. 2011).

    `space`: {name: domain of `ray.tune`} (`tune.choice`, `tune.uniform`, ...). `build` makes an experiment from a
    point {name: value}; a unique ending is added to its name. `metrics`: which numbers of a path's last round to
    optimise, {name: "max" or "min"}. The default is the best trade-off between the objective of `task`, which all
    experiments have, on validation data and the compression. The other arguments are those of `sweep_paths`. Raises
    ConfigError.
    """
    with extra("optuna", "sweep_space"):
        import optuna
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    whole("samples", samples, minimum=1)
    if not space:
        raise ConfigError("space must have at least one parameter, got none")
    began = time.perf_counter()
    objective = objective_of(task)
    sweep = checked_sweep(storage, deployment, max_concurrent, floor, objective)
    ledger = Ledger(open_store(storage))
    metrics = metrics or {f"val_{objective.name}": objective.mode, "compression": "max"}
    path_of = partial(_path_of, build, sweep.deployment)
    sampler = OptunaSearch(metric=list(metrics), mode=list(metrics.values()), sampler=TPESampler(seed=seed))
    results = run_paths(
        path_of,
        replace(sweep, paths=samples),
        space,
        tune.TuneConfig(num_samples=samples, max_concurrent_trials=max_concurrent, search_alg=sampler),
        address=address,
        callbacks=callbacks,
        folder=folder,
    )
    outcomes = []
    for result in results:
        try:
            path = path_of(result.config)
        except OrchestratorError:
            continue  # not an experiment, which was reported when it was tried
        outcomes.append(outcome_of(path.driver(ledger, floor), result))
    return SweepResult(tuple(outcomes), time.perf_counter() - began)


def _path_of(build: Build, deployment: Deployment, point: dict[str, Any]) -> SweptPath:
    """Return the path of a point. Raises OrchestratorError if its experiment cannot be trained."""
    digest = hashlib.sha256(json.dumps(point, sort_keys=True, default=repr).encode()).hexdigest()
    experiment, *more = build(point).replicates()
    if more:
        raise ConfigError(
            f"a point of a space is one path, got {1 + len(more)} seeds: make the seed a dimension of the space"
        )
    experiment = replace(experiment, name=f"{experiment.name[:80]}-{digest[:8]}")
    deployment.check_batch(experiment.training.batch_size)
    problem, _ = load_problem(experiment, deployment.data_root, deployment.workers.maximum)
    return SweptPath(experiment, problem)
