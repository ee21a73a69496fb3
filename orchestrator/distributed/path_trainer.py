"""One TorchTrainer for a whole path: start the driver actor, fit, and clean up what only this run needed."""

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

MAX_FAILURES = 300  # of workers, over a whole path; a round without progress is given up much earlier
START_SECONDS = 3600.0  # until a group that finds no room counts as a failure, of which a path may have ten
# The same for a group that can start with fewer. Ray plans with a node for up to 20 s after its death, so nearly every
# node that dies costs one such start: as many are allowed as workers may fail.
ELASTIC_START_SECONDS = 30.0
ANSWER_SECONDS = 30.0  # until a driver that does not answer counts as being started again
MAX_WAIT_SECONDS = 5.0  # between two looks at a round that another owner trains

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
    """A handle on the driver actor of this path; `job` is shared by paths that need not repeat each other's failures.

    Raises OrchestratorError if it cannot start where it was placed.
    """
    unique = uuid.uuid4().hex
    owner = f"{experiment.name}.{experiment.seed} on {platform.node()}, {unique[:8]}"
    options: dict[str, Any] = {"name": f"{job or unique}/{owner}"}
    if open_store(storage).is_local:  # wherever it is started again, the folder must be there
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
    """End paths in order; returns when each round under way has its checkpoint, or `late` is set."""
    waiting = list(drivers)
    for driver in waiting:
        driver.stop.remote()
    while waiting and not late.is_set():
        waiting = [driver for driver in waiting if not _has_stopped(driver)]
        late.wait(0.05)


def _has_stopped(driver: Any) -> bool:
    """Asked again and again, as an actor that is started again knows of no earlier time."""
    try:
        return bool(ray.get(driver.stop.remote(), timeout=1))
    except ray.exceptions.GetTimeoutError:
        return False
    except ray.exceptions.RayError:  # dead, as its path has ended
        return True


def train_rounds(
    experiment: Experiment,
    driver: Any,
    store: Store,
    deployment: Deployment,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> None:
    """Train the path to its end; while another owner trains the round that is next, hold no workers.

    `on_wait` is told once who that is. Raises OrchestratorError when the path fails, or the workers keep dying.
    """
    told, since = None, time.monotonic()
    while (step := answer(driver.next_step.remote())).what != "end":
        if step.what == "train":
            # It returns early when its controller died: the next step says whether to start anew.
            fit(experiment, driver, store, deployment)
            since = time.monotonic()
            continue
        if step.holder and step.holder != told:
            told = step.holder
            on_wait(told)
        time.sleep(pause(time.monotonic() - since, MAX_WAIT_SECONDS))
    if failure := answer(driver.status.remote(0)).failure:
        raise OrchestratorError(failure)


def pause(waited: float, maximum: float) -> float:
    """Seconds until the next look at what was waited for already: short rounds are seen soon, long ones cost little."""
    return min(max(_MIN_PAUSE, waited / 10), maximum)


class GiveUp(ray.train.UserCallback):  # type: ignore[misc]
    """Has Ray Train start no further group of workers for a run that has failed: an error here ends it."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
        with contextlib.suppress(
            ray.exceptions.RayError
        ):  # a driver that is started again right now has given up nothing
            if failure := ray.get(self._driver.status.remote(0), timeout=ANSWER_SECONDS).failure:
                raise OrchestratorError(failure)


def fit(experiment: Experiment, driver: Any, store: Store, deployment: Deployment) -> None:
    """Train rounds with one group of workers; returns when the driver has no further one for them, or has failed.

    Returns too when Ray Train's controller died, which happens to the process that needs least of the memory that is
    short as well. Raises OrchestratorError when the workers keep dying, with what Ray says of it.
    """
    workers = deployment.workers
    loaders = deployment.loader_workers
    # Ray Train has nothing to keep: the workers write checkpoints to `store`, by the round's key.
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
    # Whoever asks for what the cluster can never hold was refused before; the rest waits until others are done.
    elastic = workers.minimum < workers.maximum
    patience, starts = (ELASTIC_START_SECONDS, MAX_FAILURES) if elastic else (START_SECONDS, 10)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(patience))
    trainer = QuietTorchTrainer(
        partial(train_path, config),
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
        if not answer(driver.status.remote(0)).failure:  # which the caller asks for
            raise OrchestratorError(f"training stopped: {last_line(error)}") from error
