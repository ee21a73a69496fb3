"""What is asked of whoever trains: prune the parent, let the technique say where the round starts.

An errand comes first where the round needs what storage lacks: a snapshot of the dense run, or gradients.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment
from orchestrator.pruning import count_kept, dead_layers, resolve_criterion
from orchestrator.pruning.criteria import needs_gradients
from orchestrator.retraining import Start
from orchestrator.rounds import RoundRequest, RoundResult, Tensors, TrainState
from orchestrator.seeds import derive
from orchestrator.storage.checkpoint import Shapes
from orchestrator.storage.ledger import Ledger, Record
from orchestrator.training.config import TrainingConfig
from orchestrator.training.rng import own_randomness, seed_all

logger = logging.getLogger(__name__)
GRADIENTS = "gradients"


class Finished:
    """A finished round: in memory while it is the newest, else read from storage when first wanted."""

    def __init__(self, key: str, training: TrainingConfig, ledger: Ledger, shapes: Shapes) -> None:
        self.key, self.training = key, training
        self._ledger, self._shapes = ledger, shapes
        self._content: tuple[TrainState, Tensors] | None = None
        self._snapshots: Mapping[int, TrainState] = {}
        self._val_accuracy: float | None = None
        self._workers: int | None = None

    def hold(self, result: RoundResult, masks: Tensors) -> Finished:
        """Keep what is on its way to storage."""
        self._content, self._snapshots = (result.state, masks), result.snapshots
        self._val_accuracy, self._workers = result.history[-1].val_accuracy, result.workers
        return self

    def state(self) -> TrainState:
        state, _ = self._read()
        return TrainState(dict(state.model), dict(state.optimizer))

    @property
    def masks(self) -> Tensors:
        return self._read()[1]

    def snapshot(self, epoch: int) -> TrainState:
        """The state after `epoch`. Raises DamagedError, MissingError."""
        return self._snapshots.get(epoch) or self._ledger.snapshot(self.key, str(epoch))

    def has_snapshot(self, epoch: int) -> bool:
        return epoch in self._snapshots or self._ledger.has_snapshot(self.key, str(epoch))

    def val_accuracy(self) -> float:
        """Of the last epoch, as a fraction."""
        if self._val_accuracy is None:
            self._val_accuracy = self._record().metrics["val_accuracy"]
        return self._val_accuracy

    def workers(self) -> int:
        """How many trained it."""
        if self._workers is None:
            self._workers = self._record().workers
        return self._workers

    def forget(self) -> None:
        """Leave it to storage."""
        self._content, self._snapshots = None, {}

    def _read(self) -> tuple[TrainState, Tensors]:
        if self._content is None:
            self._content = self._ledger.load(self._record(), self._shapes)
        return self._content

    def _record(self) -> Record:
        record = self._ledger.record(self.key)
        if record is None:
            raise DamagedError(f"rounds/{self.key}/record.json was there and is gone: start the job again")
        return record


class Requests:
    """Builds the requests of one experiment's rounds.

    `keys`: of its rounds. `shapes`: prunable tensors. `keep`: epochs of the dense run that anybody will rewind to.
    Raises ConfigError, before anything is trained, for densities that the selection cannot give.
    """

    def __init__(
        self,
        experiment: Experiment,
        keys: list[str],
        shapes: dict[str, tuple[int, ...]],
        ledger: Ledger,
        keep: Iterable[int],
    ) -> None:
        self.experiment, self.keys, self.shapes, self._ledger = experiment, keys, shapes, ledger
        self.densities = experiment.densities()
        self._criterion = resolve_criterion(experiment.criterion)
        self._rewinds_to = experiment.technique.rewinds_to(experiment.training)
        self._keep = tuple(sorted({*keep, *([] if self._rewinds_to is None else [self._rewinds_to])}))
        self._prunable = sum(math.prod(shape) for shape in shapes.values())
        self._check_epochs()
        self._check_densities()

    def dense(self) -> RoundRequest:
        training = self.experiment.training
        return self._request(0, Start(None, training.schedule, 0, training.epochs), {}, keep=self._keep)

    def errand(self, index: int, dense: Finished, parent: Finished) -> RoundRequest | None:
        """What has to be fetched before round `index` >= 1 can be asked for, if anything."""
        if self._rewinds_to is not None and not dense.has_snapshot(self._rewinds_to):
            key = f"{dense.key}.{self._rewinds_to}"
            dense_run = self.dense()
            return replace(
                dense_run, key=key, epochs=self._rewinds_to, keep=(), wants="snapshot", workers=dense.workers()
            )
        if needs_gradients(self._criterion) and not self._ledger.has_snapshot(parent.key, GRADIENTS):
            training = self.experiment.training
            start = Start(parent.state(), training.schedule, 0, 0)
            request = self._request(index - 1, start, parent.masks)
            return replace(request, key=f"{parent.key}.{GRADIENTS}", wants="gradients")
        return None

    def pruned(self, index: int, dense: Finished, parent: Finished) -> RoundRequest:
        """Round `index` >= 1: the parent's network with its weakest weights removed, where the technique starts it."""
        weights = parent.state().model
        gradients = self._ledger.snapshot(parent.key, GRADIENTS).model if needs_gradients(self._criterion) else None
        with own_randomness():  # for a criterion that draws its scores
            seed_all(derive(self.experiment.seed, "criterion", index))
            masks = self.experiment.selection.select(
                {name: weights[name] for name in self.shapes},
                self.densities[index],
                masks=parent.masks or None,
                criterion=self._criterion,
                gradients=gradients,
                min_kept_per_layer=self.experiment.min_kept_per_layer,
            )
        for name in dead_layers(masks):
            logger.warning("round %d at density %.4g leaves no weight in %s", index, self.densities[index], name)
        return self._request(index, self.experiment.technique.start(dense, parent), masks)

    def _request(self, index: int, start: Start, masks: Tensors, keep: tuple[int, ...] = ()) -> RoundRequest:
        return RoundRequest(
            key=self.keys[index],
            parent=self.keys[index - 1] if index else None,
            round=index,
            rounds=len(self.keys) - 1,
            density=self.densities[index],
            kept=count_kept(masks) if masks else self._prunable,
            prunable=self._prunable,
            seed=self.experiment.seed,
            schedule=start.schedule,
            first_epoch=start.first_epoch,
            epochs=start.epochs,
            start=_masked(start.state, masks) if start.state else None,
            masks=masks,
            keep=keep,
        )

    def _check_epochs(self) -> None:
        epochs = self.experiment.training.epochs
        for epoch in self._keep:
            if not (isinstance(epoch, int) and 0 <= epoch < epochs):
                raise ConfigError(
                    f"an epoch to rewind to must be in 0..{epochs - 1}, within the dense run, got {epoch}"
                )

    def _check_densities(self) -> None:
        for index, density in enumerate(self.densities[1:], start=1):
            try:
                least = self.experiment.min_kept_per_layer
                self.experiment.selection.check(self.shapes, density, min_kept_per_layer=least)
            except ConfigError as error:
                raise ConfigError(f"round {index}: {error}") from None


def _masked(state: TrainState, masks: Tensors) -> TrainState:
    """Zeros where `masks` remove a weight, and in the optimizer's slots of that weight."""

    def cut(name: str, tensor: Tensor) -> Tensor:
        mask = masks.get(name)
        return tensor if mask is None or mask.shape != tensor.shape else tensor.masked_fill(~mask, 0)

    model = {name: cut(name, tensor) for name, tensor in state.model.items()}
    return TrainState(model, {slot: cut(slot.rsplit("/", 1)[0], value) for slot, value in state.optimizer.items()})
