"""Tables of layers' times: what they sum to, what is refused, and how they are measured."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from channel_networks import SHAPE, traced

from orchestrator.amc import latency, latency_process
from orchestrator.amc.agents import uniform_sizes
from orchestrator.amc.decisions import channel_budget
from orchestrator.amc.forward_shapes import layer_shapes
from orchestrator.amc.latency import LatencyTable, LayerTimes, NetworkTime, read_latency_table
from orchestrator.amc.latency_measure import measure_latency
from orchestrator.amc.latency_process import REFERENCE, measure_here
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.decode import decode, parse
from orchestrator.errors import ConfigError, ExportError


def by_macs(network: str = "chain", seconds: float = 1e-9) -> LatencyTable:
    """Return a table in which every multiplication takes as long."""
    _, graph, _ = traced(network)
    layers = {}
    for name, layer in graph.layers.items():
        if layer.weight is None:
            continue
        outputs = [1, layer.size("out")]
        inputs = [1] if layer.size("in") < 2 else [1, layer.size("in")]
        shape = layer.cuts[layer.weight].shape
        each = layer.positions * torch.Size(shape[len(layer.cuts[layer.weight].sides) :]).numel() * seconds
        layers[name] = LayerTimes(layer.positions, outputs, inputs, [[each * o * i for i in inputs] for o in outputs])
    return LatencyTable(latency.processor(), 1, "by hand", layers)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(by_macs().to_json())
    return path


@pytest.mark.parametrize("network", ["chain", "residual", "concatenating", "depthwise"])
def test_where_every_multiplication_takes_as_long_latency_is_macs(network):
    """A product of two widths is what bilinear interpolation gives exactly."""
    _, graph, prunable = traced(network)
    macs = channel_budget(graph, prunable, 0.5, round_to=2)
    seconds = channel_budget(graph, prunable, 0.5, round_to=2, unit="latency", table=by_macs(network))
    for share in (0.3, 0.6, 1.0):
        sizes = [decision.size(decision.below(share)) for decision in macs.decisions]
        assert seconds.cost(sizes) == pytest.approx(1e-9 * macs.cost(sizes))
    assert seconds.dense == pytest.approx(1e-9 * graph.macs)
    assert uniform_sizes(seconds) == uniform_sizes(macs)


def test_times_between_measured_sizes_are_interpolated_and_constant_outside():
    times = LayerTimes(1, [2, 4], [10, 20], [[1.0, 2.0], [3.0, 6.0]])
    assert times.of(2, 10) == 1
    assert times.of(3, 10) == 2
    assert times.of(3, 15) == 3
    assert times.of(4, 20) == times.of(9, 99) == 6
    assert times.of(1, 1) == 1


def test_more_channels_never_take_less_time():
    """The time of 4 channels is noise; without this, a budget would have no bounds."""
    times = LayerTimes(1, [2, 4, 6], [1], [[2.0], [1.5], [3.0]])
    assert [times.of(outputs, 1) for outputs in (2, 3, 4, 5, 6)] == [2, 2, 2, 2.5, 3]


def test_layers_without_channels_that_may_go_take_their_time_too():
    _, graph, prunable = traced("chain")
    table = by_macs()
    more = replace(table, layers={**table.layers, "attention": LayerTimes(1, [4, 8], [4], [[5e-6], [2e-5]])})
    one, other = (
        channel_budget(graph, prunable, 0.9, round_to=1, unit="latency", table=each) for each in (table, more)
    )
    sizes = [decision.minimum for decision in one.decisions]
    assert other.cost(sizes) == pytest.approx(one.cost(sizes) + 2e-5)


def test_a_table_is_read_as_it_was_written(written):
    assert read_latency_table(written) == by_macs()
    assert read_latency_table(written).digest == by_macs().digest
    assert by_macs(seconds=2e-9).digest != by_macs().digest
    assert replace(by_macs(), threads=2).digest != by_macs().digest


def test_a_table_of_another_processor_is_refused_unless_allowed(written, monkeypatch):
    table = by_macs()
    monkeypatch.setattr(latency, "processor", lambda: "another chip")
    with pytest.raises(ConfigError, match=r"must be of this machine's processor, another chip, got .*other_processor"):
        read_latency_table(written)
    assert read_latency_table(written, other_processor=True) == table


@pytest.mark.parametrize(
    ("predicted", "sentence"),
    [
        (1.2e-3, None),  # as MAX_ERROR allows
        (0.9e-3, None),
        (2.54e-3, "the latency table misses a whole network by 154 %: it may still rank networks"),
        (0.5e-3, "the latency table misses a whole network by 50 %: it may still rank networks"),
    ],
)
def test_a_table_that_misses_whole_networks_warns_when_it_is_read(predicted, sentence, tmp_path, caplog):
    table = replace(by_macs(), networks=[NetworkTime(1e-3, 1e-3), NetworkTime(predicted, 1e-3)])
    path = tmp_path / "table.json"
    path.write_text(table.to_json())
    assert read_latency_table(path) == table
    assert [record.getMessage()[: len(sentence or "")] for record in caplog.records] == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("threads"), r"threads is missing"),
        (lambda t: t.update(threads=0), r"threads must be a whole number of 1 or more"),
        (lambda t: t["layers"]["0"].update(outputs=[8, 1]), r"layers\['0'\] cannot be used: outputs must ascend"),
        (lambda t: t["layers"]["0"].update(inputs=[]), r"layers\['0'\] cannot be used: inputs must ascend"),
        (lambda t: t["layers"]["0"]["seconds"].pop(), r"seconds must have 2 rows of 1 numbers"),
        (lambda t: t["layers"]["0"]["seconds"][0].append(1.0), r"seconds must have 2 rows of 1 numbers"),
        (lambda t: t["layers"]["0"]["seconds"][0].__setitem__(0, -1.0), r"must be a time in seconds above 0, got -1.0"),
        (lambda t: t["layers"]["0"]["seconds"][0].__setitem__(0, float("nan")), r"must be a number below"),
        (lambda t: t.update(layers=[]), r"layers must be an object"),
    ],
)
def test_a_damaged_table_is_refused_in_one_sentence(tmp_path, change, message):
    table = asdict(by_macs())
    change(table)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(
        ConfigError, match=rf"the latency table .*table.json cannot be used \(.*{message}.*make it again"
    ):
        read_latency_table(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    for file in (path, tmp_path / "missing.json"):
        with pytest.raises(ConfigError, match=r"cannot be used \(.*make it again with orchestrator"):
            read_latency_table(file)


def test_a_table_that_lacks_a_layer_or_is_of_another_input_size_is_refused():
    _, graph, prunable = traced("chain")
    table = by_macs()
    lacking = replace(table, layers={name: times for name, times in table.layers.items() if name != "5"})
    with pytest.raises(ConfigError, match="the latency table lacks the layer '5': make it again"):
        channel_budget(graph, prunable, 0.5, unit="latency", table=lacking)
    larger = replace(table, layers={**table.layers, "2": replace(table.layers["2"], positions=64)})
    with pytest.raises(ConfigError, match=r"'2' is used 16 times a sample, got 64"):
        channel_budget(graph, prunable, 0.5, unit="latency", table=larger)


@pytest.mark.parametrize(("side", "channels"), [("outputs", 16), ("inputs", 8)])
def test_a_table_of_a_network_of_another_width_is_refused(side, channels):
    """Times beyond the measured sizes are constant: the wider layers would seem to cost nothing more."""
    _, graph, prunable = traced("chain")
    table = by_macs()
    narrow = replace(table.layers["2"], **{side: [1, channels // 2]})
    with pytest.raises(
        ConfigError, match=rf"'2' has {channels} {side[:-1]} channels, got times up to {channels // 2}: make it again"
    ):
        channel_budget(graph, prunable, 0.5, unit="latency", table=replace(table, layers={**table.layers, "2": narrow}))


def test_a_measured_table_has_the_sides_that_can_lose_channels_and_larger_layers_take_longer():
    pytest.importorskip("onnxruntime")
    module, graph, prunable = traced("depthwise")
    shapes = layer_shapes(module, lambda: module(torch.zeros(1, *SHAPE)))
    table = measure_latency(graph, shapes, points=3)
    assert {name: (times.outputs, times.inputs) for name, times in table.layers.items()} == {
        "stem": ([3, 5, 8], [1]),
        "widen": ([8, 16, 24], [3, 5, 8]),
        "depthwise": ([8, 16, 24], [1]),
        "narrow": ([3, 5, 8], [8, 16, 24]),
        "fc": ([10], [3, 5, 8]),
    }
    assert table.processor == latency.processor()
    assert table.runtime.startswith("onnxruntime 1.")
    assert decode(LatencyTable, parse(table.to_json())) == table
    budget = channel_budget(graph, prunable, 0.9, round_to=4, shapes=shapes, unit="latency", table=table)
    costs = [budget.cost([decision.size(blocks) for decision in budget.decisions]) for blocks in (1, 2, 6)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_a_machine_that_becomes_slow_half_way_changes_no_time(monkeypatch):
    """Four equal layers; the clock runs three times as fast from the fourth on."""
    pytest.importorskip("onnxruntime")
    clock, made, pace = [0.0], [], [1.0]
    took = {None: 1e-4, REFERENCE: 2e-3}

    def runner(shape, threads):
        made.append(shape)
        pace[0] = 1.0 if len(made) <= 5 else 3.0  # the reference, the empty network, three layers
        return lambda: clock.__setitem__(0, clock[0] + pace[0] * took.get(shape, 1e-3))

    monkeypatch.setattr(latency_process, "_runner", runner)
    monkeypatch.setattr(latency_process, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    seconds, _ = measure_here([LayerShape(4, size) for size in (1, 2, 3, 4)], threads=1)
    assert seconds == pytest.approx([1e-3 - 1e-4] * 4)


def test_layers_of_every_kind_can_be_measured():
    pytest.importorskip("onnxruntime")
    ones = (1, 1)
    padding = ((1, 1), (1, 1))
    shapes = [
        LayerShape(4, 6, (8, 8), (3, 3), (2, 2), ones, padding, groups=2),
        LayerShape(4, 6, (8, 8), (2, 2), (2, 2), ones, ((0, 0), (0, 0)), transposed=True),
        LayerShape(4, 4, (16,), (3,), (1,), (2,), ((2, 2),), groups=4),
        LayerShape(4, 6, rows=5),
    ]
    seconds, runtime = measure_here(shapes, threads=1)
    assert all(0 < taken < 1 for taken in seconds)
    assert runtime.startswith("onnxruntime ")


def test_a_layer_that_cannot_be_measured_is_an_error():
    pytest.importorskip("onnxruntime")
    _, graph, _ = traced("chain")
    with pytest.raises(ExportError, match="the layers cannot be measured"):
        measure_latency(graph, {"0": LayerShape(1, 8, (2, 2), (5, 5), (1, 1), (1, 1), ((0, 0), (0, 0)))}, points=1)
