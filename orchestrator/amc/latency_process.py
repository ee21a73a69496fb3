"""Measure the time of layers by onnxruntime; run as a process of its own, which imports nothing else that is heavy."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from orchestrator.amc.layer_shape import LayerShape
from orchestrator.decode import decode, parse
from orchestrator.errors import ExportError
from orchestrator.extras import extra

WARM_UP, RUNS, FEWEST_RUNS = 5, 30, 5
SECONDS = 0.5  # for one size of one layer: no more than the fewest runs beyond it
SHORTEST = 1e-8  # seconds of a layer that cannot be distinguished from an empty network
REFERENCE = LayerShape(32, 32, (16, 16), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))


def measure_here(shapes: Sequence[LayerShape], threads: int, files: Sequence[str] = ()) -> tuple[list[float], str]:
    """Return the seconds of each layer, then of each ONNX file, and the name of the runtime; measured in this process.

    Files are measured with one sample of random values.
    """
    with extra("onnx", "latency tables", ExportError):
        import onnxruntime
    reference, empty = _runner(REFERENCE, threads), _runner(None, threads)
    found, paces = [], []
    runners = chain((partial(_runner, shape) for shape in shapes), (partial(_runner_of_file, file) for file in files))
    for runner in runners:
        taken, pace, overhead = _medians(runner(threads), reference, empty)
        found.append((taken - overhead) / pace)
        paces.append(pace)
    typical = median(paces)
    return [max(ratio * typical, SHORTEST) for ratio in found], f"onnxruntime {onnxruntime.__version__}"


def _medians(*calls: Callable[[], object]) -> list[float]:
    """Return the median seconds of each call; they take turns, so that a busy moment meets all of them."""
    for call in calls * WARM_UP:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    while len(taken[0]) < FEWEST_RUNS or (len(taken[0]) < RUNS and sum(taken[0]) < SECONDS):
        for call, times in zip(calls, taken, strict=True):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return [median(times) for times in taken]


def _runner(shape: LayerShape | None, threads: int) -> Callable[[], object]:
    """Return what runs one layer on random values; None is a network that does nothing."""
    model, dimensions = _model_of(shape)
    session = _session(model.SerializeToString(), threads)
    values = np.random.default_rng(0).standard_normal(dimensions, dtype=np.float32)
    return lambda: session.run(None, {"inputs": values})


def _runner_of_file(file: str, threads: int) -> Callable[[], object]:
    """Return what runs the network in an ONNX file on a sample; sizes that are free are 1."""
    session, draw = _session(file, threads), np.random.default_rng(0)
    values: dict[str, Any] = {}
    for each in session.get_inputs():
        sizes = [size if isinstance(size, int) else 1 for size in each.shape]
        is_float = each.type == "tensor(float)"
        values[each.name] = draw.standard_normal(sizes, dtype=np.float32) if is_float else np.zeros(sizes, np.int64)
    return lambda: session.run(None, values)


def _session(model: bytes | str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _model_of(shape: LayerShape | None) -> tuple[Any, tuple[int, ...]]:
    """Return an ONNX model of one layer, or of none, and the dimensions of its input for one sample."""
    import onnx
    from onnx import helper, numpy_helper

    dimensions, filters = _dimensions(shape)
    draw, weights = np.random.default_rng(0), {}
    if shape is None:
        node = helper.make_node("Identity", ["inputs"], ["outputs"])
    else:
        weights["weight"] = draw.standard_normal(filters, dtype=np.float32)
        weights["bias"] = draw.standard_normal(shape.outputs, dtype=np.float32)
        node = helper.make_node(_operation(shape), ["inputs", *weights], ["outputs"])
    if shape is not None and shape.kernel:
        attributes = {
            "kernel_shape": shape.kernel,
            "strides": shape.stride,
            "dilations": shape.dilation,
            "pads": [before for before, _ in shape.padding] + [after for _, after in shape.padding],
            "group": shape.groups,
        }
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("inputs", kind, dimensions)],
        [helper.make_tensor_value_info("outputs", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), dimensions


def _operation(shape: LayerShape) -> str:
    if not shape.kernel:
        return "Gemm"
    return "ConvTranspose" if shape.transposed else "Conv"


def _dimensions(shape: LayerShape | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the dimensions of a layer's input and of its weight."""
    if shape is None:
        return (1,), ()
    if not shape.kernel:
        return (shape.rows, shape.inputs), (shape.inputs, shape.outputs)
    first, second = (shape.inputs, shape.outputs) if shape.transposed else (shape.outputs, shape.inputs)
    return (1, shape.inputs, *shape.size), (first, second // shape.groups, *shape.kernel)


def _main(task: str, answer: str, threads: str) -> int:
    try:
        shapes, files = decode(tuple[list[LayerShape], list[str]], parse(Path(task).read_bytes()))
        Path(answer).write_text(json.dumps(measure_here(shapes, int(threads), files)))
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
