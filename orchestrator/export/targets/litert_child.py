"""The program that works with LiteRT's packages, in the environment that `make targets` builds; see `litert`.

It reads one request a line, JSON as {"do": "convert", ...}, and answers each with a line of JSON. Everything else that
its packages print goes to the error stream. It is a script, which imports nothing of this package.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

SPARSE = 0.6  # part of a layer's weights that must be zero before it is encoded


def convert(program: str, file: str) -> dict[str, Any]:
    """Write a .tflite file of a program that torch.export saved."""
    torch, litert_torch = import_module("torch"), import_module("litert_torch")
    exported = torch.export.load(program)
    litert_torch.convert(_pooled(torch, exported.module()), exported.example_inputs[0]).export(file)
    return {}


def quantise(file: str, to: str, samples: Sequence[str]) -> dict[str, Any]:
    """Write `file` with int8 weights and activations, whose ranges are what `samples` reach."""
    names = ("quantizer", "recipe", "calibrator", "recipe_manager", "utils.qsv_utils")
    quantizer, recipe, calibrator, manager, updates = (import_module(f"ai_edge_quantizer.{name}") for name in names)
    rules, chosen = manager.RecipeManager(), recipe.static_wi8_ai8()
    rules.load_quantization_recipe(chosen)
    ranges = calibrator.Calibrator(file, num_threads=1, qsv_update_func=updates.min_max_update)
    ((key, inputs),) = _signature(_interpreter(file)).items()
    ranges.calibrate({key: [dict(zip(inputs, _tensors(sample), strict=True)) for sample in samples]}, rules)
    made = quantizer.Quantizer(file)
    made.load_quantization_recipe(chosen)
    made.quantize(ranges.get_model_qsvs()).export_model(to, overwrite=True)
    model = _model(to)
    _write(model, to)  # large weights stood behind it, which few programs read
    return {"int8": sum(_is_int8_weight(model, tensor) for tensor in _all_tensors(model))}


def encode(file: str, to: str) -> dict[str, Any]:
    """Write `file` with the weights that are mostly zero in the sparse encoding, which XNNPACK's kernels read.

    The weights of 1x1 convolutions and linear layers are stored as compressed sparse rows over their inputs, and an
    operator DENSIFY stands before the layer. Answers how many weights were encoded, and the names of the operators in
    order, that of a convolution with the size of its kernel.
    """
    model = _model(file)
    graph = model.subgraphs[0]
    names = [_operator(model, graph, operator) for operator in graph.operators]
    dense = {place: _make_sparse(model, graph, place, weight) for place, weight in _sparse_weights(model, graph)}
    for operator in graph.operators:
        operator.inputs = np.array([dense.get(int(at), at) for at in operator.inputs], np.int32)
    code = _schema().BuiltinOperator.DENSIFY
    model.operatorCodes.append(_new("OperatorCodeT", version=1, builtinCode=code, deprecatedBuiltinCode=code))
    graph.operators = [*(_densify(model, *places) for places in dense.items()), *graph.operators]
    _write(model, to)
    return {"encoded": len(dense), "operators": names}


def run(file: str, inputs: str, outputs: str, samples: int) -> dict[str, Any]:
    """Run that many samples through a file on the CPU, one by one.

    Inputs and outputs are safetensors files of tensors "0", "1", ...: those of the first sample, then of the second.
    """
    interpreter = _interpreter(file)
    ((key, names),) = _signature(interpreter).items()
    runner = interpreter.get_signature_runner(key)
    takes, returns = runner.get_input_details(), runner.get_output_details()
    arrays, ordered = _tensors(inputs), []
    for first in range(0, len(arrays), len(arrays) // samples):
        given = {name: _rounded(array, takes[name]) for name, array in zip(names, arrays[first:], strict=False)}
        found = runner(**given)
        ordered += [_exact(found[name], returns[name]) for name in sorted(found, key=_number)]
    save_file({str(place): np.ascontiguousarray(array) for place, array in enumerate(ordered)}, outputs)
    return {}


def _pooled(torch: Any, network: Any) -> Any:
    """Return a network whose means over height and width are poolings.

    As a mean it would be computed with the channels first, behind a TRANSPOSE, which sparse kernels do not take.
    """
    aten = torch.ops.aten
    for node in list(network.graph.nodes):
        if node.target != aten.mean.dim or node.args[0].meta["val"].dim() != 4 or "dtype" in node.kwargs:
            continue
        if sorted(axis % 4 for axis in node.args[1]) == [2, 3]:
            with network.graph.inserting_before(node):
                made = network.graph.call_function(aten.adaptive_avg_pool2d.default, (node.args[0], [1, 1]))
                if len(node.args) < 3 or not node.args[2]:  # it does not keep the two dimensions
                    made = network.graph.call_function(aten.flatten.using_ints, (made, 1))
            node.replace_all_uses_with(made)
            network.graph.erase_node(node)
    network.recompile()
    return network


def _schema() -> Any:
    return import_module("ai_edge_litert.schema_py_generated")


def _new(name: str, **fields: Any) -> Any:
    """Return an object of the schema with these fields."""
    made = getattr(_schema(), name)()
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def _model(file: str) -> Any:
    model = import_module("ai_edge_litert.tools.flatbuffer_utils").read_model(file)
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


def _write(model: Any, file: str) -> None:
    """Write a model without the data that no tensor has any more."""
    used = {0} | {tensor.buffer for tensor in _all_tensors(model)} | {each.buffer for each in model.metadata or []}
    for place, buffer in enumerate(model.buffers):
        if place not in used:
            buffer.data = None
    builder = import_module("flatbuffers").Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    Path(file).write_bytes(builder.Output())


def _all_tensors(model: Any) -> list[Any]:
    return [tensor for graph in model.subgraphs for tensor in graph.tensors]


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _operator(model: Any, graph: Any, operator: Any) -> str:
    values = vars(_schema().BuiltinOperator).items()
    found = next(str(name) for name, value in values if value == _code(model, operator))
    if found != "CONV_2D":
        return found
    _, height, width, _ = graph.tensors[operator.inputs[1]].shape
    return f"{found} {height}x{width}"


def _is_int8_weight(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return tensor.type == _schema().TensorType.INT8 and data is not None and len(data) > 0 and len(tensor.shape) > 1


def _sparse_weights(model: Any, graph: Any) -> list[tuple[int, Any]]:
    """Return the places and values (outputs, inputs) of the weights that are worth encoding.

    They are float32, mostly zero, of 1x1 convolutions and linear layers, and no other operator reads them.
    """
    schema = _schema()
    layers = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED)
    reads = [(int(at), _code(model, o) in layers and n == 1) for o in graph.operators for n, at in enumerate(o.inputs)]
    found = []
    for place in sorted(
        {at for at, is_weight in reads if is_weight} - {at for at, is_weight in reads if not is_weight}
    ):
        tensor = graph.tensors[place]
        data = model.buffers[tensor.buffer].data
        if data is None or tensor.type != schema.TensorType.FLOAT32 or any(size != 1 for size in tensor.shape[1:-1]):
            continue
        weight = data.view(np.float32).reshape(-1, tensor.shape[-1])
        if (weight == 0).mean() >= SPARSE:
            found.append((place, weight))
    return found


def _make_sparse(model: Any, graph: Any, place: int, weight: Any) -> int:
    """Encode the tensor at `place`; return the place of a new one, which holds it once it was made dense."""
    tensor, kept = graph.tensors[place], weight != 0
    dense = copy.copy(tensor)
    dense.buffer, dense.name = 0, tensor.name + b"/dense"
    graph.tensors.append(dense)
    schema = _schema()
    metadata = [_new("DimensionMetadataT", format=schema.DimensionType.DENSE, denseSize=int(s)) for s in tensor.shape]
    starts, inputs = np.concatenate([[0], kept.sum(1).cumsum()]), np.nonzero(kept)[1]
    metadata[-1] = _new("DimensionMetadataT", format=schema.DimensionType.SPARSE_CSR)
    metadata[-1].arraySegmentsType, metadata[-1].arraySegments = _indices(starts)
    metadata[-1].arrayIndicesType, metadata[-1].arrayIndices = _indices(inputs)
    order, no_blocks = np.arange(len(tensor.shape), dtype=np.int32), np.zeros(0, np.int32)
    tensor.sparsity = _new("SparsityParametersT", traversalOrder=order, blockMap=no_blocks, dimMetadata=metadata)
    model.buffers.append(_new("BufferT", data=np.frombuffer(weight[kept].tobytes(), np.uint8)))
    tensor.buffer = len(model.buffers) - 1
    return len(graph.tensors) - 1


def _indices(values: Any) -> tuple[int, Any]:
    """Return numbers in the smallest type of the schema that holds them, and which type that is."""
    highest = int(values.max(initial=0))
    kind = next(kind for kind in ("uint8", "uint16", "int32") if highest <= np.iinfo(np.dtype(kind)).max)
    name = f"{kind.capitalize()}Vector"
    return getattr(_schema().SparseIndexVector, name), _new(f"{name}T", values=values.astype(kind))


def _densify(model: Any, sparse: int, dense: int) -> Any:
    """Return the operator, whose code is the last of the model, that makes a tensor dense."""
    schema = _schema()
    return _new(
        "OperatorT",
        opcodeIndex=len(model.operatorCodes) - 1,
        inputs=np.array([sparse], np.int32),
        outputs=np.array([dense], np.int32),
        builtinOptionsType=schema.BuiltinOptions.DensifyOptions,
        builtinOptions=schema.DensifyOptionsT(),
    )


@functools.lru_cache(maxsize=8)
def _interpreter(file: str) -> Any:
    return import_module("ai_edge_litert.interpreter").Interpreter(file, num_threads=1)


def _signature(interpreter: Any) -> dict[str, list[str]]:
    """Return the names of the inputs, in order, by the name of the function."""
    return {key: sorted(value["inputs"], key=_number) for key, value in interpreter.get_signature_list().items()}


def _number(name: str) -> int:
    """Return the number that a name such as "args_10" ends with."""
    return int(name.rpartition("_")[2])


def _rounded(array: Any, details: dict[str, Any]) -> Any:
    """Return an input in the type that a file takes."""
    if details["dtype"] != np.int8 or array.dtype == np.int8:
        return array
    scale, zero = details["quantization"]
    return np.clip(np.round(array / scale + zero), -128, 127).astype(np.int8)


def _exact(array: Any, details: dict[str, Any]) -> Any:
    """Return an output of int8 as the float32 that it stands for."""
    scale, zero = details["quantization"]
    return ((array.astype(np.float32) - zero) * scale).astype(np.float32) if array.dtype == np.int8 else array


def _tensors(file: str) -> list[Any]:
    found = load_file(file)
    return [found[str(place)] for place in range(len(found))]


DO: dict[str, Callable[..., dict[str, Any]]] = {f.__name__: f for f in (convert, quantise, encode, run)}


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the packages print to the standard output, from Python and from C++
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = DO[request.pop("do")](**request)
        except Exception as error:  # a converter raises all kinds
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
