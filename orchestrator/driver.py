"""The flow: which round is next, where it starts from, and its commit.

    while (request := driver.next_round()) is not None:
        driver.finish_round(request.key, train(request))

One driver per path. It knows nothing of Ray, and its state is the ledger: built again, it gives the same answers.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace

import torch

from orchestrator.errors import OrchestratorError, StorageError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.pruning import dead_layers
from orchestrator.pruning.channels.graph import UNITS
from orchestrator.record import Record
from orchestrator.requests import Finished, Requests
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import discard_progress
from orchestrator.work import RoundRequest, RoundResult


class Driver:
    """Decides the rounds of one experiment. Thread-safe: a round may be committed while the next is asked for.

    `keep`: epochs of the dense run that others will rewind to; what this experiment's technique needs is kept anyway.
    `floor`: the path is cut, which is no failure, after a round that falls below it.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger,
        problem: Problem,
        *,
        keep: Iterable[int] = (),
        floor: Floor | None = None,
    ) -> None:
        self.experiment = experiment
        self.ledger = ledger
        self.floor = floor
        self.settings = round_settings(experiment, problem)
        self.keys = round_keys(self.settings)
        self.densities = experiment.densities()
        self.shapes = dict(problem.prunable)
        self._requests = Requests(experiment, self.keys, problem, keep)
        self._finished: dict[str, Finished] = {}  # by key; in storage, or about to be
        self._request: RoundRequest | None = None
        self._lock = threading.RLock()
        self._committing = threading.Lock()  # one commit at a time, in order; never taken while holding _lock
        epoch = experiment.technique.rewinds_to(experiment.training)
        content = {
            "name": experiment.name,
            "seed": experiment.seed,
            "densities": self.densities,
            "keys": self.keys,
            "rewinds_to": [] if epoch is None else [epoch],
        }
        ledger.write_experiment(experiment.name, experiment.seed, content)

    def next_round(self) -> RoundRequest | None:
        """The first round of the path that is not finished, or None; the same answer until it is finished.

        None means that every round, or every one down to the floor, is in storage: it waits for an upload under way,
        which may still fail.
        """
        if (request := self._first_unfinished()) is None:
            with self._committing:
                pass
            request = self._first_unfinished()
        return request

    def _first_unfinished(self) -> RoundRequest | None:
        with self._lock:
            index = self._next_index()
            return None if index is None else self._request_of(index)

    def is_over(self) -> bool:
        """Whether every round, or every one down to the floor, is finished."""
        with self._lock:
            return self._next_index() is None

    def _next_index(self) -> int | None:
        index = next((i for i in range(len(self.keys)) if self._round(i) is None), None)
        return None if index and self._is_cut_after(index) else index

    def _is_cut_after(self, count: int) -> bool:
        """Whether the newest of the first `count` rounds, as many as the floor's patience, are all below it."""
        if self.floor is None or count < self.floor.patience:
            return False
        finished = [self._round(index) for index in (0, *range(count - self.floor.patience, count))]
        dense, *newest = [found.val_accuracy() for found in finished if found is not None]
        return self.floor.cuts(dense, newest)

    def finish_round(self, key: str, result: RoundResult) -> Record | None:
        """Commit a round; a second call for the same key changes nothing. None is the answer for an errand.

        `next_round` sees the result at once; this call returns when it is safe in storage. Raises OrchestratorError
        for a key that is not the next round's: its parent was lost, so ask `next_round` again.
        """
        index = self._index(key)
        if key != self.keys[index]:
            self.ledger.write_snapshot(self.keys[index], key.partition(".")[2], result.state)
            self._discard_progress(key)
            return None
        with self._lock:
            if (record := self.ledger.record(key)) is not None:
                self._discard_progress(key)  # it was left by who trained on while another owner committed
                return record
            if index and self._round(index - 1) is None:
                raise OrchestratorError(f"round {index} came before its parent was finished: ask for the next round")
            request = self._request_of(index)
            if request.key != key:
                raise OrchestratorError(f"round {index} needs something that was lost: ask for the next round")
            self._finished[key] = self._finished_round(key).hold(result, request)
        try:
            with self._committing:
                if index and self.ledger.record(self.keys[index - 1]) is None:
                    raise OrchestratorError(f"the commit of round {index - 1} failed: ask for the next round")
                for epoch, state in result.snapshots.items():
                    self.ledger.write_snapshot(key, str(epoch), state)
                record = self.ledger.commit(self._record(index, request, result), result.state, request.masks)
                self._discard_progress(key)
        except BaseException:
            with self._lock:  # what is not in storage is not finished
                self._finished.pop(key, None)
                self._request = None
            raise
        with self._lock:
            for old in self.keys[:index]:
                self._finished[old].forget()
        return record

    def leave_round(self, key: str) -> None:
        """Another owner trains this round, or has; nothing must be left of its middle once it is committed."""
        if self.is_stored(key):
            self._discard_progress(key)

    def is_stored(self, key: str) -> bool:
        """Whether a round is committed, or what an errand fetches is in storage."""
        round_key, _, errand = key.partition(".")
        return self.ledger.has_snapshot(round_key, errand) if errand else self.ledger.record(key) is not None

    def fail_round(self, key: str, reason: str, job: str = "") -> None:
        """Record that a round cannot be trained; it is not committed and another job may ask for it again.

        If it is an errand that failed, the round that cannot be trained is the one that needs it: the next one.
        """
        index = self._index(key)
        if key != self.keys[index]:
            with self._lock:
                index = self._next_index() or index
        key = self.keys[index]
        where = {"experiment": self.experiment.name, "seed": self.experiment.seed, "key": key, "round": index}
        self.ledger.write_failure(
            key, {**where, "density": self.densities[index], "reason": reason, "job": job, "at": _now()}
        )

    def failure(self, job: str) -> str | None:
        """Why `job` gave up the round that is next, if it did."""
        key = self.unfinished_key()
        failure = self.ledger.failure(key) if key else None
        return str(failure.get("reason")) if failure and failure.get("job") == job else None

    def unfinished_key(self) -> str | None:
        """Key of the first round that is not finished; unlike `next_round` it asks for nothing."""
        with self._lock:
            return next((key for i, key in enumerate(self.keys) if self._round(i) is None), None)

    def records(self) -> list[Record]:
        """The records of this path's committed rounds, in order, under this experiment's name.

        A round that is shared was committed under the name of whoever trained it.
        """
        records = [record for key in self.keys if (record := self.ledger.record(key)) is not None]
        return [replace(record, experiment=self.experiment.name) for record in records]

    def _request_of(self, index: int) -> RoundRequest:
        """The request for round `index`, or for an errand that must come before it."""
        if self._request is not None and self._request.key == self.keys[index]:
            return self._request
        if index == 0:
            request = self._requests.dense()
        else:
            dense, parent = self._round(0), self._round(index - 1)
            assert dense is not None
            assert parent is not None  # `next_round` asks for the first round that is not finished
            request = self._requests.errand(index, dense, parent) or self._requests.pruned(index, dense, parent)
        self._request = request
        return request

    def _record(self, index: int, request: RoundRequest, result: RoundResult) -> Record:
        last = result.history[-1]
        sizes = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
        kept = self._requests.kept_by_layer(request.masks, request.channels)
        channels = self._requests.channels_record(request)
        return Record(
            key=self.keys[index],
            parent=self.keys[index - 1] if index else None,
            experiment=self.experiment.name,
            round=index,
            technique=type(self.experiment.technique).__name__ if index else "Dense",
            density=self.densities[index],
            kept=sum(kept.values()),
            prunable=sum(sizes.values()),
            seed=self.experiment.seed,
            metrics={
                "train_loss": last.train_loss,
                "val_accuracy": last.val_accuracy,
                "test_accuracy": result.test_accuracy,
                **({f"{unit}_kept": channels[unit][0] / channels[unit][1] for unit in UNITS} if channels else {}),
            },
            history=[asdict(metrics) for metrics in result.history],
            layers={name: [kept[name], sizes[name]] for name in sizes},
            unpruned=self._requests.unpruned_by_layer(request.channels),
            dead_layers=dead_layers(request.masks),
            epochs=len(result.history),
            seconds=result.seconds,
            images_per_second=result.images_per_second,
            attempts=result.attempts,
            gap_seconds=result.gap_seconds,
            workers=result.workers,
            channels=channels,
            settings=self.settings[index],
            versions={"python": platform.python_version(), "torch": torch.__version__},
            finished_at=_now(),
        )

    def _discard_progress(self, key: str) -> None:
        with contextlib.suppress(StorageError):  # the round is safe, and what is left of its middle hurts nobody
            discard_progress(self.ledger.store, key)

    def _round(self, index: int) -> Finished | None:
        key = self.keys[index]
        if key not in self._finished and self.ledger.record(key) is not None:
            self._finished[key] = self._finished_round(key)
        return self._finished.get(key)

    def _finished_round(self, key: str) -> Finished:
        return Finished(key, self.experiment.training, self.ledger, self.shapes)

    def _index(self, key: str) -> int:
        """Which round `key` belongs to, an errand's too."""
        if (of := key.partition(".")[0]) not in self.keys:
            raise OrchestratorError(f"no round of experiment {self.experiment.name!r} has the key {key}")
        return self.keys.index(of)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
