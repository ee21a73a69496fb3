"""Correct the biases of an int8 ONNX file, where the weights of a filter are all zero or nearly.

Integer arithmetic adds a bias in steps of (scale of the input) x (scale of the filter), in 32 bits. The quantizer takes
the filter's scale from its largest weight. A filter of zeros gets a scale of 1, which rounds the bias to whole steps of
the input. A tiny scale lets the bias alone fill the 32 bits, so that adding the products overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_STEPS = 2**28  # of a bias, at most: finer than float32, and the products have 7/8 of the 32 bits


def refine_biases(model: Any, source: Any) -> None:
    """Give such filters of `model`, in place, a scale that suits their bias.

    `model` is what the quantizer made of `source`, both onnx.ModelProto; it has one scale for each filter. The filters
    of a ConvTranspose in groups share scales, which then fit no single bias: such layers stay as they are.
    """
    from onnx import numpy_helper

    quantized = {tensor.name: tensor for tensor in model.graph.initializer}
    original = {tensor.name: tensor for tensor in source.graph.initializer}
    biases = {node.name: node.input[2] for node in source.graph.node if node.op_type in _LAYERS and len(node.input) > 2}
    made_by = {output: node for node in model.graph.node for output in node.output}

    def read(tensor: Any) -> Any:
        return numpy_helper.to_array(tensor).astype(np.float64)

    def write(name: str, values: Any) -> None:
        quantized[name].CopyFrom(numpy_helper.from_array(values, name))

    uses: dict[str, list[tuple[Any, Any, Any]]] = {}  # by weight: (scale of the input, bias, the node that gives it)
    for node in model.graph.node:
        if biases.get(node.name) in original:
            input_scale = read(quantized[made_by[node.input[0]].input[1]])
            bias = read(original[biases[node.name]])
            uses.setdefault(node.input[1], []).append((input_scale, bias, made_by[node.input[2]]))
    for weight_name, found in uses.items():
        node = made_by[weight_name]
        weight, scale = read(quantized[node.input[0]]), read(quantized[node.input[1]])
        if any(bias.size != scale.size for _, bias, _ in found):
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        others = tuple(dim for dim in range(weight.ndim) if dim != axis)
        smallest = np.max([abs(bias) / (input_scale * _STEPS) for input_scale, bias, _ in found], axis=0)
        of_zeros = ~weight.any(axis=others) & (smallest > 0)
        refined = np.where(of_zeros, smallest, np.maximum(scale, smallest)).astype(np.float32)
        write(node.input[0], np.rint(weight * np.expand_dims(scale / refined, others)).astype(np.int8))
        write(node.input[1], refined)
        for input_scale, bias, bias_node in found:
            step = input_scale * refined
            write(bias_node.input[0], np.rint(bias / step).astype(np.int32))
            write(bias_node.input[1], step.astype(np.float32))
