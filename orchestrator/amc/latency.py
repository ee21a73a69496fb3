"""Predict the latency of a network as the sum of its layers' measured times: a table for one processor, as JSON.

    {"processor": "...", "threads": 1, "runtime": "onnxruntime 1.23.0", "layers": {"layer1.0.conv1":
        {"positions": 64, "outputs": [8, 16], "inputs": [8, 16], "seconds": [[1e-5, 2e-5], [2e-5, 4e-5]]}, ...},
     "networks": [{"predicted": 1e-3, "measured": 1.1e-3}, ...]}

`seconds` has a row for each number of output channels and a column for each number of input channels. A layer that
mixes no channels (depthwise) has one column. Between measured sizes the time is interpolated. `networks`, which may be
missing, are whole networks: what the table says of them, and what they took.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np

from orchestrator.amc.cost import Widths
from orchestrator.decode import Rule, decode, parse
from orchestrator.errors import ConfigError
from orchestrator.processor import processor
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.sealed import sha256_of

Positive = Annotated[int, Rule("a whole number of 1 or more", lambda number: number >= 1)]
Seconds = Annotated[float, Rule("a time in seconds above 0", lambda number: number > 0)]
MAKE_AGAIN = "make it again with orchestrator latency"
MAX_ERROR = 0.2  # on whole networks, above which a table's times must not be taken for those of a network

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerTimes:
    """Seconds (outputs, inputs) of one layer. `positions`: how often its weights are used for one sample."""

    positions: Positive
    outputs: list[Positive]
    inputs: list[Positive]
    seconds: list[list[Seconds]]

    def __post_init__(self) -> None:
        for name, sizes in (("outputs", self.outputs), ("inputs", self.inputs)):
            if not sizes or any(after <= before for before, after in pairwise(sizes)):
                raise ValueError(f"{name} must ascend, got {sizes!r:.100}")
        if [len(row) for row in self.seconds] != [len(self.inputs)] * len(self.outputs):
            raise ValueError(f"seconds must have {len(self.outputs)} rows of {len(self.inputs)} numbers")

    def of(self, outputs: int, inputs: int) -> float:
        """Return the time for these channels, bilinear between measured sizes and constant outside of them.

        More channels never take less time: where they did, which is noise, the longer time of fewer channels counts.
        """
        seconds = np.maximum.accumulate(np.maximum.accumulate(np.array(self.seconds), 0), 1)
        by_row = [np.interp(inputs, self.inputs, row) for row in seconds]
        return float(np.interp(outputs, self.outputs, by_row))


@dataclass(frozen=True)
class NetworkTime:
    """Seconds of a whole network for one sample: by a table, and measured."""

    predicted: Seconds
    measured: Seconds


@dataclass(frozen=True)
class LatencyTable:
    """Measured times of each layer of one network on one processor, and of whole networks to compare with."""

    processor: str
    threads: Positive
    runtime: str
    layers: dict[str, LayerTimes]
    networks: list[NetworkTime] = field(default_factory=list)

    @property
    def error(self) -> float | None:
        """Largest relative error of a prediction for a whole network, 0.1 for a tenth; None if none was measured."""
        return max((abs(each.predicted / each.measured - 1) for each in self.networks), default=None)

    @property
    def warning(self) -> str | None:
        """Return a sentence about the error if it is above MAX_ERROR."""
        if (error := self.error or 0.0) <= MAX_ERROR:
            return None
        return (
            f"the latency table misses a whole network by {100 * error:.0f} %: it may still rank networks, but one "
            "that it says is within a budget in milliseconds may take much more or less, so measure what was found"
        )

    @property
    def digest(self) -> str:
        """Return the hash of all its content, for a search's key."""
        return sha256_of(asdict(self))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def read_latency_table(path: str | Path, *, other_processor: bool = False) -> LatencyTable:
    """Read a table that `LatencyTable.to_json` wrote, or one of the user's own device; warn if its error is large.

    Raises ConfigError for a file that is missing or damaged, and for another processor than this machine's unless
    `other_processor` allows it.
    """
    try:
        table = decode(LatencyTable, parse(Path(path).read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the latency table {path} cannot be used ({error}): {MAKE_AGAIN}") from error
    if not other_processor and table.processor != processor():
        raise ConfigError(
            f"the latency table {path} must be of this machine's processor, {processor()}, got {table.processor!r}: "
            f"{MAKE_AGAIN}, or pass other_processor=True (--other-processor) if that is the processor you mean"
        )
    if table.warning:
        logger.warning("%s", table.warning)
    return table


class LatencyCost:
    """Seconds for one sample, by how many channels the free groups of `widths` keep; see `Cost`.

    Layers of the table that the graph does not hold take the time of their largest size. Raises ConfigError for a table
    that lacks a layer, has one of another input size, or was not measured up to the dense network's channels.
    """

    def __init__(self, graph: ChannelGraph, table: LatencyTable, widths: Widths) -> None:
        self._widths, self._table, self._cached = widths, table, dict[tuple[str, int, int], float]()
        self._layers = [name for name in widths.layers if graph.layers[name].weight is not None]
        for name in self._layers:
            times, layer = table.layers.get(name), graph.layers[name]
            if times is None:
                raise ConfigError(f"the latency table lacks the layer {name!r}: {MAKE_AGAIN} for this network")
            if times.positions != layer.positions:
                raise ConfigError(
                    f"the latency table must be for inputs of this size, where {name!r} is used {layer.positions} "
                    f"times a sample, got {times.positions}: {MAKE_AGAIN} for this network"
                )
            for side, measured in (("output", times.outputs), ("input", times.inputs)):
                dense = layer.size("out" if side == "output" else "in") or 1  # a depthwise layer has one column
                if measured[-1] != dense:
                    raise ConfigError(
                        f"the latency table must be for layers of this width, where {name!r} has {dense} {side} "
                        f"channels, got times up to {measured[-1]}: {MAKE_AGAIN} for this network"
                    )
        others = [times for name, times in table.layers.items() if name not in self._layers]
        self._fixed = sum(times.of(times.outputs[-1], times.inputs[-1]) for times in others)

    def __call__(self, sizes: Sequence[int]) -> float:
        return self._fixed + sum(self.parts(sizes).values())

    def parts(self, sizes: Sequence[int]) -> Mapping[str, float]:
        outputs = dict(zip(self._widths.layers, self._widths.of("out", sizes).tolist(), strict=True))
        inputs = dict(zip(self._widths.layers, self._widths.of("in", sizes).tolist(), strict=True))
        return {name: self._seconds(name, outputs[name], inputs[name]) for name in self._layers}

    def _seconds(self, name: str, outputs: int, inputs: int) -> float:
        key = (name, outputs, inputs)
        if key not in self._cached:
            self._cached[key] = self._table.layers[name].of(outputs, inputs)
        return self._cached[key]
