"""Run the loop of every worker of the TorchTrainer: ask the driver for work, do it, hand the answer back.

If a worker dies, Ray Train starts the group again. The loop asks again, gets the same work and resumes from its newest
checkpoint. Checkpoints are in the storage under the key of the work. Ray Train's own list of checkpoints is not used:
it belongs to one path, a kill may leave half a checkpoint in it, and it learns of one seconds after it was written.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero

from orchestrator.data.load import load_data
from orchestrator.distributed.actor import Order, answer
from orchestrator.distributed.cluster import check_folder_is_here
from orchestrator.distributed.failures import is_lost, log_file, may_pass, message_of, sentence
from orchestrator.distributed.logs import RoundLog
from orchestrator.distributed.metrics import MeteredStore, Metrics
from orchestrator.distributed.run_status import Report
from orchestrator.distributed.search_report import SearchReport
from orchestrator.distributed.tensors import share, unshare
from orchestrator.errors import DivergedError, StorageError
from orchestrator.experiment import Experiment
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.progress import ProgressWriter, newest_progress
from orchestrator.storage.store import Store
from orchestrator.task import objective_of
from orchestrator.train_state import TrainState
from orchestrator.training import collectives
from orchestrator.training.trainer import Trainer
from orchestrator.user_code import ERRORS
from orchestrator.work.preparation import Work
from orchestrator.work.scoring import Evaluate
from orchestrator.work.train import EpochMetrics, Progress, TakeProgress, Train

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two checks whether to stop or to write a checkpoint
SEEN_SECONDS = 0.005  # between two questions for the next round while the driver receives the last one
AGREE_SECONDS = 1.0  # before workers that found different checkpoints read again
AGREE_LOOKS = 5
PREEMPTION_LOOKS = 4  # every fourth check asks Ray Train about preemption: there all workers wait for each other


@dataclass(frozen=True)
class WorkerConfig:
    """Hold what a worker needs to know. It has no secrets: those come from the environment of each node.

    `home`: the node of the job. `checkpoint_seconds`: minimum time between two checkpoints.
    """

    experiment: Experiment
    driver: Any
    storage: str
    home: str | None
    data_root: str | None
    threads: int
    loader_workers: int
    checkpoint_seconds: float


def train_path(config: WorkerConfig) -> None:
    """Do all work that the driver asks for."""
    torch.set_num_threads(config.threads)
    metrics = Metrics(config.experiment.name, config.experiment.seed)
    link = DriverLink(config.driver, metrics)
    log = RoundLog(config.experiment, f"worker {collectives.rank()}")
    plain = open_store(config.storage)
    store, writer = MeteredStore(plain, metrics), ProgressWriter(MeteredStore(plain, metrics, in_background=True))
    trainer: Trainer | None = None
    while (key := link.next_key()) is not None:
        log.round(key)
        try:
            device = ray.train.torch.get_device()
            if trainer is None:
                check_folder_is_here(store, config.home)
                data = load_data(config.experiment.data, config.experiment.data_options, root=config.data_root)
                trainer = Trainer(config.experiment, data, device=device, loader_workers=config.loader_workers)
            work = link.work(key)
            resume = _checkpoint(store, work.training, trainer) if work.training else None
            if resume:
                link.resumed(key, resume)
                log.info("resumes from a checkpoint", epochs_done=resume.epochs_done, steps_done=resume.steps_done)
            watch = Watch(config, key, link, writer, trainer, metrics, log)
            finished = trainer.do(
                work,
                resume=resume,
                on_epoch=watch.epoch_done,
                on_step=watch.step_done,
                on_snapshot=partial(_keep, store, key),
                on_score=watch.scored,
            )
            with metrics.blocked_on_storage():
                writer.wait()  # so that nothing of the round is written after its commit
        except Stopped:
            break
        except DivergedError as error:  # on every worker alike
            link.fail(key, str(error))
            return
        except ERRORS as error:
            # The others may wait for this worker in a collective: raising ends the group. `GiveUp` starts no other one
            # if the run has failed, which the driver knows before this worker ends.
            log.exception("the worker failed")
            if may_pass(error):
                link.crashed(key, error)
            else:
                link.fail(key, sentence(error))
            raise
        link.finish(work, finished)
    link.wait()
    link.stopped()


def _checkpoint(store: Store, work: Train, trainer: Trainer) -> Progress | None:
    """Return the newest checkpoint of a round, the same on all workers; it may be replaced while they read it."""
    for look in range(AGREE_LOOKS):
        time.sleep(AGREE_SECONDS if look else 0.0)
        found = newest_progress(store, work.key, partial(trainer.check, work), trainer.max_progress_bytes)
        if collectives.same_everywhere(found.place if found else (0, 0), trainer.device):
            return found
    logger.warning("the workers cannot read the same checkpoint: the round starts again")
    return None


def _keep(store: Store, key: str, epoch: int, state: TrainState) -> None:
    """Store a snapshot at once: a group that resumes after its epoch would not make it again."""
    if collectives.rank() == 0:
        with contextlib.suppress(StorageError):  # the answer holds it too
            Ledger(store).write_snapshot(key, str(epoch), state)


class DriverLink:
    """Make a worker's calls to the driver actor. Rank 0 asks and answers; every rank fetches its own tensors."""

    def __init__(self, driver: Any, metrics: Metrics) -> None:
        self._driver, self._metrics = driver, metrics
        self._first = collectives.rank() == 0
        self._started = True
        self._committing: tuple[str, Any] | None = None
        self._answer: Any = None
        self._order: Order = "continue"

    def next_key(self) -> str | None:
        key: str | None = broadcast_from_rank_zero(self._ask() if self._first else None)
        return key

    def _ask(self) -> str | None:
        key: str | None = answer(self._driver.next_key.remote(self._started))
        self._started = False
        while self._committing is not None and key == self._committing[0]:
            # The driver has not received the last answer yet, perhaps because it was restarted.
            if ray.wait([self._committing[1]], timeout=SEEN_SECONDS)[0]:
                self.wait()
            key = answer(self._driver.next_key.remote(False))
        return key

    def work(self, key: str) -> Work:
        while True:
            light, refs = answer(self._driver.work.remote(key))
            try:
                work: Work = light.joined(unshare(ray.get(refs[0])))
            except ray.exceptions.ObjectLostError:
                continue  # the driver died, and its objects with it; Ray restarts it
            return work

    def finish(self, work: Work, finished: Any) -> None:
        """Send the answer to the driver, which uploads it while the next round trains. Commits stay in order."""
        self.wait()
        if self._first and self._order != "leave":  # else another owner does the work
            refs = [ray.put(share(finished))]
            self._committing = (work.key, self._driver.finish.remote(work.split()[0], refs))

    def wait(self) -> None:
        if self._committing is not None:
            with self._metrics.blocked_on_storage():
                answer(self._committing[1])
            self._committing = None

    def fail(self, key: str, reason: str) -> None:
        answer(self._driver.fail.remote(key, reason))

    def crashed(self, key: str, error: BaseException) -> None:
        answer(self._driver.crashed.remote(key, message_of(error), log_file(), lost=is_lost(error)))

    def resumed(self, key: str, progress: Progress) -> None:
        if self._first:
            self._driver.resumed.remote(key, progress.place)

    def stopped(self) -> None:
        if self._first:
            self._driver.workers_stopped.remote()

    def report(self, key: str, report: Report | SearchReport | None) -> None:
        """Report the progress of the round to the driver, unless a call is under way; `order` has its answer."""
        if self.order() != "continue" or (self._answer is not None and report is None):
            return
        call = self._driver.report.remote(key, report)
        self._answer = self._answer or call

    def order(self) -> Order:
        """Return the driver's newest order, without waiting for a call under way."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # Ray is restarting the driver
                self._order = ray.get(self._answer)
            self._answer = None
        return self._order


class Stopped(Exception):  # noqa: N818  # not an error: it was asked for
    """The run was asked to stop and its progress is in a checkpoint, or another owner has taken the round over."""


class Watch:
    """Report progress, write checkpoints and check whether to stop, while a worker trains.

    Rank 0 decides, and all workers act after the same step. How long steps take decides how many lie between checks.
    """

    def __init__(
        self,
        config: WorkerConfig,
        key: str,
        link: DriverLink,
        writer: ProgressWriter,
        trainer: Trainer,
        metrics: Metrics,
        log: RoundLog,
    ) -> None:
        self._config, self._key, self._link, self._writer, self._log = config, key, link, writer, log
        self._trainer, self._metrics = trainer, metrics
        self._objective = objective_of(config.experiment.task)
        self._began = self._saved = self._looked = time.monotonic()
        self._reported = 0.0
        self._steps = self._steps_to_look = 1
        self._looks = 0
        self._preempted = False
        self._rank, self._workers = collectives.rank(), collectives.world_size()

    def epoch_done(
        self,
        work: Train,
        metrics: EpochMetrics,
        samples_per_second: float,
        take_progress: TakeProgress,
    ) -> None:
        self._metrics.add(data_blocked_seconds=self._trainer.batches.take_waited())
        if collectives.rank() != 0:
            return
        done = metrics.epoch - work.first_epoch + 1
        self._log.info("epoch done", epochs_done=done, epochs=work.epochs, **metrics.numbers())
        if (now := time.monotonic()) - self._reported > LOOK_SECONDS:
            self._reported = now
            self._link.report(
                work.key, Report.of(work, metrics, self._objective, done, samples_per_second, collectives.world_size())
            )
        if self._is_due() and done < work.epochs and (progress := take_progress()):
            self._save(progress)

    def scored(self, work: Evaluate, done: int, best: float | None) -> bool:
        """Report the progress of a generation; return whether this worker should continue.

        The workers score independently, so each asks by itself. They meet at the end of the generation.
        """
        report, now = None, time.monotonic()
        if self._rank == 0 and now - self._reported > LOOK_SECONDS:
            self._reported = now
            per_second = done * self._workers / max(now - self._began, 1e-9)
            report = SearchReport.of(work, self._objective, done, best, per_second, self._workers)
        self._link.report(self._key, report)
        return self._link.order() == "continue"

    def step_done(self, take_progress: TakeProgress) -> None:
        """Raise Stopped on every worker if the run should end."""
        self._steps_to_look -= 1
        if self._steps_to_look > 0:
            return
        self._looks += 1
        preempted = self._looks % PREEMPTION_LOOKS == 0 and ray.train.get_preemption_info() is not None
        now = time.monotonic()
        pace = (now - self._looked) / self._steps
        self._looked = now
        if collectives.rank() == 0:
            self._link.report(self._key, None)
        order = self._link.order()
        last_moment = order != "continue" or (preempted and not self._preempted)
        self._preempted |= preempted
        steps = max(1, min(1000, int(LOOK_SECONDS / max(pace, 1e-6))))
        # A node often goes before its notice ends: write a checkpoint at each of these checks until then.
        due = order != "leave" and (last_moment or self._is_due() or (preempted and not self._writer.is_busy))
        decision = [int(due), int(last_moment), int(order != "continue"), steps]
        save, wait, end, steps = collectives.from_rank_zero(decision, self._trainer.device)
        self._steps = self._steps_to_look = steps
        if save and (progress := take_progress()):
            self._save(progress)
        if wait:
            with self._metrics.blocked_on_storage():
                self._writer.wait()
        if end:
            raise Stopped

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved >= self._config.checkpoint_seconds and not self._writer.is_busy

    def _save(self, progress: Progress) -> None:
        self._log.info("checkpoint", epochs_done=progress.epochs_done, steps_done=progress.steps_done)
        self._writer.start(progress)
        self._saved = time.monotonic()
