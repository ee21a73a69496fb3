"""Networks of any task through every file: texts of any length, several inputs and outputs, a user's own task."""

import dataclasses
import json
from collections import namedtuple

import numpy as np
import pytest
import torch
from export import networks, texts
from export.ml_program import read_model
from export.texts import ESTIMATE, READ, SMALLER, VOCABULARY
from torch import nn

from orchestrator.data.dataset import About
from orchestrator.data.load import load_data
from orchestrator.decode import decode
from orchestrator.errors import ConfigError, DamagedError, ExportError
from orchestrator.export import ExampleInputs, load_packed, save_coreml, save_onnx, save_onnx_half, save_packed
from orchestrator.export.agreement import relative_error
from orchestrator.export.candidates import check_code, side_by_side, source_of, structure
from orchestrator.export.deploy import deploy
from orchestrator.export.describing import nesting_of
from orchestrator.export.example import observe
from orchestrator.export.measure import DataSource
from orchestrator.export.nesting import put_together
from orchestrator.export.onnx_file import run_onnx
from orchestrator.export.recorded_task import task_from_json
from orchestrator.field_json import as_json
from orchestrator.models.build import build_model
from orchestrator.nested import tensors_of
from orchestrator.objective import Objective
from orchestrator.pruning import fewer_channels
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import Classification, Regression, Tokens

onnx = pytest.importorskip("onnx")
FILES = ("packed", "packed-fp16", "packed-int8", "onnx", "onnx-fp16", "onnx-int8")
ARGUMENTS = {"vocabulary": VOCABULARY}


def exported(experiment, folder, formats=FILES):
    """Train an experiment and export its last round; return (its records, what was measured)."""
    ledger = Ledger(open_store(str(folder / "runs")))
    records = run(experiment, str(folder / "runs"))
    source = source_of(records, None)
    candidates = side_by_side(ledger, records[-1:], source.load(), source.load_task())
    return records, deploy(candidates, folder / "out", formats=formats, source=source)


def batch(samples, length, seed=0):
    """Return inputs of texts of one length, as the networks here take them."""
    ids = torch.randint(1, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(seed))
    return {"ids": ids, "mask": torch.ones(samples, length)}


def answers(module, inputs):
    with torch.no_grad():
        outputs = module(**inputs)
    return outputs["logits"].numpy() if isinstance(outputs, dict) else outputs[0].numpy()


@pytest.fixture(scope="module", params=["a GRU of masks", "layers with fewer channels"])
def read(request, tmp_path_factory):
    """(folder, records, what was measured) of a language model on padded texts, with half of its weights."""
    experiment = READ if "GRU" in request.param else dataclasses.replace(READ, **SMALLER)
    folder = tmp_path_factory.mktemp("read")
    return folder / "out", *exported(experiment, folder)


def test_the_objective_is_measured_through_every_file(read):
    _, records, found = read
    (facts,), record = found.networks, records[-1]
    assert facts.objective == Objective("bits_per_character", higher_is_better=False) == record.objective
    assert facts.metrics.keys() == {"loss", "bits_per_character", "perplexity", "accuracy"}
    for name, value in facts.metrics.items():
        assert value == pytest.approx(record.metrics[f"test_{name}"], rel=1e-5)
    assert [(artifact.format, artifact.objective) for artifact in found.artifacts] == [
        (name, record.objective) for name in FILES
    ]
    for artifact in found.artifacts:
        most = {"packed": 0, "onnx": 1e-5, "packed-int8": 0.1, "onnx-int8": 0.5}.get(artifact.format, 0.02)
        assert artifact.relative_error <= most
        assert 1 - most <= artifact.equal_predictions <= 1
        assert artifact.test == pytest.approx(facts.test, rel=max(1e-6, most))
        assert artifact.metrics.keys() == facts.metrics.keys()
        assert artifact.test_text == f"{artifact.test:.4g}"


