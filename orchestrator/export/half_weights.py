"""Store the weights of ONNX networks with recurrent layers in float16, and let them compute in float32.

onnxruntime has no float16 arithmetic for recurrent layers on the CPU. In a network that is float16 around them,
onnxruntime 1.32 crashes while it optimizes the casts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_RECURRENT = ("GRU", "LSTM", "RNN")


def has_recurrent_layers(model: Any) -> bool:
    """Return whether `model`, an onnx.ModelProto, has operators that cannot compute in float16."""
    return any(node.op_type in _RECURRENT for node in model.graph.node)


def halve_weights(model: Any) -> None:
    """Store the weights of two or more dimensions of `model`, in place, as float16, each followed by a cast."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            name, half = tensor.name, f"{tensor.name}_float16"
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [name], name=f"{half}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
