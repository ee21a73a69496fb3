"""Run the driver as a Ray actor: the same two calls, with tensors in the object store.

It may die at any moment. Ray restarts it, it reads the ledger, and Ray repeats the calls that were under way.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import ray

from orchestrator.distributed.failures import log_file
from orchestrator.distributed.logs import RoundLog, about_round
from orchestrator.distributed.metrics import MeteredStore, Metrics
from orchestrator.distributed.path_state import (
    AskForGroup,
    CommitFailed,
    Committed,
    Crashed,
    Event,
    GivenUp,
    GroupStarted,
    GroupStopped,
    GroupTrains,
    NoGroupNeeded,
    PathState,
    Progressed,
    Resumed,
    StopAsked,
    WorkTaken,
    decide,
)
from orchestrator.distributed.run_status import Report, Status
from orchestrator.distributed.search_report import SearchReport
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
from orchestrator.work.keys import claim_key, split_key
from orchestrator.work.preparation import Work

Order = Literal["continue", "stop", "leave"]  # "leave": stop without a checkpoint, as another owner has the round


@dataclass(frozen=True)
class NextStep:
    """Say what a path needs next. `holder`: the owner that trains the round it waits for."""

    what: Literal["train", "wait", "end"]
    holder: str | None = None


def answer(call: ray.ObjectRef[Any]) -> Any:
    """Return the result of a call of the actor.

    Raises an OrchestratorError as the actor raised it, without Ray's traceback in its text; RayError if the actor died.
    """
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OrchestratorError):
            raise error.cause from error
        raise


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=8)
class DriverActor:
    """Own the algorithm of one path; see `orchestrator.driver.Driver`."""

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
        versions = {"ray": ray.__version__}
        self._driver = Driver(experiment, Ledger(store), problem, keep=keep, floor=floor, versions=versions)
        self._claims = Claims(store, owner)
        self._shared: dict[str, tuple[Work, list[ray.ObjectRef[Any]]]] = {}
        self._sharing = threading.Lock()
        self._records: list[Record] = []
        self._report: Report | SearchReport | None = None
        self._job = job
        self._state = PathState()
        self._deciding = threading.Lock()
        self._search: str | None = None  # the claim on a round's scores, from the first generation to the last
        self._resumed: tuple[int, int, int] | None = None

    def next_step(self) -> NextStep:
        """Return what the process that runs this path should do: train, wait for another owner's round, or end."""
        if self._state.failure is None and (failure := self._driver.failure(self._job)) is not None:
            self._apply(GivenUp(failure), written=True)  # by another path of the same job, or before a restart
        if self._state.is_over:
            return NextStep("end")
        key, ours = self._claim_next()
        holder = None if ours or key is None else self._claims.holder(claim_key(key))
        self._metrics.show(claims_waiting=holder is not None)
        if not ours:
            self._apply(NoGroupNeeded(holder))
            return NextStep("end") if key is None else NextStep("wait", holder)
        self._apply(AskForGroup(), key=key)
        return NextStep("end" if self._state.is_over else "train")

    def next_key(self, group_started: bool) -> str | None:
        """Return the key of the work to do, or None if the workers should end; `next_step` returns why."""
        restarts = self._state.restarts
        self._apply(GroupStarted() if group_started else GroupTrains(), key=self._state.work)
        self._metrics.add(restarts=self._state.restarts - restarts)
        if self._state.is_over:
            return None
        key, ours = self._claim_next()
        work = key if ours else None
        self._apply(WorkTaken(work))
        return work

    def _apply(self, event: Event, *, key: str | None = None, written: bool = False) -> None:
        """Update the state by `event`. If the path fails, store the reason with the round `key`, or the next one."""
        with self._deciding:
            before, self._state = self._state, decide(self._state, event)
            reason = self._state.failure
        if reason is None or before.failure is not None or written:
            return
        with contextlib.suppress(StorageError):  # a full disk may be the reason; `failure` still has it
            if (key := key or self._driver.unfinished_key()) is not None:
                with about_round(key):
                    self._log.info("round failed", reason=reason)
                self._driver.fail(key, reason, self._job)
                self._claims.release(key)
                self._end_search()

    def _next_key(self) -> str | None:
        if self._state.failure is not None:
            return None
        try:
            work = self._driver.next_work()
        except StorageError as error:  # a damaged parent: another attempt cannot help
            self._apply(GivenUp(str(error)), written=True)
            return None
        except Exception as error:  # of the user's criterion, selection or technique: neither can it here
            self._give_up(error)
            return None
        return work.key if work else None

    def _give_up(self, error: Exception) -> None:
        """Fail the next round, because the code in this process cannot plan or commit it."""
        ours = isinstance(error, OrchestratorError)
        self._log.exception("the driver failed")
        self._apply(GivenUp(str(error) if ours else f"{described(error)}; the driver's log: {log_file()}"))

    def _claim_next(self) -> tuple[str | None, bool]:
        """Return the key of the next work, if there is one, and whether it is ours to do."""
        try:
            while (key := self._next_key()) is not None and self._acquire(key):
                if self._next_key() == key:
                    return key, True
                # It was finished a moment ago. If another owner did, it is in storage. If this one did, `finish`, which
                # runs in another thread, releases the claim.
                if self._search is None and self._driver.is_stored(key):
                    self._claims.release(key)
        except StorageError as error:  # after all retries, or because access is denied now
            self._apply(GivenUp(str(error)), written=True)
            return None, False
        if key is None:
            self._end_search()
        return key, False

    def _acquire(self, key: str) -> bool:
        """Try to claim the work `key`. A search that is over gives its claim back: its scores are in storage."""
        claim = claim_key(key)
        if claim != self._search:
            self._end_search()
        acquired = self._claims.acquire(claim)
        if acquired and claim != key:
            self._search = claim
        return acquired

    def _end_search(self) -> None:
        if self._search is not None:
            self._claims.release(self._search)
            self._search = None

    def work(self, key: str) -> tuple[Work, list[ray.ObjectRef[Any]]]:
        """Return the work without its tensors, and a reference to them that each worker fetches by itself."""
        with self._sharing:  # all workers of a group ask at the same time
            if key not in self._shared:
                work = self._driver.next_work()
                if work is None or work.key != key:
                    raise RuntimeError(f"work {key} is not the next one any more")
                self._log.round(key)
                if trains := work.training:
                    self._log.info("round asked for", round=trains.round, density=trains.density, epochs=trains.epochs)
                light, tensors = work.split()
                self._shared = {key: (light, [ray.put(share(tensors))])}
        return self._shared[key]

    def finish(self, work: Work, answer: list[ray.ObjectRef[Any]]) -> None:
        """Commit an answer; return when it is safe in storage. Workers may ask for the next work meanwhile."""
        with about_round(work.key):
            self._finish(work, unshare(ray.get(answer[0])))

    def _finish(self, work: Work, answer: Any) -> None:
        self._apply(Progressed())
        try:
            if not self._claims.acquire(claim_key(work.key)):
                raise OrchestratorError(f"another owner has taken over round {work.key}")
            record = self._driver.finish(work, answer)
        except Exception as error:
            if is_full(error) or not isinstance(error, OrchestratorError):
                self._give_up(error)
            else:
                self._apply(CommitFailed(str(error)), written=True)
            raise
        self._apply(Committed())
        if (claim := claim_key(work.key)) != self._search:  # that of a search stays until its last generation
            self._claims.release(claim)
        if record is None:
            return
        self._log.info("round committed", objective=record.objective.name, test=record.test, seconds=record.seconds)
        if all(record.key != known.key for known in self._records):
            self._records.append(record)

    def fail(self, key: str, reason: str) -> None:
        """Fail the path and store the reason."""
        self._apply(GivenUp(reason), key=key)

    def crashed(self, key: str, error: str, log: str, *, lost: bool) -> None:
        """Remember why a worker, or the process that starts workers, crashed; see `Crashed`."""
        self._log.info("worker died", error=error)
        self._apply(Crashed(error, log, lost), key=key or None)

    def resumed(self, key: str, place: tuple[int, int]) -> None:
        """Remember the place from which the workers resume."""
        self._resumed = (self._driver.keys.index(split_key(key)[0]), *place)
        self._apply(Resumed(key, place))

    def report(self, key: str, report: Report | SearchReport | None) -> Order:
        """Remember the progress of the work `key`; return what the workers should do."""
        if self._state.workers == "unknown" and self._next_key() == key:
            # This actor was restarted in the middle of a round, whose claim is not renewed any longer.
            self._log.round(key)
            self._apply(GroupTrains(key, taken_over=not self._acquire(key)))
        if report is not None:
            self._report = report
            self._apply(Progressed())
        if isinstance(report, Report):
            self._metrics.show(
                round=report.round,
                density=report.density,
                val_objective=report.metrics.val[report.objective.name],
                epochs_done=report.epochs_done,
                samples_per_second=report.samples_per_second,
            )
        if self._state.stop_asked:
            return "stop"
        return "leave" if self._state.failure is not None or self._has_lost(key) else "continue"

    def _has_lost(self, key: str) -> bool:
        """Return whether another owner has taken over the work that the workers do."""
        return key == self._state.work and (self._state.taken_over or self._claims.lost(claim_key(key)))

    def stop(self) -> bool:
        """Stop the run cleanly: with a checkpoint of the round under way. Return whether that is done."""
        self._apply(StopAsked())
        return self._state.workers != "running"  # workers that have not started yet have nothing to keep

    def workers_stopped(self) -> None:
        """Remember that a group of workers ended, and that its work is in storage."""
        if (work := self._state.work) and self._has_lost(work):
            self._driver.leave(work)
        self._apply(GroupStopped())

    def status(self, after_round: int) -> Status:
        """Return what is new since the record of round `after_round`."""
        records = tuple(record for record in self._records if record.round > after_round)
        state = self._state
        return Status(
            report=self._report,
            records=records,
            failure=state.failure,
            starts=state.starts,
            restarts=state.restarts,
            holder=state.holder,
            crash=state.crash,
            resumed=self._resumed,
        )

    def pid(self) -> int:
        return os.getpid()