def test_the_onnx_file_takes_texts_of_any_length_and_number(read):
    folder, records, found = read
    name = found.networks[0].name
    module = load_packed(folder / f"{name}.safetensors", model=records[0].settings["model"])
    model = onnx.load(str(folder / f"{name}.onnx"))
    axes = [(i.name, [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]) for i in model.graph.input]
    assert axes == [("ids", ["batch", "length"]), ("mask", ["batch", "length"])]
    for samples, length in ((1, 4), (3, 9), (5, 23)):
        inputs = batch(samples, length)
        got = run_onnx(folder / f"{name}.onnx", list(inputs.values()))[0]
        assert relative_error(got, answers(module, inputs)) < 1e-5


def test_every_file_says_what_goes_in_and_comes_out(read):
    folder, records, found = read
    name, smaller = found.networks[0].name, structure(records[-1]) == "channels"
    places = ["batch", "length"]
    inputs = [{"name": "ids", "dtype": "int64", "shape": places}, {"name": "mask", "dtype": "float32", "shape": places}]
    outputs = [{"name": "logits" if smaller else "output_0", "dtype": "float32", "shape": [*places, VOCABULARY]}]
    if not smaller:
        outputs.append({"name": "output_1", "dtype": "float32", "shape": [2, "batch", 12]})
    for ending in (".onnx", ".fp16.onnx", ".int8.onnx"):
        metadata = {
            each.key: json.loads(each.value) for each in onnx.load(str(folder / f"{name}{ending}")).metadata_props
        }
        assert metadata == {"inputs": inputs, "outputs": outputs}, "and nothing of labels, which there are none"
    for ending in (".safetensors", ".fp16.safetensors"):
        network = networks.described_in(folder / f"{name}{ending}")
        assert json.loads(network.interface.metadata()["inputs"]) == inputs
        assert json.loads(network.interface.metadata()["outputs"]) == outputs
        assert network.arguments == ARGUMENTS
        assert network.channels == records[-1].kept_channels
        assert bool(network.channels) == smaller


def test_what_is_removed_stays_removed(read):
    folder, records, found = read
    facts, record = found.networks[0], records[-1]
    module = load_packed(folder / f"{facts.name}.safetensors", model=record.settings["model"])
    if structure(record) == "channels":
        assert facts.parameters == record.channels["parameters"][0] < 0.55 * record.channels["parameters"][1]
        assert module.wide.out_features < 32
    else:
        assert sum(int(weight.count_nonzero()) for weight in module.memory.parameters()) < 0.75 * sum(
            weight.numel() for weight in module.memory.parameters()
        )
        kinds = {node.op_type for node in onnx.load(str(folder / f"{facts.name}.onnx")).graph.node}
        assert "GRU" in kinds, "one operator, not one step after the other"


