"""Write recurrent layers as ONNX's own operators: torch.export would unroll them to one length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.onnx import ops

from orchestrator.private_apis import has_forward_hooks

_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2), "RNN": (0,)}  # the places in torch's order of ONNX's gates
_VERSION = 14  # of the operators, see https://onnx.ai/onnx/operators


def use_onnx_recurrence(module: nn.Module) -> nn.Module:
    """Replace the GRU, LSTM and RNN layers of `module`, in place, by layers that can only be exported to ONNX.

    A layer stays where ONNX has no equal of it (a projection of LSTM), and where something else sees its weights.
    """
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.GRU | nn.LSTM | nn.RNN) and name and _can_be_replaced(layer)
    ]
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, OnnxRecurrent(layer))
    return module


def _can_be_replaced(layer: nn.RNNBase) -> bool:
    plain = type(layer) in (nn.GRU, nn.LSTM, nn.RNN) and not is_parametrized(layer) and layer.proj_size == 0
    return plain and not has_forward_hooks(layer)


class OnnxRecurrent(nn.Module):
    """Compute what `layer` does, in ONNX's operators; see https://onnx.ai/onnx/operators for GRU, LSTM and RNN.

    ONNX has one operator for each layer of the stack; both directions share one. Its gates have another order than
    torch's. Packed sequences and inputs without samples stay torch's.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.kind = "RNN" if isinstance(layer, nn.RNN) else layer.mode
        self.activation = layer.nonlinearity.capitalize() if isinstance(layer, nn.RNN) else ""
        self.directions = 2 if layer.bidirectional else 1
        for place in range(layer.num_layers):
            for name, tensor in zip("WRB", self._weights(place), strict=True):
                self.register_buffer(f"{name}{place}", tensor)

    def _weights(self, place: int) -> Iterator[Tensor]:
        """Yield input weights (D, gates x H, I), recurrent weights (D, gates x H, H) and biases (D, 2 x gates x H)."""
        ends = [f"l{place}{reverse}" for reverse in ("", "_reverse")[: self.directions]]
        for kind in ("weight_ih", "weight_hh"):
            yield torch.stack([self._in_onnx_order(f"{kind}_{end}") for end in ends])
        if self.layer.bias:
            biases = [[self._in_onnx_order(f"{kind}_{end}") for kind in ("bias_ih", "bias_hh")] for end in ends]
            yield torch.stack([torch.cat(pair) for pair in biases])
        else:
            width = 2 * len(_GATES[self.kind]) * self.layer.hidden_size
            yield torch.zeros(self.directions, width, dtype=next(self.layer.parameters()).dtype)

    def _in_onnx_order(self, name: str) -> Tensor:
        parts = getattr(self.layer, name).detach().chunk(len(_GATES[self.kind]))
        return torch.cat([parts[place] for place in _GATES[self.kind]])

    def forward(self, x: Any, state: Any = None) -> Any:
        if not isinstance(x, Tensor) or x.dim() != 3:
            return self.layer(x, state)
        steps = x.transpose(0, 1) if self.layer.batch_first else x
        given = state if isinstance(state, tuple) else (state,)
        last: list[tuple[Tensor, ...]] = []
        for place in range(self.layer.num_layers):
            rows = slice(place * self.directions, (place + 1) * self.directions)
            steps, *states = self._one_layer(place, steps, [None if s is None else s[rows] for s in given])
            last.append(tuple(states))
        outputs = steps.transpose(0, 1) if self.layer.batch_first else steps
        final = tuple(torch.cat(parts) for parts in zip(*last, strict=True))
        return outputs, final if self.kind == "LSTM" else final[0]

    def _one_layer(self, place: int, x: Tensor, initial: list[Tensor | None]) -> tuple[Tensor, ...]:
        """Return outputs (steps, samples, D x H) and each last state (D, samples, H)."""
        hidden, directions = self.layer.hidden_size, self.directions
        attributes: dict[str, Any] = {
            "hidden_size": hidden,
            "direction": "bidirectional" if directions == 2 else "forward",
        }
        if self.kind == "GRU":
            attributes["linear_before_reset"] = 1
        if self.kind == "RNN":
            attributes["activations"] = [self.activation] * directions
        state_shape = (directions, x.shape[1], hidden)
        shapes = [(x.shape[0], *state_shape), *[state_shape] * (2 if self.kind == "LSTM" else 1)]
        outputs, *states = ops.symbolic_multi_out(
            self.kind,
            (x, getattr(self, f"W{place}"), getattr(self, f"R{place}"), getattr(self, f"B{place}"), None, *initial),
            attributes,
            dtypes=[x.dtype] * len(shapes),
            shapes=shapes,
            version=_VERSION,
        )
        return outputs.transpose(1, 2).flatten(2), *states
