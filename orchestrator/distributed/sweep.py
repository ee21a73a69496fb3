"""Train many sparsity paths at once with Ray Tune. Rounds with the same key are trained only once.

All results are in the ledger: a sweep that was killed resumes when it is started again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ray import tune

from orchestrator.distributed import cluster
from orchestrator.distributed.deployment import Deployment
from orchestrator.distributed.halving import Halving, Stops
from orchestrator.distributed.trial import Sweep, SweptPath
from orchestrator.distributed.tuner import run_paths
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.field_json import as_json
from orchestrator.formatting import make_console
from orchestrator.objective import Objective
from orchestrator.problem import load_problem
from orchestrator.pruning import Geometric
from orchestrator.record import Record
from orchestrator.rehearsal import is_ours
from orchestrator.search import SearchResult, search_density
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import side_by_side
from orchestrator.task import objective_of
from orchestrator.techniques import LearningRateRewinding
from orchestrator.validate import whole


@dataclass(frozen=True)
class Outcome:
    """How one path ended and its committed rounds, in order; `reason` says why it was cut or failed."""

    experiment: Experiment
    state: Literal["finished", "cut", "failed"]
    records: tuple[Record, ...]
    reason: str = ""


@dataclass(frozen=True)
class SweepResult:
    """All paths, one for each seed of each experiment. `seconds`: the whole sweep, start-up included."""

    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def epochs_asked(self) -> int:
        """Return the epochs that all paths together would need without sharing rounds."""
        return sum(record.epochs for outcome in self.outcomes for record in outcome.records)

    @property
    def epochs_trained(self) -> int:
        """Return the epochs of the distinct rounds."""
        distinct = {record.key: record for outcome in self.outcomes for record in outcome.records}
        return sum(record.epochs for record in distinct.values())


def sweep_paths(
    experiments: Sequence[Experiment],
    storage: str = "./runs",
    deployment: Deployment | None = None,
    *,
    address: str | None = None,
    max_concurrent: int | None = None,
    floor: Floor | None = None,
    asha: bool = False,
    callbacks: Sequence[tune.Callback] = (),
    folder: str | None = None,
    problems: dict[str, Problem] | None = None,
) -> SweepResult:
    """Train every replicate of every experiment that is not in `storage` yet, several paths at a time.

    `max_concurrent`: paths at a time; None: as many as the cluster holds. `floor`: a path is cut after a round that
    falls below it. `asha`: successive halving over the round number (Li et al. 2020), for paths whose rounds have the
    same densities; stopped paths stay stopped when the same sweep is started again. `callbacks`: of Ray Tune, such as
    a tracker's; files that they write to Tune's own folder go to `folder`, None: they are deleted. `problems`: a cache
    of loaded problems, which this call extends. It uses a connected Ray, else the one at `address`, else a local one.

    A path that fails does not stop the others. Raises OrchestratorError, before any training, for bad input.
    """
    began = time.perf_counter()
    replicates = distinct(experiments)
    sweep = checked_sweep(storage, deployment, max_concurrent, floor, objective_of(replicates[0].task))
    ledger = Ledger(open_store(storage))
    paths = {path.label: path for path in _paths(replicates, sweep.deployment, problems)}
    made = side_by_side(ledger.store, lambda path: path.driver(ledger, floor), paths.values())
    drivers = dict(zip(paths, made, strict=True))
    stops = Stops(ledger.store, (driver.keys[-1] for driver in drivers.values()))
    stopped = stops.paths() if asha else set()
    going = [label for label in paths if label not in stopped]
    over = side_by_side(ledger.store, lambda label: drivers[label].is_over(), going)
    missing = [label for label, is_over in zip(going, over, strict=True) if not is_over]
    results: dict[str, tune.Result] = {}
    if missing:
        _show_header(drivers, missing, ledger.store.uri)
        scheduler = _halving(stops, drivers) if asha else None
        found = run_paths(
            lambda point: paths[point["path"]],
            replace(
                sweep,
                paths=len(missing),
                objective=drivers[missing[0]].problem.objective,
                rounds=sum(len(drivers[label].keys) for label in missing),
                finished={label: len(drivers[label].records()) for label in missing},
            ),
            {"path": tune.grid_search(missing)},
            tune.TuneConfig(max_concurrent_trials=max_concurrent, scheduler=scheduler),
            address=address,
            callbacks=callbacks,
            folder=folder,
        )
        results = {result.config["path"]: result for result in found}
    outcomes = side_by_side(ledger.store, lambda label: outcome_of(drivers[label], results.get(label)), paths)
    return SweepResult(tuple(outcomes), time.perf_counter() - began)


def _show_header(drivers: Mapping[str, Driver], missing: Sequence[str], uri: str) -> None:
    """Print how much a sweep has to do. Rounds that several paths share are trained once."""
    keys = {key for driver in drivers.values() for key in driver.keys}
    finished = {record.key for driver in drivers.values() for record in driver.records()}
    rounds = sum(len(driver.keys) for driver in drivers.values())
    make_console().print(
        f"sweep: {len(missing)} of {len(drivers)} paths to train; {rounds} rounds, {len(keys)} of them distinct, "
        f"{len(finished)} of these are in {uri}",
        highlight=False,
        markup=False,
    )


def search(
    experiment: Experiment,
    floor: Floor,
    storage: str = "./runs",
    deployment: Deployment | None = None,
    *,
    address: str | None = None,
    max_concurrent: int | None = None,
    probes: int = 4,
) -> SearchResult:
    """Find the smallest density of `experiment` above `floor` (see `search_density`), trained on Ray.

    Raises OrchestratorError for bad input, and if a path fails.
    """

    problems: dict[str, Problem] = {}

    def train(candidate: Experiment, floor: Floor) -> list[tuple[Record, ...]]:
        outcomes = sweep_paths(
            [candidate], storage, deployment, max_concurrent=max_concurrent, floor=floor, problems=problems
        ).outcomes
        for outcome in outcomes:
            if outcome.state == "failed":
                raise OrchestratorError(f"{outcome.experiment.name}, seed {outcome.experiment.seed}: {outcome.reason}")
        return [outcome.records for outcome in outcomes]

    with cluster.connected(address):
        return search_density(experiment, floor, train, probes=probes)


def distinct(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Return every replicate once. Raises ConfigError for an empty list, or for different experiments of one name."""
    if not experiments:
        raise ConfigError("a sweep needs at least one experiment, got an empty list")
    named: dict[str, Experiment] = {}
    found: dict[tuple[str, int], Experiment] = {}
    for replicate in (replicate for experiment in experiments for replicate in experiment.replicates()):
        content = replace(replicate, seed=0)
        if as_json(named.setdefault(replicate.name, content)) != as_json(content):
            raise ConfigError(
                f"experiments of one name must be equal except for their seeds, but two different ones are named "
                f"{replicate.name!r}: give each its own name"
            )
        found.setdefault((replicate.name, replicate.seed), replicate)
    return list(found.values())