@pytest.mark.parametrize(
    "layer",
    [
        nn.GRU(3, 5, num_layers=2, batch_first=True, bidirectional=True),
        nn.LSTM(3, 5, num_layers=2, batch_first=True, bidirectional=True, bias=False),
        nn.LSTM(3, 5, batch_first=True, dropout=0.0).double().float(),
        nn.RNN(3, 5, batch_first=True),
        nn.RNN(3, 5, batch_first=True, nonlinearity="relu", bidirectional=True),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{layer.num_layers}-{layer.bias}-{layer.bidirectional}",
)
def test_recurrent_layers_are_operators_with_the_same_outputs(tmp_path, layer):
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, steps, first):
            state = first.transpose(0, 1)
            outputs, last = self.layer(steps, (state, state) if isinstance(layer, nn.LSTM) else state)
            return outputs, last

    states = layer.num_layers * (2 if layer.bidirectional else 1)

    def given(samples, length):
        return torch.randn(samples, length, 3), torch.randn(samples, states, 5)

    module = Reader().eval()
    path = save_onnx(module, tmp_path / "n.onnx", ExampleInputs(given(2, 4), others=(given(2, 6),)))
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count(type(layer).__name__) == layer.num_layers
    for samples, length in ((1, 1), (3, 11)):
        inputs = given(samples, length)
        with torch.no_grad():
            outputs, last = module(*inputs)
        expected = [outputs, *(last if isinstance(last, tuple) else [last])]
        for got, other in zip(run_onnx(path, inputs), expected, strict=True):
            np.testing.assert_allclose(got, other.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_what_onnx_has_no_operator_for_keeps_its_length(tmp_path, kind):
    """A weight that is computed: torch.export writes one step after the other, which is of one length."""
    module = build_model("export.texts:recurrent", {"kind": kind}, ARGUMENTS, seed=0).eval()
    nn.utils.parametrizations.weight_norm(module.memory, "weight_hh_l0")
    path = save_onnx(module, tmp_path / "n.onnx", ExampleInputs(batch(2, 3)))
    assert relative_error(run_onnx(path, list(batch(4, 3).values()))[0], answers(module, batch(4, 3))) < 1e-5
    with pytest.raises(ExportError, match=r"Recurrent cannot be exported: .* here ids \(2, 3\), mask"):
        save_onnx(module, tmp_path / "n.onnx", ExampleInputs(batch(2, 3), others=(batch(2, 4),)))


def test_a_users_own_task_with_two_inputs_and_two_outputs(tmp_path):
    records, found = exported(ESTIMATE, tmp_path, ("packed", "onnx", "onnx-int8"))
    (facts,) = found.networks
    assert facts.objective == Objective("mae", higher_is_better=False)
    assert facts.metrics["loss"] == pytest.approx(records[-1].metrics["test_loss"], rel=1e-5)
    model = onnx.load(str(tmp_path / "out" / f"{facts.name}.onnx"))
    assert [each.name for each in model.graph.input] == ["left", "right"]
    assert [each.name for each in model.graph.output] == ["width", "mean"]
    for artifact in found.artifacts:
        exact = artifact.format != "onnx-int8"
        assert artifact.test == pytest.approx(facts.test, rel=1e-5 if exact else 0.2)
        assert artifact.relative_error < (1e-5 if exact else 0.2)
        assert artifact.equal_predictions is None, "of numbers"


def test_only_the_output_that_the_task_reads_must_agree():
    data = load_data("export.texts:pairs", {})
    module = build_model("export.texts:two_inputs", {}, {}, seed=0).eval()
    read = {task: observe(module, ExampleInputs.of(data, task)).call.read for task in (None, ESTIMATE.task)}
    assert read == {None: (0, 1), ESTIMATE.task: (1,)}
    recurrent = build_model("export.texts:recurrent", {}, ARGUMENTS, seed=0).eval()
    for task in (None, READ.task):
        assert observe(recurrent, ExampleInputs(batch(2, 3), task=task)).call.read == (0,)


def test_what_the_measuring_process_is_told_comes_back_as_it_was():
    """Nestings and the task go there as JSON."""
    data = load_data("export.texts:pairs", {})
    module = build_model("export.texts:two_inputs", {}, {}, seed=0).eval()
    call = observe(module, ExampleInputs.of(data, ESTIMATE.task)).call
    source = DataSource("export.texts:pairs", {}, None, as_json(ESTIMATE.task))
    for value in (call, source):
        assert decode(type(value), json.loads(json.dumps(dataclasses.asdict(value)))) == value
    assert source.load_task() == ESTIMATE.task


Pair = namedtuple("Pair", ["first", "second"])


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2),
        (torch.ones(2), [torch.zeros(3), None]),
        {"a": torch.ones(1), "b": {"c": (torch.zeros(2), "word", 3, 0.5, True)}},
        Pair(torch.ones(1), {"x": torch.zeros(1)}),
    ],
    ids=["tensor", "tuple", "dict", "named"],
)
def test_a_nesting_is_put_together_from_its_json(value):
    tensors = [tensor for _, tensor in tensors_of(value)]
    again = put_together(json.loads(json.dumps(nesting_of(value))), tensors)
    assert [name for name, _ in tensors_of(again)] == [name for name, _ in tensors_of(value)]
    assert all(one is other for (_, one), other in zip(tensors_of(again), tensors, strict=True))
    if isinstance(value, dict):
        assert again.b.c[1:] == ("word", 3, 0.5, True), "fields are attributes too"
    if isinstance(value, Pair):
        assert again.second.x is tensors[1]


