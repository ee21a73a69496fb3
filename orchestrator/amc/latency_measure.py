"""Make a table of a network's times: which sizes of which layers to measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from orchestrator.amc import latency_process
from orchestrator.amc.latency import LatencyTable, LayerTimes
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.decode import decode, parse
from orchestrator.errors import ExportError
from orchestrator.processor import processor
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.validate import whole


def measure_latency(
    graph: ChannelGraph, shapes: Mapping[str, LayerShape], *, points: int = 4, threads: int = 1
) -> LatencyTable:
    """Return the times of all layers of `shapes`, at `points` sizes of each side that can lose channels.

    Every run of a layer follows one of a reference layer, whose time tells how fast the machine is at that moment.
    What an empty network takes is subtracted. `threads`: of onnxruntime.

    Raises ConfigError for numbers below 1, and ExportError where onnxruntime is missing or fails.
    """
    whole("points", points, minimum=1)
    whole("threads", threads, minimum=1)
    grids = {name: _grid(graph, name, shape, points) for name, shape in shapes.items()}
    distinct = {
        _resized(shape, outputs, inputs): 0.0
        for name, shape in shapes.items()
        for outputs in grids[name][0]
        for inputs in grids[name][1]
    }
    seconds, runtime = in_own_process(list(distinct), threads)
    distinct = dict(zip(distinct, seconds, strict=True))
    layers = {}
    for name, shape in shapes.items():
        outputs, inputs = grids[name]
        times = [[distinct[_resized(shape, o, i)] for i in inputs] for o in outputs]
        positions = graph.layers[name].positions if name in graph.layers else 1
        layers[name] = LayerTimes(positions, outputs, inputs, times)
    return LatencyTable(processor(), threads, runtime, layers)


def _grid(graph: ChannelGraph, name: str, shape: LayerShape, points: int) -> tuple[list[int], list[int]]:
    """Return the numbers of output and of input channels to measure a layer with."""
    cut = {member.side for group in graph.groups for member in group.members if member.layer == name}
    outputs = _steps(shape.outputs, points if "out" in cut else 1)
    inputs = [1] if _is_depthwise(shape) else _steps(shape.inputs, points if "in" in cut else 1)
    return outputs, inputs


def _steps(size: int, points: int) -> list[int]:
    """Return up to `points` sizes at equal distances, the last of which is `size`."""
    return sorted({max(1, round(size * step / points)) for step in range(1, points + 1)})


def _is_depthwise(shape: LayerShape) -> bool:
    return 1 < shape.groups == shape.inputs == shape.outputs


def _resized(shape: LayerShape, outputs: int, inputs: int) -> LayerShape:
    if _is_depthwise(shape):
        return replace(shape, outputs=outputs, inputs=outputs, groups=outputs)
    return replace(shape, outputs=outputs, inputs=inputs)


def in_own_process(shapes: Sequence[LayerShape], threads: int, files: Sequence[Path] = ()) -> tuple[list[float], str]:
    """Return what `measure_here` measures, in a process of its own. Raises ExportError."""
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder, "task.json"), Path(folder, "answer.json")
        task.write_text(json.dumps([[asdict(shape) for shape in shapes], list(map(str, files))]))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", latency_process.__name__, str(task), str(answer), str(threads)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode:
            reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise ExportError(f"the layers cannot be measured: {reason[:300]}")
        return decode(tuple[list[float], str], parse(answer.read_bytes()))
