"""Make the latency table of an experiment's network, and hold it against whole networks."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from orchestrator.amc.decisions import channel_budget, group_sizes
from orchestrator.amc.latency import LatencyTable, NetworkTime
from orchestrator.amc.latency_measure import in_own_process, measure_latency
from orchestrator.data.dataset import Data
from orchestrator.data.load import load_data
from orchestrator.experiment import Experiment
from orchestrator.export.example import ExampleInputs
from orchestrator.export.onnx_file import save_onnx
from orchestrator.models.build import build_model
from orchestrator.models.ofa_networks import build_network
from orchestrator.models.spec import OFA
from orchestrator.modules import copy_module
from orchestrator.nested import rows
from orchestrator.ofa.block_latency import BlockLatency, measure_blocks
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet import Elastic
from orchestrator.pruning import prunable_weights
from orchestrator.pruning.channels.budget import keep_sizes
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.pruning.channels.trace import trace_channels
from orchestrator.pruning.geometry import geometry_of

SHARES = (1.0, 0.75, 0.5, 0.25)  # of every layer's channels in the whole networks


def latency_table(
    experiment: Experiment, *, data: str | None = None, points: int = 4, threads: int = 1
) -> LatencyTable:
    """Return measured times of the layers of the experiment's network, and of four whole networks.

    With a path of `Phases`, these are the layers of all networks of its space, each of one size.

    `data`: folder or uri of the data, for data sets in files. `points`, `threads`: see `measure_latency`. The weights
    are not trained, which does not change the times.

    Raises ConfigError for a network whose channels cannot be removed, and ExportError if a layer or a network cannot be
    measured.
    """
    loaded = load_data(experiment.data, experiment.data_options, root=data)
    if experiment.phases:
        return _table_of_space(experiment, loaded, threads)
    module = build_model(experiment.model, experiment.model_options, loaded.model_arguments, seed=0).eval()
    inputs = rows(loaded.inputs, 0, 1)
    graph = trace_channels(module, inputs)
    weights = dict(prunable_weights(module, experiment.exclude, experiment.kinds))
    table = measure_latency(graph, geometry_of(module, inputs).shapes, points=points, threads=threads)
    return replace(table, networks=_whole_networks(module, graph, weights, table, loaded))


def _table_of_space(experiment: Experiment, data: Data, threads: int) -> LatencyTable:
    space = find_space(experiment.model.removeprefix(OFA))
    supernet = Elastic.of(space, data.model_arguments)
    table, rng = measure_blocks(supernet, threads=threads), random.Random(0)
    latency = BlockLatency.of(supernet, table)
    chosen = [space.smallest(), space.sample(rng), space.sample(rng), space.largest()]
    example = ExampleInputs(rows(data.inputs, 0, 2), about=data.about)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for place, each in enumerate(chosen):
            module = build_network(each, supernet.arguments).eval()
            files.append(save_onnx(module, Path(folder, f"{place}.onnx"), example))
        seconds, _ = in_own_process([], threads, files)
    times = [NetworkTime(latency(each).latency_ms / 1000, taken) for each, taken in zip(chosen, seconds, strict=True)]
    return replace(table, networks=times)


def _whole_networks(
    module: nn.Module, graph: ChannelGraph, weights: Mapping[str, nn.Parameter], table: LatencyTable, data: Data
) -> list[NetworkTime]:
    sizes = {name: weight.numel() for name, weight in weights.items()}
    budget = channel_budget(graph, sizes, 1.0, unit="latency", round_to=1, table=table)
    tensors = {name: weight.detach() for name, weight in weights.items()}
    kept = [[decision.size(decision.below(share)) for decision in budget.decisions] for share in SHARES]
    with tempfile.TemporaryDirectory() as folder:
        files = [
            save_onnx(
                shrink(copy_module(module), keep_sizes(graph, tensors, group_sizes(graph, tensors, each))),
                Path(folder, f"{place}.onnx"),
                ExampleInputs(rows(data.inputs, 0, 2), about=data.about),
            )
            for place, each in enumerate(kept)
        ]
        seconds, _ = in_own_process([], table.threads, files)
    return [NetworkTime(budget.cost(each), taken) for each, taken in zip(kept, seconds, strict=True)]