def test_names_of_inputs_and_outputs(tmp_path):
    class Odd(nn.Module):
        def forward(self, table, *more):
            outputs = {"table": table["a b"] + table["a_b"], "1st": more[0] + 1}
            return outputs, outputs["1st"]

    inputs = ({"a b": torch.ones(2, 3), "a_b": torch.ones(2, 3)}, torch.ones(2, 3))
    interface = observe(Odd(), ExampleInputs(inputs)).call.interface
    assert [info.name for info in interface.inputs] == ["table_a_b", "table_a_b_2", "input_1"]
    assert [info.name for info in interface.outputs] == ["output_0_table", "output_0_1st", "output_1"]
    path = save_onnx(Odd(), tmp_path / "n.onnx", ExampleInputs(inputs))
    assert [each.name for each in onnx.load(str(path)).graph.input] == ["table_a_b", "table_a_b_2", "input_1"]


class SequenceToSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 8), nn.Linear(16, 9)
        self.encoder, self.decoder = nn.GRU(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)

    def forward(self, source, target):
        memory, state = self.encoder(self.words(source))
        steps, _ = self.decoder(self.words(target), state)
        attention = torch.softmax(steps @ memory.transpose(1, 2), -1) @ memory
        return self.head(torch.cat([steps, attention], -1))


def test_two_lengths_are_free_each_on_its_own(tmp_path):
    def given(samples, *lengths):
        ids = [torch.randint(9, (samples, length)) for length in lengths]
        return dict(zip(("source", "target"), ids, strict=True))

    example = ExampleInputs(given(2, 5, 4), others=(given(2, 7, 3), given(2, 6, 6)))
    module = SequenceToSequence().eval()
    interface = observe(module, example).call.interface
    assert [info.shape for info in interface.inputs] == [("batch", "length"), ("batch", "length_2")]
    assert interface.outputs[0].shape == ("batch", "length_2", 9)
    path = save_onnx(module, tmp_path / "n.onnx", example)
    for inputs in (given(1, 9, 2), given(4, 1, 8)):
        with torch.no_grad():
            assert relative_error(run_onnx(path, list(inputs.values()))[0], module(**inputs).numpy()) < 1e-5


class Object:
    def __init__(self, logits) -> None:
        self.logits = logits


class Flagged(nn.Module):
    """Returns what `make` makes of logits."""

    def __init__(self, make) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(3, 4), make

    def forward(self, x, factor=1):
        return self.make(self.layer(x) * factor)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (Object, ["logits"]),
        (lambda logits: {"x": logits, "cache": None}, ["x_2"]),
        (lambda logits: (logits, logits), ["output_0", "output_1"]),
        (lambda logits: logits.argmax(1), ["output"]),
        (lambda logits: [logits, {"large": logits > 0}], ["output_0", "output_1_large"]),
    ],
    ids=["object", "a name twice", "a tensor twice", "whole numbers", "nested"],
)
def test_outputs_of_any_form(tmp_path, make, names):
    module, x = Flagged(make).eval(), torch.randn(3, 3)
    path = save_onnx(module, tmp_path / "n.onnx", ExampleInputs({"x": x, "factor": 2}))
    assert [each.name for each in onnx.load(str(path)).graph.output] == names
    expected = observe(module, ExampleInputs({"x": x, "factor": 2})).outputs[0]
    for got, other in zip(run_onnx(path, [x]), expected, strict=True):
        assert got.dtype == other.dtype
        np.testing.assert_allclose(got, other, rtol=1e-5)


def test_values_beside_the_tensors_are_constants(tmp_path):
    module, x = Flagged(lambda logits: logits).eval(), torch.randn(2, 3)
    others = ({"x": x, "factor": 3},)
    with pytest.raises(ExportError, match="inputs must be nested alike in every batch, with equal values beside the"):
        save_onnx(module, tmp_path / "n.onnx", ExampleInputs({"x": x, "factor": 2}, others=others))


# Library use, without data.


