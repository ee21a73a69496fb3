"""The driver as a Ray actor: the same two calls, with tensors travelling through the object store.

It may die at any moment: Ray starts it again, it reads the ledger, and calls that were under way are made again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import ray

from orchestrator.distributed.failures import log_file, with_log
from orchestrator.distributed.logs import RoundLog, about_round
from orchestrator.distributed.metrics import MeteredStore, Metrics
from orchestrator.distributed.tensors import share, unshare
from orchestrator.driver import Driver
from orchestrator.errors import OrchestratorError, StorageError, is_full
from orchestrator.experiment import Experiment, Problem
from orchestrator.record import Record
from orchestrator.stopping import Floor
from orchestrator.storage.claims import Claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.user_code import described
from orchestrator.work import EpochMetrics, RoundRequest, RoundResult

Order = Literal["go on", "stop", "leave"]  # "leave": the round as it is, which another owner has taken over
FRUITLESS = 5  # starts of a round without one finished epoch, after which it is given up
LOST = 3  # results that could not be committed, after which the run is given up (at once if the disk is full)
_NO_REASON = "see the workers' logs for why they died (memory is the usual cause)"


@dataclass(frozen=True)
class Report:
    """How far a round is; what a person follows."""

    round: int
    rounds: int
    density: float
    epochs_done: int
    epochs: int
    epochs_left: int
    metrics: EpochMetrics
    images_per_second: float
    workers: int

    @staticmethod
    def of(request: RoundRequest, metrics: EpochMetrics, done: int, images_per_second: float, workers: int) -> Report:
        epochs_left = request.epochs - done + (request.rounds - request.round) * request.epochs
        return Report(
            round=request.round,
            rounds=request.rounds,
            density=request.density,
            epochs_done=done,
            epochs=request.epochs,
            epochs_left=epochs_left,
            metrics=metrics,
            images_per_second=images_per_second,
            workers=workers,
        )


@dataclass(frozen=True)
class Status:
    """What the actor knows of the run: the newest report, records committed by it, and why it gave up, if it did.

    `starts`: of groups of workers, `restarts`: those that nobody asked for. `holder`: who trains the round that the run
    waits for, if it waits. `crash`: what the last worker that died of an error said.
    """

    report: Report | None
    records: tuple[Record, ...]
    failure: str | None
    starts: int
    restarts: int
    holder: str | None
    crash: str | None = None


@dataclass(frozen=True)
class Turn:
    """What a path needs next. `holder`: who trains the round that it waits for."""

    what: Literal["train", "wait", "end"]
    holder: str | None = None


def answer(call: ray.ObjectRef[Any]) -> Any:
    """What a call of the actor returned; an error of ours as it was raised there, without Ray's traceback as its text.

    Raises what the call raised, RayError if the actor died.
    """
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OrchestratorError):
            raise error.cause from error
        raise


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=8)
class DriverActor:
    """Owns the algorithm of one path; see `orchestrator.driver.Driver`."""

    def __init__(
        self,
        experiment: Experiment,
        storage: str,
        problem: Problem,
        job: str,
        owner: str,
        *,
        keep: Iterable[int] = (),
        floor: Floor | None = None,
    ) -> None:
        self._metrics = Metrics(experiment.name, experiment.seed)
        self._log = RoundLog(experiment, "driver")
        store = MeteredStore(open_store(storage), self._metrics, in_background=True)
        self._driver = Driver(experiment, Ledger(store), problem, keep=keep, floor=floor)
        self._claims = Claims(store, owner)
        self._shared: dict[str, tuple[RoundRequest, list[ray.ObjectRef[Any]]]] = {}
        self._sharing = threading.Lock()
        self._records: list[Record] = []
        self._report: Report | None = None
        self._job = job
        self._failure: str | None = None
        self._crash: str | None = None
        self._seen: dict[str, int] = {}  # the start in which each error was raised, since the last progress
        self._holder: str | None = None
        self._stopping, self._stopped = False, True
        self._starts = self._restarts = 0
        self._expected = False  # whether the next group of workers to start was asked for by `turn`
        self._coming = False  # whether a group of workers that `turn` asked for has not started yet
        self._place: tuple[str, tuple[int, int]] = ("", (0, 0))
        self._fruitless = 0
        self._lost = 0
        self._training: str | None = None  # key of the round that the workers train
        self._taken_over = False  # before this actor, started again, could renew its claim
        self._new = True  # no worker has asked for a round yet: perhaps they train what they asked before a restart

    def turn(self) -> Turn:
        """What whoever runs this path should do: train, wait for another owner's round, or end."""
        if self._failure is None:
            self._failure = self._driver.failure(self._job)  # of another path of the same job, or before a restart
        if self._stopping or self._is_fruitless(self._coming):
            return Turn("end")
        key, ours = self._claim_next()
        self._holder = None if ours or key is None else self._claims.holder(key)
        self._metrics.show(claims_waiting=self._holder is not None)
        if key is None:
            return Turn("end")
        # A group that did not stop by itself, such as one whose controller died, ended unexpectedly.
        self._expected, self._stopped, self._coming = ours and self._stopped, not ours, ours
        return Turn("train") if ours else Turn("wait", self._holder)

    def next_key(self, group_started: bool) -> str | None:
        """Key of the round to train, or None: the workers should end, and `turn` says why."""
        self._new = self._taken_over = False
        if group_started:
            self._stopped = self._coming = False
            self._starts += 1
            self._restarts += not self._expected
            self._metrics.add(restarts=not self._expected)
            self._expected = False
        if self._is_fruitless(group_started) or self._stopping:
            return None
        key, ours = self._claim_next()
        self._training = key if ours else None
        return self._training

    def _is_fruitless(self, start: bool) -> bool:
        """Count a start, if it is one; give the round up after too many of them without progress."""
        self._fruitless += start
        if self._fruitless <= FRUITLESS or (key := self._next_key()) is None:
            return False
        said = f"the last worker to say why it died said {self._crash}" if self._crash else _NO_REASON
        self.fail_round(key, f"a round was started {FRUITLESS} times and no attempt finished an epoch: {said}")
        return True

    def _next_key(self) -> str | None:
        if self._failure is not None:
            return None
        try:
            request = self._driver.next_round()
        except StorageError as error:  # a damaged parent: no attempt can help
            self._failure = str(error)
            return None
        except Exception as error:  # a criterion, a selection or a technique of the user's: as little
            self._give_up(error)
            return None
        return request.key if request else None

    def _give_up(self, error: Exception) -> None:
        """Fail the round that is next, as this process's code cannot make or commit it."""
        ours = isinstance(error, OrchestratorError)
        reason = str(error) if ours else f"{described(error)}; the driver's log: {log_file()}"
        self._log.exception("the driver failed")
        self._failure = self._failure or reason
        with contextlib.suppress(StorageError):
            if (key := self._driver.unfinished_key()) is not None:
                self.fail_round(key, reason)

    def _claim_next(self) -> tuple[str | None, bool]:
        """Key of the round that is next, if there is one, and whether it is ours to train."""
        try:
            while (key := self._next_key()) is not None and self._claims.acquire(key):
                if self._next_key() == key:
                    return key, True
                # Finished a moment ago: by another owner, and it is in storage, or by ourselves, and `finish_round`,
                # which is at it in another thread, releases the claim when it is.
                if self._driver.is_stored(key):
                    self._claims.release(key)
        except StorageError as error:  # patience is over, or the storage does not let us in any more
            self._failure = self._failure or str(error)
            return None, False
        return key, False

    def request(self, key: str) -> tuple[RoundRequest, list[ray.ObjectRef[Any]]]:
        """The request without its tensors, and a reference to them that each worker fetches by itself."""
        with self._sharing:  # every worker of a group asks, at the same time
            if key not in self._shared:
                request = self._driver.next_round()
                if request is None or request.key != key:
                    raise RuntimeError(f"round {key} is not the next one any more")
                self._log.round(key)
                self._log.info("round asked for", round=request.round, density=request.density, epochs=request.epochs)
                refs = [ray.put((share(request.start), share(request.masks)))]
                self._shared = {key: (replace(request, start=None, masks={}), refs)}
        return self._shared[key]

    def finish_round(self, key: str, result: RoundResult, tensors: list[ray.ObjectRef[Any]]) -> None:
        """Commit; returns when the round is safe in storage. The next one may have been asked for already."""
        with about_round(key):
            self._finish_round(key, result, tensors)

    def _finish_round(self, key: str, result: RoundResult, tensors: list[ray.ObjectRef[Any]]) -> None:
        state, kept = ray.get(tensors[0])
        snapshots = {epoch: unshare(snapshot) for epoch, snapshot in kept.items()}
        self._progress()
        try:
            if not self._claims.acquire(key):
                raise OrchestratorError(f"another owner has taken over round {key}")
            record = self._driver.finish_round(key, replace(result, state=unshare(state), snapshots=snapshots))
        except Exception as error:
            self._lost += 1
            if is_full(error) or not isinstance(error, OrchestratorError):
                self._give_up(error)
            elif self._lost >= LOST:
                self._failure = f"{LOST} results in a row could not be committed, the last one because: {error}"
            raise
        self._lost = 0
        self._claims.release(key)
        self._log.info("round committed", test_accuracy=result.test_accuracy, seconds=result.seconds)
        if record is not None and all(record.key != known.key for known in self._records):
            self._records.append(record)

    def fail_round(self, key: str, reason: str) -> None:
        """Give the run up and write down why."""
        with about_round(key):
            self._log.info("round failed", reason=reason)
            self._failure = self._failure or reason
            with contextlib.suppress(StorageError):  # a full disk may be the reason; `failure` still tells it
                self._driver.fail_round(key, reason, self._job)
            self._claims.release(key)

    def crashed(self, key: str, error: str, log: str, *, lost: bool) -> None:
        """Remember what a worker, or what starts workers, died of.

        The same error again without progress ends the run, unless a peer was lost: those who live on tell of that in
        the same words each time, and the next group may live longer.
        """
        self._log.info("worker died", error=error)
        self._crash = with_log(error, log)
        if not lost and self._seen.setdefault(error, self._starts) < self._starts:
            self.fail_round(key, f"two attempts ended in the same error: {self._crash}")

    def resumed(self, key: str, place: tuple[int, int]) -> None:
        """The workers go on from this place; further than the last time is no fruitless start."""
        if key != self._place[0] or place > self._place[1]:
            self._place = (key, place)
            self._progress()

    def report(self, key: str, report: Report | None) -> Order:
        """How far round `key` is; answers what the workers should do."""
        if self._new and self._next_key() == key:
            # Started again in the middle of a round, whose claim nobody renews any more.
            self._log.round(key)
            self._taken_over = not self._claims.acquire(key)
            self._training, self._stopped, self._new = key, False, False
        if report is not None:
            self._report = report
            self._progress()
            self._metrics.show(
                round=report.round,
                density=report.density,
                val_accuracy=report.metrics.val_accuracy,
                epochs_done=report.epochs_done,
                images_per_second=report.images_per_second,
            )
        if self._stopping:
            return "stop"
        return "leave" if self._failure is not None or self._has_lost(key) else "go on"

    def _progress(self) -> None:
        self._fruitless = 0
        self._seen.clear()

    def _has_lost(self, key: str) -> bool:
        """Whether another owner has taken over the round that the workers train."""
        return key == self._training and (self._taken_over or self._claims.lost(key))

    def stop(self) -> bool:
        """End the run in order: with a checkpoint of the round under way, and no further round; whether it has."""
        self._stopping = True
        return self._stopped or self._coming  # workers that have not started yet have nothing to keep

    def workers_stopped(self) -> None:
        """Said by a group of workers at its end, when what it has done is in storage."""
        if self._training and self._has_lost(self._training):
            self._driver.leave_round(self._training)
        self._stopped = True

    def status(self, after_round: int) -> Status:
        """What is new since the record of round `after_round`."""
        records = tuple(record for record in self._records if record.round > after_round)
        return Status(self._report, records, self._failure, self._starts, self._restarts, self._holder, self._crash)

    def pid(self) -> int:
        return os.getpid()
