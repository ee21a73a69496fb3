"""Own the algorithm of one path: return the next work, and commit its answer.

    while (work := driver.next_work()) is not None:
        driver.finish(work, do(work))

One driver per path. It does not know Ray, and its state is the ledger: a new driver gives the same answers.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from orchestrator.errors import OrchestratorError, StorageError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.plan import check_path, plan
from orchestrator.record import Record
from orchestrator.rounds import Rounds
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import discard_progress
from orchestrator.structures import recorded_fields
from orchestrator.work.keys import answer_file, split_key
from orchestrator.work.preparation import Work
from orchestrator.work.train import Train, Trained


class Driver:
    """Decide the work of one experiment. Thread-safe: a round may be committed while the next work is planned.

    `keep`: epochs of the dense run that other experiments rewind to; those of this experiment are kept in any case.
    `floor`: the path ends, which is not a failure, after a round that falls below it. `settings`: those of each round,
    for a path that continues from recorded ones; None: they follow from the experiment.
    `versions`: those of other packages that train, for the records. Raises DensityError, before anything is trained,
    for densities that the selection cannot give.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger,
        problem: Problem,
        *,
        keep: Iterable[int] = (),
        floor: Floor | None = None,
        settings: list[dict[str, Any]] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.experiment, self.ledger, self.problem, self.floor = experiment, ledger, problem, floor
        if floor is not None:
            floor.check(problem.objective)
        self._versions = {"python": platform.python_version(), "torch": torch.__version__, **(versions or {})}
        self.settings = settings or round_settings(experiment, problem)
        self.keys = round_keys(self.settings)
        self.densities = experiment.densities()
        epoch = experiment.technique.rewinds_to(experiment.training)
        rewinds_to = [] if epoch is None else [epoch]
        kept_epochs = tuple(sorted({*keep, *rewinds_to}))
        check_path(experiment, problem, kept_epochs)
        self._rounds = Rounds(self.keys, problem, ledger, kept_epochs)
        self._work: Work | None = None  # the newest plan
        self._lock = threading.RLock()
        self._committing = threading.Lock()  # one commit at a time, in order; never taken while holding _lock
        content = {
            "name": experiment.name,
            "seed": experiment.seed,
            "densities": self.densities,
            "keys": self.keys,
            "rewinds_to": rewinds_to,
        }
        ledger.write_experiment(experiment.name, experiment.seed, content)

    def next_work(self) -> Work | None:
        """Return the next work of the path, the same until it is finished, or None at the path's end.

        None means that every round, or every one down to the floor, is in storage. It waits for an upload under way,
        which may still fail.
        """
        if (work := self._planned()) is None:
            with self._committing:
                pass
            work = self._planned()
        return work

    def _planned(self) -> Work | None:
        with self._lock:
            index = self._rounds.next_index(self.floor)
            known = self._work
            if index is None or known is None or not known.is_current(index, self._rounds.scores):
                self._work = plan(self.experiment, self._rounds, self.floor)
            return self._work

    def is_over(self) -> bool:
        """Return whether every round, or every one down to the floor, is finished."""
        with self._lock:
            return self._rounds.next_index(self.floor) is None

    def finish(self, work: Work, answer: Any) -> Record | None:
        """Store the answer to `work`; a second call for the same work changes nothing.

        Return the record of a trained round. `next_work` sees the answer at once; this call returns when it is safe
        in storage. Raises OrchestratorError for a round that is not the next one: its parent was lost, so ask
        `next_work` again.
        """
        self._index(work.round_key)
        if not isinstance(answer, work.answer_type):
            raise TypeError(f"{type(work).__name__} is not answered by {type(answer).__name__}")
        if isinstance(work, Train):  # the round itself
            return self._commit(work.key, answer)
        work.store(self.ledger, answer)
        with self._lock:
            self._work = None  # plan again: the answer may be a part of what the round needs
        self._discard_progress(work.key)
        return None

    def _commit(self, key: str, answer: Trained) -> Record:
        index = self._index(key)
        with self._lock:
            if (record := self.ledger.record(key)) is not None:
                self._discard_progress(key)  # of a group that trained while another owner committed
                return record
            if index and self._rounds[index - 1] is None:
                raise OrchestratorError(f"round {index} came before its parent was finished: ask for the next work")
            work = self._planned()
            if not isinstance(work, Train) or work.key != key:
                raise OrchestratorError(f"round {index} needs tensors that were lost: ask for the next work")
            self._rounds.add(work, answer)
        try:
            with self._committing:
                if index and self.ledger.record(self.keys[index - 1]) is None:
                    raise OrchestratorError(f"the commit of round {index - 1} failed: ask for the next work")
                for epoch, state in answer.snapshots.items():
                    self.ledger.write_snapshot(key, str(epoch), state)
                record = self.ledger.commit(self._record(work, answer), answer.state, work.structure.tensors())
                self._discard_progress(key)
        except BaseException:
            with self._lock:
                self._rounds.remove(key)
                self._work = None
            raise
        with self._lock:
            self._rounds.release_before(index)
        return record

    def leave(self, key: str) -> None:
        """Remove the checkpoints of a work that another owner has finished."""
        if self.is_stored(key):
            self._discard_progress(key)

    def is_stored(self, key: str) -> bool:
        """Return whether the answer to the work with this key is in storage."""
        if split_key(key)[1] is None:
            return self.ledger.record(key) is not None
        return self.ledger.store.exists(answer_file(key))

    def fail(self, key: str, reason: str, job: str = "") -> None:
        """Store the reason why a round cannot be trained; it is not committed, and another job may try it again.

        If the work is not a round itself, the round that needs its answer fails.
        """
        index = self._index(split_key(key)[0])
        if key != self.keys[index]:
            with self._lock:
                index = self._rounds.next_index(self.floor) or index
        key = self.keys[index]
        where = {"experiment": self.experiment.name, "seed": self.experiment.seed, "key": key, "round": index}
        self.ledger.write_failure(
            key, {**where, "density": self.densities[index], "reason": reason, "job": job, "at": _now()}
        )

    def failure(self, job: str) -> str | None:
        """Return why `job` failed to train the next round, if it did."""
        key = self.unfinished_key()
        failure = self.ledger.failure(key) if key else None
        return str(failure.get("reason")) if failure and failure.get("job") == job else None

    def unfinished_key(self) -> str | None:
        """Return the key of the first round that is not finished; unlike `next_work` it plans nothing."""
        with self._lock:
            index = self._rounds.first_unfinished()
            return None if index is None else self.keys[index]

    def records(self) -> list[Record]:
        """Return the records of this path's committed rounds, in order, under this experiment's name.

        A round that is shared was committed under the name of the experiment that trained it.
        """
        records = [record for key in self.keys if (record := self.ledger.record(key)) is not None]
        return [replace(record, experiment=self.experiment.name) for record in records]

    def _record(self, work: Train, answer: Trained) -> Record:
        index, sizes, unpruned = work.round, self.problem.sizes, self.problem.unpruned
        kept, unpruned_kept = work.structure.counts(sizes), work.structure.counts(unpruned)
        return Record(
            key=work.key,
            parent=work.parent,
            experiment=self.experiment.name,
            round=index,
            technique=self.experiment.technique_of(index),
            density=work.density,
            kept=sum(kept.values()),
            prunable=sum(sizes.values()),
            seed=self.experiment.seed,
            objective=self.problem.objective,
            metrics={
                **({"train_loss": answer.history[-1].train_loss} if answer.history else {}),
                **{f"val_{name}": value for name, value in answer.val.items()},
                **{f"test_{name}": value for name, value in answer.test.items()},
                **work.structure.metrics(),
            },
            history=[metrics.numbers() for metrics in answer.history],
            layers={name: [kept[name], sizes[name]] for name in sizes},
            unpruned={name: [unpruned_kept[name], unpruned[name]] for name in unpruned},
            unstructured=self.experiment.selection.unstructured(self.problem.prunable) if index else [],
            dead_layers=work.structure.dead_layers(),
            epochs=len(answer.history),
            seconds=answer.seconds,
            samples_per_second=answer.samples_per_second,
            attempts=answer.attempts,
            workers=answer.workers,
            processor=answer.processor,
            channels=work.structure.to_json(),
            structure=recorded_fields(work.structure),
            search=dict(work.proof) if work.proof else None,
            int8=dict(answer.int8) if answer.int8 else None,
            settings=self.settings[index],
            versions=self._versions,
            finished_at=_now(),
        )

    def _discard_progress(self, key: str) -> None:
        with contextlib.suppress(StorageError):  # the answer is safe, and its checkpoints do no harm
            discard_progress(self.ledger.store, key)

    def _index(self, key: str) -> int:
        """Return the number of the round with this key."""
        if key not in self.keys:
            raise OrchestratorError(f"no round of experiment {self.experiment.name!r} has the key {key}")
        return self.keys.index(key)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