def test_a_network_with_fewer_channels_that_reads_tokens(tmp_path):
    """Of a batch of ids alone: nothing is drawn, and no other ids would do."""
    module = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    ids = torch.tensor([[0, 3, 1], [2, 2, 3]])
    smaller, kept = fewer_channels(module, ids, 0.5)
    assert smaller[1].out_features == 16
    path = save_onnx(smaller, tmp_path / "n.onnx", ExampleInputs(ids, others=(ids[:, :2],), about=About(tuple("acgt"))))
    half = save_onnx_half(path, tmp_path / "half.onnx")
    for file, error in ((path, 1e-5), (half, 0.01)):
        with torch.no_grad():
            assert relative_error(run_onnx(file, [ids.repeat(2, 4)])[0], smaller(ids.repeat(2, 4)).numpy()) < error
        assert onnx.load(str(file)).graph.input[0].name == "input"
    assert kept


def test_one_sample_is_enough_and_none_is_not(tmp_path):
    module = build_model("export.texts:feed_forward", {}, ARGUMENTS, seed=0).eval()
    path = save_onnx(module, tmp_path / "n.onnx", ExampleInputs(batch(1, 5)))
    assert run_onnx(path, list(batch(7, 5).values()))[0].shape == (7, 5, VOCABULARY)
    with pytest.raises(ExportError, match="example must hold tensors whose first dimension counts samples, got none"):
        save_onnx(module, tmp_path / "n.onnx", ExampleInputs(batch(0, 5)))


def test_other_inputs_than_those_of_the_network_are_one_sentence(tmp_path):
    module = build_model("export.texts:feed_forward", {}, ARGUMENTS, seed=0).eval()
    for inputs, words in (
        (
            {"ids": torch.full((2, 3), VOCABULARY), "mask": torch.ones(2, 3)},
            r"inputs of shape ids \(2, 3\), mask .*range",
        ),
        ({"words": torch.ones(2, 3)}, r"does not take inputs of shape words \(2, 3\) \(TypeError"),
        (torch.ones(2, 3), r"does not take inputs of shape \(2, 3\) \(TypeError"),
    ):
        with pytest.raises(ExportError, match=f"FeedForward cannot be exported: .*{words}") as caught:
            save_onnx(module, tmp_path / "n.onnx", ExampleInputs(inputs))
        assert "\n" not in str(caught.value)
    other = {"ids": torch.zeros(2, 1, 3).long(), "mask": torch.ones(2, 3)}
    with pytest.raises(ExportError, match=r"ids must have as many dimensions in every batch, got \[2, 3\]"):
        save_onnx(Squeezed(module), tmp_path / "n.onnx", ExampleInputs(batch(2, 3), others=(other,)))
    assert list(tmp_path.iterdir()) == []


class Squeezed(nn.Module):
    def __init__(self, module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids, mask):
        return self.module(ids.reshape(len(ids), -1), mask)


def test_formats_of_one_size_say_so(tmp_path):
    pytest.importorskip("coremltools")
    module = build_model("export.texts:feed_forward", {}, ARGUMENTS, seed=0).eval()
    path = save_coreml(module, tmp_path / "n.mlpackage.zip", ExampleInputs(batch(2, 5)))
    (tmp_path / "unzipped").mkdir()
    spec = read_model(path, tmp_path / "unzipped").get_spec().description
    kinds = {each.name: each.type.multiArrayType for each in spec.input}
    assert {name: list(kind.shape) for name, kind in kinds.items()} == {"ids": [1, 5], "mask": [1, 5]}
    assert kinds["ids"].dataType != kinds["mask"].dataType
    assert [each.name for each in spec.output] == ["logits"]
    assert "labels" not in spec.metadata.userDefined
    assert json.loads(spec.metadata.userDefined["inputs"])[0] == {
        "name": "ids",
        "dtype": "int64",
        "shape": ["batch", 5],
    }
    with pytest.raises(
        ExportError, match="the sizes of its inputs must be fixed in such a file, but ids has length free"
    ):
        save_coreml(module, path, ExampleInputs(batch(2, 5), others=(batch(2, 6),)))


