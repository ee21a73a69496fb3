"""Train quantisation-aware: a network rounds to int8 as it computes, and shares its tensors with the real one.

Weights have a scale for each output channel, inputs of layers one for all; both are symmetric, so that zeros stay zero.
torchao puts the rounding into the graph that torch.export makes of the network (`prepare_qat_pt2e`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from orchestrator.errors import ConfigError
from orchestrator.extras import extra
from orchestrator.modules import model_call
from orchestrator.nested import mapped
from orchestrator.training import collectives
from orchestrator.training.int8_weights import HIGHEST
from orchestrator.user_code import one_line

RANGE_BATCHES = 8  # of training samples, on which the ranges are measured before any epoch
LAYERS = ("conv1d", "conv2d", "linear")  # whose weights and inputs are rounded
_WAY_OUT = "set quantise=None, and export packed-int8 or onnx-int8 files instead"


def fake_quantised(module: nn.Module, inputs: Any) -> nn.Module:
    """Return a network that computes as `module` does with weights and inputs of layers rounded to int8 (see `LAYERS`).

    It has the parameters and buffers of `module` themselves, so training it trains `module`. `inputs`: a batch of two
    samples or more. Raises ConfigError without torchao, and for a module that torch.export cannot take or that has no
    such layer.
    """
    pt2e = torchao()
    training = module.training
    try:
        program = torch.export.export(module.train(), *_arguments(inputs), dynamic_shapes=_any_sizes(inputs))
    except Exception as error:  # torch.export runs the user's code, and has many errors of its own
        raise ConfigError(
            f"quantise needs a model that torch.export can take, but {type(module).__name__} fails "
            f"({one_line(error)[:200]}): {_WAY_OUT}"
        ) from error
    finally:
        module.train(training)
    graph = program.module()
    if not list(_layers(graph.graph.nodes)):
        raise ConfigError(
            f"quantise needs a linear or convolution layer, and {type(module).__name__} has none: {_WAY_OUT}"
        )
    prepare = import_module("torchao.quantization.pt2e.quantize_pt2e").prepare_qat_pt2e
    network: nn.Module = prepare(graph, _quantizer(pt2e))
    pt2e.allow_exported_model_train_eval(network)
    _share(module, network)
    return network


@torch.no_grad()
def measure_ranges(network: nn.Module, batches: Iterable[Any]) -> None:
    """Measure the ranges that inputs are rounded in on `batches` of inputs; every worker must call it."""
    network.eval()  # torchao's returns None
    follow_ranges(network, True)
    for inputs in batches:
        model_call(network, inputs)
    share_ranges(network)


def share_ranges(network: nn.Module) -> None:
    """Fix the ranges, as the mean of those of all workers."""
    collectives.average_over_workers(collectives.running_statistics(network))
    follow_ranges(network, False)


def follow_ranges(network: nn.Module, follow: bool) -> None:
    """Have the ranges that inputs are rounded in follow what the network computes, or stay as they are."""
    network.apply(torchao().enable_observer if follow else torchao().disable_observer)


def torchao() -> Any:
    """Return torchao's module for graphs. Raises ConfigError without the extra `quantise`."""
    with extra("quantise", "Experiment.quantise"):
        return import_module("torchao.quantization.pt2e")


def _quantizer(pt2e: Any) -> Any:
    """Return what tells torchao which values of a graph are rounded, and how."""
    api = import_module("torchao.quantization.pt2e.quantizer")

    def spec(scheme: torch.qscheme, observer: Any, axis: int | None) -> Any:
        rounded = pt2e.FakeQuantize.with_args(observer=observer, eps=torch.finfo(torch.float32).tiny)
        return api.QuantizationSpec(torch.int8, rounded, -HIGHEST, HIGHEST, scheme, axis)

    # With a constant of 1 the range is that of the weights as they are now, as `quantised` stores them.
    newest = pt2e.MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0)
    weight = spec(torch.per_channel_symmetric, newest, 0)
    activation = spec(torch.per_tensor_symmetric, pt2e.MovingAverageMinMaxObserver, None)

    class Symmetric(api.Quantizer):  # type: ignore[name-defined, misc]
        def annotate(self, model: Any) -> Any:
            for node in _layers(model.graph.nodes):
                specs = {node.args[0]: activation, node.args[1]: weight}
                node.meta["quantization_annotation"] = api.QuantizationAnnotation(specs)
            return model

        def validate(self, model: Any) -> None:
            """Accept every graph: `fake_quantised` has counted the layers."""

    return Symmetric()


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments, as `model_call` passes them."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _any_sizes(inputs: Any) -> Any:
    """Return the form of the arguments in which each size above 1 of each tensor may differ from batch to batch."""
    args, kwargs = _arguments(inputs)

    def sizes(tensor: torch.Tensor) -> dict[int, Any]:
        return {dimension: Dim.AUTO for dimension, size in enumerate(tensor.shape) if size > 1}

    return mapped(sizes, kwargs or args)


def _layers(nodes: Any) -> Iterator[Any]:
    """Yield the nodes of a graph that are layers of these kinds."""
    for node in nodes:
        if node.op == "call_function" and str(node.target).split(".")[:2] in [["aten", kind] for kind in LAYERS]:
            yield node


def _share(module: nn.Module, network: nn.Module) -> None:
    """Put the parameters and buffers of `module` into `network`, which has copies of the same names."""
    for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers()):
        place, _, own = name.rpartition(".")
        setattr(network.get_submodule(place), own, tensor)
