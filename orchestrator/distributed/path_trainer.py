"""Train a whole path with one TorchTrainer: start the driver actor, fit, and stop it."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import ray
import ray.train
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.distributed.actor import DriverActor, answer
from orchestrator.distributed.deployment import Deployment
from orchestrator.distributed.failures import death, last_line
from orchestrator.distributed.network import OwnAddress
from orchestrator.distributed.ray_private import QuietTorchTrainer
from orchestrator.distributed.worker import WorkerConfig, train_path
from orchestrator.errors import OrchestratorError
from orchestrator.experiment import Experiment, Problem
from orchestrator.stopping import Floor
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import Store

MAX_FAILURES = 300  # failed workers in a whole path; a round without progress is given up much earlier
START_SECONDS = 3600.0  # time limit for a group of workers to get resources; a path may fail so ten times
# The same for an elastic group. Ray plans with a node for up to 20 s after its death, so nearly every dead node costs
# one failed start: as many of these are allowed as failed workers.
ELASTIC_START_SECONDS = 30.0
ANSWER_SECONDS = 30.0  # a driver that does not answer for so long is being restarted
MAX_WAIT_SECONDS = 5.0  # between two checks of a round that another owner trains

_MIN_PAUSE = 0.5


def start_driver(
    experiment: Experiment,
    storage: str,
    problem: Problem,
    *,
    job: str = "",
    keep: Iterable[int] = (),
    floor: Floor | None = None,
) -> Any:
    """Start the driver actor of this path, and return its handle. Raises OrchestratorError if it cannot start.

    Paths with the same `job` do not repeat each other's failures.
    """
    unique = uuid.uuid4().hex
    owner = f"{experiment.name}.{experiment.seed} on {platform.node()}, {unique[:8]}"
    options: dict[str, Any] = {"name": f"{job or unique}/{owner}"}
    if open_store(storage).is_local:  # it must be restarted on the node that has the folder
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
    driver = DriverActor.options(**options).remote(  # type: ignore[attr-defined]
        experiment, storage, problem, job or unique, owner, keep=tuple(keep), floor=floor
    )
    try:
        ray.get(driver.pid.remote())
    except ray.exceptions.RayError as error:
        raise OrchestratorError(f"the driver actor cannot start: {last_line(error)}") from error
    return driver


def stop(drivers: Iterable[Any], late: threading.Event) -> None:
    """Stop paths cleanly; return when each unfinished round has its checkpoint, or `late` is set."""
    waiting = list(drivers)
    for driver in waiting:
        driver.stop.remote()
    while waiting and not late.is_set():
        waiting = [driver for driver in waiting if not _has_stopped(driver)]
        late.wait(0.05)


def _has_stopped(driver: Any) -> bool:
    """Ask the driver to stop, and return whether it has; repeated, because a restarted actor forgets the request."""
    try:
        return bool(ray.get(driver.stop.remote(), timeout=1))
    except ray.exceptions.GetTimeoutError:
        return False
    except ray.exceptions.RayError:  # dead, because its path has ended
        return True


def train_rounds(
    experiment: Experiment,
    driver: Any,
    store: Store,
    deployment: Deployment,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> None:
    """Train the path to its end; while another owner trains the next round, wait without workers.

    `on_wait` is called once with each such owner. Raises OrchestratorError if the path fails or workers keep dying.
    """
    reported, since = None, time.monotonic()
    while (step := answer(driver.next_step.remote())).what != "end":
        if step.what == "train":
            # It returns early if Ray Train's controller died: the next step says whether to start again.
            fit(experiment, driver, store, deployment)
            since = time.monotonic()
            continue
        if step.holder and step.holder != reported:
            reported = step.holder
            on_wait(reported)
        time.sleep(pause(time.monotonic() - since, MAX_WAIT_SECONDS))
    if failure := answer(driver.status.remote(0)).failure:
        raise OrchestratorError(failure)


def pause(waited: float, maximum: float) -> float:
    """Return the seconds until the next check: a tenth of the time `waited`, so that checks are prompt but few."""
    return min(max(_MIN_PAUSE, waited / 10), maximum)


class GiveUp(ray.train.UserCallback):  # type: ignore[misc]
    """Keep Ray Train from starting another group of workers for a failed run: an error here ends it."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # a driver that is being restarted has not given up
            if failure := ray.get(self._driver.status.remote(0), timeout=ANSWER_SECONDS).failure:
                raise OrchestratorError(failure)


def fit(experiment: Experiment, driver: Any, store: Store, deployment: Deployment) -> None:
    """Train rounds with one group of workers, until the driver has no further round for them or has failed.

    Returns too if Ray Train's controller died: when memory is short, even a process that needs little may be killed.
    Raises OrchestratorError, with Ray's reason, if the workers keep dying.
    """
    workers = deployment.workers
    loaders = deployment.loader_workers
    # Ray Train does not store anything: the workers write checkpoints to `store`, by the round's key.
    run = f"{experiment.name}.{experiment.seed}-{uuid.uuid4().hex}"
    config = WorkerConfig(
        experiment=experiment,
        driver=driver,
        storage=store.uri,
        home=deployment.home,
        data_root=deployment.data_root,
        threads=max(1, int(workers.cpus)),
        loader_workers=max(1, int(workers.cpus)) if loaders is None else loaders,
        checkpoint_seconds=deployment.checkpoint_seconds,
    )
    # `check_capacity` has refused workers that can never fit; here they wait until other jobs end.
    elastic = workers.minimum < workers.maximum
    patience, starts = (ELASTIC_START_SECONDS, MAX_FAILURES) if elastic else (START_SECONDS, 10)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(patience))
    trainer = QuietTorchTrainer(
        partial(train_path, config),
        grows=deployment.grows,
        torch_config=OwnAddress(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(workers.minimum, workers.maximum) if elastic else workers.minimum,
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.resources,
        ),
        run_config=ray.train.RunConfig(
            name=run,
            storage_path="/train",
            storage_filesystem=PyFileSystem(FSSpecHandler(MemoryFileSystem())),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=starts),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=[GiveUp(driver)],
        ),
    )
    try:
        trainer.fit()
    except ray.exceptions.RayActorError as error:
        why = f"Ray Train's controller died: {death(error)}"
        answer(driver.crashed.remote("", why, "", lost=True))
    except ray.train.TrainingFailedError as error:
        if not answer(driver.status.remote(0)).failure:  # else the caller raises it
            raise OrchestratorError(f"training stopped: {last_line(error)}") from error