def test_a_text_model_is_packed_with_its_arguments(tmp_path):
    module = build_model("export.texts:recurrent", {}, ARGUMENTS, seed=0).eval()
    example = ExampleInputs(batch(2, 5), others=(batch(2, 6),))
    path = save_packed(module, tmp_path / "n", model="export.texts:recurrent", arguments=ARGUMENTS, example=example)
    again = load_packed(path, model="export.texts:recurrent")
    assert np.array_equal(answers(again, batch(3, 7)), answers(module, batch(3, 7)))
    with pytest.raises(ConfigError, match="does not fit the options"):
        save_packed(module, tmp_path / "m", model="export.texts:recurrent", example=example)


# Tasks from records.


@pytest.mark.parametrize(
    "task",
    [Classification(), Classification(label_smoothing=0.1), Classification(label_smoothing=0), Regression(),
     Tokens(ignore=3, unit="phone"), texts.Uncertain(weights=(0.5, 2.0)),
     texts.Weighted(even=texts.Even(2.0), weighting=texts.Rising((3,), texts.Even(0.5)),
                    more=(texts.Rising(), texts.Even(4.0)))],
    ids=repr,
)  # fmt: skip
def test_a_task_comes_back_from_its_record(task):
    assert task_from_json(json.loads(json.dumps(as_json(task)))) == task


@pytest.mark.parametrize(
    ("value", "got"), [(texts.Even(), "'Any' for Even"), ((1, (texts.Even(),)), "'Any' for Even")], ids=repr
)
def test_a_part_of_a_task_whose_class_no_annotation_names_is_refused_before_training(value, got):
    with pytest.raises(ConfigError, match="task.unclear must be annotated with the class of its value, .* got " + got):
        dataclasses.replace(ESTIMATE, task=texts.Weighted(unclear=value))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Tokens", "a record's task must be an object with its type, got 'Tokens'"),
        ({"ignore": 1}, "a record's task must be an object with its type"),
        ({"type": 3}, "a record's task must be an object with its type"),
        ({"type": "Metric"}, "a record's task must be one of Classification, Regression, .* got 'Metric'"),
        ({"type": "Tokens", "ignore": "x", "unit": "token"}, "cannot be built: ConfigError: Tokens.ignore must be"),
        ({"type": "Tokens", "ignored": 1}, "cannot be built: TypeError: .*unexpected keyword argument 'ignored'"),
        ({"type": "Tokens", "ignore": 1}, "is another one here, .*: its class has changed"),
        ({"type": "Classification", "label_smoothing": True}, "cannot be built: ConfigError"),
    ],
)  # fmt: skip
def test_a_task_that_is_none_is_damage(value, words):
    with pytest.raises(DamagedError, match=words):
        task_from_json(value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os.mkdir", "task 'os:mkdir' must name a dataclass, got <built-in function mkdir>"),
        ("export.texts.Nothing", "'Nothing' does not exist in module export.texts"),
        ("__main__.Mine", "task '__main__:Mine' is of the script that trained the round: put it into a module"),
    ],
)
def test_a_class_that_is_no_task_is_one_sentence(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        task_from_json({"type": name, "path": "made"})
    assert list(tmp_path.iterdir()) == []


def test_a_task_of_the_users_runs_only_if_it_is_trusted(tmp_path):
    (record, *_) = run(dataclasses.replace(ESTIMATE, training=dataclasses.replace(ESTIMATE.training, epochs=1)),
                       str(tmp_path))  # fmt: skip
    trusted = ["export.texts:two_inputs", "export.texts:pairs"]
    with pytest.raises(ConfigError, match=r"names a class for its task, 'export\.texts:Uncertain': pass --trust exp"):
        check_code([record], trusted)
    check_code([record], [*trusted, "export.texts:Uncertain"])
    hostile = dataclasses.replace(record, settings={**record.settings, "task": {"type": "os.mkdir", "path": "made"}})
    with pytest.raises(ConfigError, match="names a class for its task, 'os:mkdir'"):
        check_code([hostile], [*trusted, "export.texts:Uncertain"])
