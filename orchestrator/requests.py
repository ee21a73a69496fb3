"""What is asked of whoever trains: prune the parent, let the technique say where the round starts.

An errand comes first where the round needs what storage lacks: a snapshot of the dense run, or gradients.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from orchestrator.errors import ConfigError, DamagedError, DensityError
from orchestrator.experiment import Experiment, Problem
from orchestrator.pruning import dead_layers, resolve_criterion
from orchestrator.pruning.channels.graph import ChannelGraph, Kept
from orchestrator.pruning.channels.removal import Channels
from orchestrator.pruning.channels.shrink import check_configuration, cut_model, cut_optimizer
from orchestrator.pruning.criteria import needs_gradients
from orchestrator.pruning.masks import count_true
from orchestrator.randomness import derive, own_randomness, seed_all
from orchestrator.record import Record
from orchestrator.storage.checkpoint import Shapes
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.store import JSON_BYTES
from orchestrator.techniques import Start, check_rewind
from orchestrator.training.config import TrainingConfig
from orchestrator.work import RoundRequest, RoundResult, Tensors, TrainState

logger = logging.getLogger(__name__)
GRADIENTS = "gradients"


class Finished:
    """A finished round: in memory while it is the newest, else read from storage when first wanted."""

    def __init__(self, key: str, training: TrainingConfig, ledger: Ledger, shapes: Shapes) -> None:
        self.key, self.training = key, training
        self._ledger, self._shapes = ledger, shapes
        self._content: tuple[TrainState, Tensors] | None = None
        self._channels: Kept | None = None
        self._snapshots: Mapping[int, TrainState] = {}
        self._val_accuracy: float | None = None
        self._workers: int | None = None

    def hold(self, result: RoundResult, request: RoundRequest) -> Finished:
        """Keep what is on its way to storage."""
        self._content, self._snapshots = (result.state, request.masks), result.snapshots
        self._channels = request.channels
        self._val_accuracy, self._workers = result.history[-1].val_accuracy, result.workers
        return self

    def state(self) -> TrainState:
        state, _ = self._read()
        return TrainState(dict(state.model), dict(state.optimizer))

    @property
    def masks(self) -> Tensors:
        return self._read()[1]

    def channels(self, graph: ChannelGraph) -> Kept:
        """The configuration of its network, one of `graph`; {} if it is dense. Raises DamagedError."""
        if self._channels is None:
            kept = (self._record().channels or {}).get("kept", {})
            try:
                check_configuration(graph, kept)
            except ConfigError as error:
                raise DamagedError(f"rounds/{self.key}/record.json is damaged: {error}") from None
            self._channels = kept
        return self._channels

    def snapshot(self, epoch: int) -> TrainState:
        """The state after `epoch`. Raises DamagedError, MissingError."""
        return self._snapshots.get(epoch) or self._ledger.snapshot(self.key, str(epoch), self._max_bytes())

    def gradients(self) -> Tensors:
        """{name: dL/dw}, once an errand has fetched them. Raises DamagedError, MissingError."""
        return self._ledger.snapshot(self.key, GRADIENTS, self._max_bytes()).model

    def has_gradients(self) -> bool:
        return self._ledger.has_snapshot(self.key, GRADIENTS)

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

    def _max_bytes(self) -> int | None:
        """Of a snapshot, while there may be no record yet."""
        if self._content is None:
            return None
        state, _ = self._content
        return sum(tensor.nbytes for part in (state.model, state.optimizer) for tensor in part.values()) + JSON_BYTES

    def _read(self) -> tuple[TrainState, Tensors]:
        if self._content is None:
            record = self._record()
            # A network of fewer channels has no masks, and its shapes are checked where it is cut further.
            self._content = self._ledger.load(record, {} if record.channels else self._shapes)
        return self._content

    def _record(self) -> Record:
        record = self._ledger.record(self.key)
        if record is None:
            raise DamagedError(f"rounds/{self.key}/record.json was there and is gone: start the job again")
        return record


@dataclass(frozen=True)
class _Smaller:
    """A finished round as a network with fewer channels sees it: what it has of the channels that are `kept`."""

    finished: Finished
    graph: ChannelGraph
    kept: Kept

    @property
    def training(self) -> TrainingConfig:
        return self.finished.training

    def state(self) -> TrainState:
        return self._cut(self.finished.state())

    def snapshot(self, epoch: int) -> TrainState:
        return self._cut(self.finished.snapshot(epoch))

    def _cut(self, state: TrainState) -> TrainState:
        base = self.finished.channels(self.graph)
        return TrainState(
            cut_model(self.graph, state.model, self.kept, base),
            cut_optimizer(self.graph, state.optimizer, self.kept, base),
        )


class Requests:
    """Builds the requests of one experiment's rounds.

    `keys`: of its rounds. `problem`: its prunable tensors, and its channels where those are removed. `keep`: epochs of
    the dense run that anybody will rewind to. Raises DensityError, before anything is trained, for densities that the
    selection cannot give.
    """

    def __init__(
        self,
        experiment: Experiment,
        keys: list[str],
        problem: Problem,
        keep: Iterable[int],
    ) -> None:
        self.experiment, self.keys = experiment, keys
        self.shapes, self._graph = dict(problem.prunable), problem.channels
        self.densities = experiment.densities()
        self._criterion = resolve_criterion(experiment.criterion)
        self._rewinds_to = experiment.technique.rewinds_to(experiment.training)
        self._keep = tuple(sorted({*keep, *([] if self._rewinds_to is None else [self._rewinds_to])}))
        self._unpruned, self._constants = dict(problem.unpruned), dict(problem.constants)
        self._prunable = sum(math.prod(shape) for shape in self.shapes.values())
        self._check_epochs()
        self._check_densities()

    def dense(self) -> RoundRequest:
        training = self.experiment.training
        request = self._request(0, Start(None, training.schedule, 0, training.epochs), {}, keep=self._keep)
        return replace(request, constants=self._constants)

    def errand(self, index: int, dense: Finished, parent: Finished) -> RoundRequest | None:
        """What has to be fetched before round `index` >= 1 can be asked for, if anything."""
        if self._rewinds_to is not None and not dense.has_snapshot(self._rewinds_to):
            key = f"{dense.key}.{self._rewinds_to}"
            workers = dense.workers() if self._rewinds_to else None  # the initialisation is the same for any number
            return replace(self.dense(), key=key, epochs=self._rewinds_to, keep=(), wants="snapshot", workers=workers)
        if needs_gradients(self._criterion) and not parent.has_gradients():
            training = self.experiment.training
            start = Start(parent.state(), training.schedule, 0, 0)
            request = self._request(
                index - 1, start, parent.masks, parent.channels(self._graph) if self._graph else None
            )
            return replace(request, key=f"{parent.key}.{GRADIENTS}", wants="gradients")
        return None

    def pruned(self, index: int, dense: Finished, parent: Finished) -> RoundRequest:
        """Round `index` >= 1: the parent's network with its weakest weights removed, where the technique starts it."""
        technique, selection = self.experiment.technique, self.experiment.selection
        state, density = parent.state().model, self.densities[index]
        weights = {name: state[name] for name in self.shapes}
        gradients = parent.gradients() if needs_gradients(self._criterion) else None
        with own_randomness():  # for a criterion that draws its scores
            seed_all(derive(self.experiment.seed, "criterion", index))
            if isinstance(selection, Channels):
                graph = self._channel_graph
                kept = selection.select(
                    graph, weights, density, kept=parent.channels(graph), criterion=self._criterion, gradients=gradients
                )
                start = technique.start(_Smaller(dense, graph, kept), _Smaller(parent, graph, kept))
                return self._request(index, start, {}, kept)
            masks = selection.select(
                weights,
                density,
                masks=parent.masks or None,
                criterion=self._criterion,
                gradients=gradients,
                min_kept_per_layer=self.experiment.min_kept_per_layer,
            )
        for name in dead_layers(masks):
            logger.warning("round %d at density %.4g leaves no weight in %s", index, density, name)
        return self._request(index, technique.start(dense, parent), masks)

    @property
    def _channel_graph(self) -> ChannelGraph:
        assert self._graph is not None  # whoever loads the problem of such an experiment traces its channels
        return self._graph

    def kept_by_layer(self, masks: Tensors, channels: Kept) -> dict[str, int]:
        """How many weights of each prunable tensor are left."""
        if masks:
            return {name: count_true(masks[name]) for name in self.shapes}
        left = self._channel_graph.kept_weights(channels) if channels else {}
        return {name: left.get(name, math.prod(shape)) for name, shape in self.shapes.items()}

    def unpruned_by_layer(self, channels: Kept) -> dict[str, list[int]]:
        """[kept, all] weights of each tensor that is not prunable; some leave it with the channels of its inputs."""
        left = self._channel_graph.kept_weights(channels) if channels else {}
        return {name: [left.get(name, size), size] for name, size in self._unpruned.items()}

    def channels_record(self, request: RoundRequest) -> dict[str, Any] | None:
        """What the record of a round says of the channels that its network has left (see `Record.channels`)."""
        selection = self.experiment.selection
        if not (request.round and isinstance(selection, Channels)):
            return None
        left, dense = (self._channel_graph.counts(channels) for channels in (request.channels, {}))
        counts = {"parameters": [left.parameters, dense.parameters], "macs": [left.macs, dense.macs]}
        return {"unit": selection.unit, **counts, "folded": False, "kept": request.channels}

    def _request(
        self, index: int, start: Start, masks: Tensors, channels: Kept | None = None, keep: tuple[int, ...] = ()
    ) -> RoundRequest:
        return RoundRequest(
            key=self.keys[index],
            parent=self.keys[index - 1] if index else None,
            round=index,
            rounds=len(self.keys) - 1,
            density=self.densities[index],
            kept=sum(self.kept_by_layer(masks, channels or {}).values()),
            prunable=self._prunable,
            seed=self.experiment.seed,
            schedule=start.schedule,
            first_epoch=start.first_epoch,
            epochs=start.epochs,
            start=_masked(start.state, masks) if start.state else None,
            masks=masks,
            channels=channels or {},
            keep=keep,
        )

    def _check_epochs(self) -> None:
        for epoch in self._keep:
            check_rewind(epoch, self.experiment.training)

    def _check_densities(self) -> None:
        for index, density in enumerate(self.densities[1:], start=1):
            selection, minimum = self.experiment.selection, self.experiment.min_kept_per_layer
            try:
                if isinstance(selection, Channels):
                    selection.check(self._channel_graph, self.shapes, density)
                else:
                    selection.check(self.shapes, density, min_kept_per_layer=minimum)
            except ConfigError as error:
                raise DensityError(f"round {index}: {error}") from None


def _masked(state: TrainState, masks: Tensors) -> TrainState:
    """Zeros where `masks` remove a weight, and in the optimizer's slots of that weight."""

    def cut(name: str, tensor: Tensor) -> Tensor:
        mask = masks.get(name)
        return tensor if mask is None or mask.shape != tensor.shape else tensor.masked_fill(~mask, 0)

    model = {name: cut(name, tensor) for name, tensor in state.model.items()}
    return TrainState(model, {slot: cut(slot.rsplit("/", 1)[0], value) for slot, value in state.optimizer.items()})