def checked_sweep(
    storage: str,
    deployment: Deployment | None,
    max_concurrent: int | None,
    floor: Floor | None,
    objective: Objective,
) -> Sweep:
    """Check the storage and `max_concurrent`, and return the sweep of a new job. Raises OrchestratorError."""
    if max_concurrent is not None:
        whole("max_concurrent", max_concurrent, minimum=1)
    store = open_store(storage)
    store.check()
    return Sweep(store.uri, deployment or Deployment(), floor, uuid.uuid4().hex, objective)


def _paths(
    replicates: list[Experiment], deployment: Deployment, problems: dict[str, Problem] | None = None
) -> list[SweptPath]:
    """Return the paths, ordered so that those that run at the same time share few rounds: sharing means waiting.

    Loads problems that are not in `problems`, and adds them.
    """
    problems = {} if problems is None else problems
    paths = []
    for experiment in replicates:
        deployment.check_batch(experiment.training.batch_size)
        # All fields distinguish problems, except those that certainly do not affect model and data.
        alike = replace(experiment, name="any", seed=0)
        if is_ours(alike.path) and not alike.phases:  # the rehearsal calls a user's path with the model
            alike = replace(alike, path=Geometric())
        if is_ours(alike.technique):
            alike = replace(alike, technique=LearningRateRewinding())
        if (about := json.dumps(as_json(alike))) not in problems:
            problems[about], _ = load_problem(experiment, deployment.data_root, deployment.workers.maximum)
        paths.append(SweptPath(experiment, problems[about]))
    dense = [round_keys(round_settings(path.experiment, path.problem))[0] for path in paths]
    wanted: dict[str, set[int]] = {key: set() for key in dense}
    for path, key in zip(paths, dense, strict=True):
        epoch = path.experiment.technique.rewinds_to(path.experiment.training)
        wanted[key] |= set() if epoch is None else {epoch}
    turns, before = Counter[str](), []
    for key in dense:
        before.append(turns[key])
        turns[key] += 1
    order = sorted(range(len(paths)), key=lambda i: before[i])
    return [replace(paths[i], keep=tuple(sorted(wanted[dense[i]]))) for i in order]


def _halving(stops: Stops, drivers: Mapping[str, Driver]) -> Halving:
    before = {label: [record.val for record in driver.records()] for label, driver in drivers.items()}
    objectives = {driver.problem.objective for driver in drivers.values()}
    if len(objectives) > 1:
        names = ", ".join(sorted(objective.name for objective in objectives))
        raise ConfigError(f"asha compares paths by one objective, got {names}: sweep each task by itself")
    return Halving(stops, max(len(driver.densities) for driver in drivers.values()), before, objectives.pop())


def outcome_of(driver: Driver, result: tune.Result | None) -> Outcome:
    """Return how the path of `driver` ended; `result`: that of its trial, if it ran."""
    experiment, floor, records = driver.experiment, driver.floor, tuple(driver.records())
    if len(records) == len(driver.keys):
        return Outcome(experiment, "finished", records)
    if result is not None and (reason := (result.metrics or {}).get("failure")):
        return Outcome(experiment, "failed", records, reason)
    if result is not None and result.error is not None:
        return Outcome(experiment, "failed", records, str(result.error).strip().splitlines()[-1])
    if not records:
        return Outcome(experiment, "failed", records, "no round was committed")
    dense, last, objective = records[0].val, records[-1].val, records[0].objective
    if floor and driver.is_over():
        why = f"worse than the floor of {objective.text(floor.of(dense, objective))}"
        why += ", as is the dense network" if floor.margin(dense, dense, objective) < 0 else ""
    else:
        why = "stopped by ASHA"
    return Outcome(experiment, "cut", records, f"validation {objective.name} {objective.text(last)}, {why}")
