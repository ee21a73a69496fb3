"""The flow: which round is next, where it starts from, and its commit.

    while (request := driver.next_round()) is not None:
        driver.finish_round(request.key, train(request))

One driver per path. It knows nothing of Ray, and its state is the ledger: built again, it gives the same answers.
"""

from __future__ import annotations

import datetime
import logging
import platform
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor

from orchestrator.errors import ConfigError, DamagedError, OrchestratorError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.pruning import count_kept, dead_layers, kept_count, prune_globally, resolve_criterion
from orchestrator.retraining import Start
from orchestrator.rounds import RoundRequest, RoundResult, Tensors, TrainState
from orchestrator.storage.ledger import Ledger, Record
from orchestrator.training.config import TrainingConfig

logger = logging.getLogger(__name__)


class Driver:
    """Decides the rounds of one experiment. Thread-safe: a round may be committed while the next is asked for."""

    def __init__(self, experiment: Experiment, ledger: Ledger, problem: Problem) -> None:
        self.experiment = experiment
        self.ledger = ledger
        self.settings = round_settings(experiment, problem)
        self.keys = round_keys(self.settings)
        self.densities = experiment.densities()
        self.shapes = dict(problem.prunable)
        self._criterion = resolve_criterion(experiment.criterion)
        self._check_counts()
        self._finished: dict[str, _Finished] = {}  # by key; in storage, or about to be
        self._request: RoundRequest | None = None
        self._lock = threading.RLock()
        self._committing = threading.Lock()  # one commit at a time, in order; never taken while holding _lock
        content = {
            "name": experiment.name,
            "seed": experiment.seed,
            "densities": self.densities,
            "keys": self.keys,
        }
        ledger.write_experiment(experiment.name, experiment.seed, content)

    def next_round(self) -> RoundRequest | None:
        """The first round of the path that is not finished, or None; the same answer until it is finished.

        None means that every round is in storage: it waits for an upload under way, which may still fail.
        """
        if (request := self._first_unfinished()) is None:
            with self._committing:
                pass
            request = self._first_unfinished()
        return request

    def _first_unfinished(self) -> RoundRequest | None:
        with self._lock:
            index = next((i for i in range(len(self.keys)) if self._round(i) is None), None)
            return None if index is None else self._request_of(index)

    def finish_round(self, key: str, result: RoundResult) -> Record:
        """Commit a round; a second call for the same key changes nothing.

        `next_round` sees the result at once; this call returns when it is safe in storage. Raises OrchestratorError
        for a key that is not the next round's: its parent was lost, so ask `next_round` again.
        """
        with self._lock:
            index = self._index(key)
            if (record := self.ledger.record(key)) is not None:
                return record
            if index and self._round(index - 1) is None:
                raise OrchestratorError(f"round {index} came before its parent was finished: ask for the next round")
            masks = self._request_of(index).masks
            self._finished[key] = _Finished(self.experiment.training, partial(self._load, key), (result.state, masks))
        try:
            with self._committing:
                if index and self.ledger.record(self.keys[index - 1]) is None:
                    raise OrchestratorError(f"the commit of round {index - 1} failed: ask for the next round")
                record = self.ledger.commit(self._record(index, masks, result), result.state, masks)
        except BaseException:
            with self._lock:  # what is not in storage is not finished
                self._finished.pop(key, None)
                self._request = None
            raise
        with self._lock:
            for old in self.keys[:index]:
                self._finished[old].forget()
        return record

    def fail_round(self, key: str, reason: str, job: str = "") -> None:
        """Record that a round cannot be trained; it is not committed and another job may ask for it again."""
        index = self._index(key)
        where = {"experiment": self.experiment.name, "seed": self.experiment.seed, "key": key, "round": index}
        self.ledger.write_failure(
            key, {**where, "density": self.densities[index], "reason": reason, "job": job, "at": _now()}
        )

    def failure(self, job: str) -> str | None:
        """Why `job` gave up a round of this path, if it did."""
        found = (f for f in self.ledger.failures() if f.get("key") in self.keys and f.get("job") == job)
        return next((str(failure["reason"]) for failure in found), None)

    def records(self) -> list[Record]:
        """The records of this path's committed rounds, in order, under this experiment's name.

        A round that is shared was committed under the name of whoever trained it.
        """
        records = [record for key in self.keys if (record := self.ledger.record(key)) is not None]
        return [replace(record, experiment=self.experiment.name) for record in records]

    def _check_counts(self) -> None:
        """Raise ConfigError, before anything is trained, for a density that keeps nothing or too little."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        least = max(1, sum(min(size, self.experiment.min_kept_per_layer) for size in sizes))
        for index, density in enumerate(self.densities):
            if (kept := kept_count(density, sum(sizes))) < least:
                raise ConfigError(
                    f"round {index} at density {density:.4g} keeps {kept} of {sum(sizes)} weights, and at least "
                    f"{least} must stay: end the path at a higher density, or lower min_kept_per_layer"
                )

    def _request_of(self, index: int) -> RoundRequest:
        """Prune the parent, and let the technique say where the round starts."""
        if self._request is not None and self._request.key == self.keys[index]:
            return self._request
        training, density = self.experiment.training, self.densities[index]
        if index == 0:
            start: Start | None = None
            masks: Tensors = {}
        else:
            dense, parent = self._round(0), self._round(index - 1)
            assert dense is not None
            assert parent is not None  # `next_round` asks for the first round that is not finished
            weights = parent.state().model
            masks = prune_globally(
                {name: weights[name] for name in self.shapes},
                density,
                masks=parent.masks or None,
                criterion=self._criterion,
                min_kept_per_layer=self.experiment.min_kept_per_layer,
            )
            start = self.experiment.technique.start(dense, parent)
        prunable = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        self._request = RoundRequest(
            key=self.keys[index],
            parent=self.keys[index - 1] if index else None,
            round=index,
            rounds=len(self.keys) - 1,
            density=density,
            kept=count_kept(masks) if masks else prunable,
            prunable=prunable,
            seed=self.experiment.seed,
            schedule=start.schedule if start else training.schedule,
            first_epoch=start.first_epoch if start else 0,
            epochs=start.epochs if start else training.epochs,
            start=_masked(start.state, masks) if start else None,
            masks=masks,
        )
        for name in dead_layers(masks):
            logger.warning("round %d at density %.4g leaves no weight in %s", index, density, name)
        return self._request

    def _record(self, index: int, masks: Tensors, result: RoundResult) -> Record:
        last = result.history[-1]
        sizes = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
        kept = {name: int(masks[name].sum()) if masks else size for name, size in sizes.items()}
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
            },
            history=[asdict(metrics) for metrics in result.history],
            layers={name: [kept[name], sizes[name]] for name in sizes},
            dead_layers=dead_layers(masks),
            epochs=len(result.history),
            seconds=result.seconds,
            images_per_second=result.images_per_second,
            attempts=result.attempts,
            gap_seconds=result.gap_seconds,
            workers=result.workers,
            settings=self.settings[index],
            versions={"python": platform.python_version(), "torch": torch.__version__},
            finished_at=_now(),
        )

    def _round(self, index: int) -> _Finished | None:
        key = self.keys[index]
        if key not in self._finished and self.ledger.record(key) is not None:
            self._finished[key] = _Finished(self.experiment.training, partial(self._load, key))
        return self._finished.get(key)

    def _load(self, key: str) -> tuple[TrainState, Tensors]:
        record = self.ledger.record(key)
        if record is None:
            raise DamagedError(f"rounds/{key}/record.json was there and is gone: start the job again")
        return self.ledger.load(record)

    def _index(self, key: str) -> int:
        if key not in self.keys:
            raise OrchestratorError(f"no round of experiment {self.experiment.name!r} has the key {key}")
        return self.keys.index(key)


class _Finished:
    """A finished round: in memory while it is the newest, else read from storage when first wanted."""

    def __init__(
        self,
        training: TrainingConfig,
        load: Callable[[], tuple[TrainState, Tensors]],
        loaded: tuple[TrainState, Tensors] | None = None,
    ) -> None:
        self.training = training
        self._load = load
        self._loaded = loaded

    def state(self) -> TrainState:
        state, _ = self._content()
        return TrainState(dict(state.model), dict(state.optimizer))

    @property
    def masks(self) -> Tensors:
        return self._content()[1]

    def forget(self) -> None:
        self._loaded = None

    def _content(self) -> tuple[TrainState, Tensors]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def _masked(state: TrainState, masks: Tensors) -> TrainState:
    """Zeros where `masks` remove a weight, and in the optimizer's slots of that weight."""

    def cut(name: str, tensor: Tensor) -> Tensor:
        mask = masks.get(name)
        return tensor if mask is None or mask.shape != tensor.shape else tensor.masked_fill(~mask, 0)

    model = {name: cut(name, tensor) for name, tensor in state.model.items()}
    return TrainState(model, {slot: cut(slot.rsplit("/", 1)[0], value) for slot, value in state.optimizer.items()})


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
