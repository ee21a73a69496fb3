"""Every file measured through itself, from a ledger to deploy.json and the page."""

import copy
import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from export import networks
from report.synthetic import path_of

from orchestrator import Amc
from orchestrator.__main__ import main
from orchestrator.errors import ConfigError, DamagedError, DataError, ExportError
from orchestrator.export import ExampleInputs, load_packed, save_packed
from orchestrator.export.arrays import save_arrays
from orchestrator.export.candidates import (
    candidate,
    check_code,
    dense_round,
    find_round,
    side_by_side,
    source_of,
    structure,
    with_dense,
)
from orchestrator.export.deploy import FORMATS, Candidate, deploy
from orchestrator.export.example import observe
from orchestrator.export.measure import DataSource, measure, measure_here
from orchestrator.export.proof import ExportedNetworks
from orchestrator.export.runtimes import Code, not_run
from orchestrator.field_json import as_json
from orchestrator.pruning import AtMost, Channels, Filters, Geometric, Global, Layerwise, NofM, OneShot
from orchestrator.report.chapters.exported import recommended_rounds
from orchestrator.runner import run
from orchestrator.schedules import StepDecay
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import Classification
from orchestrator.training.state import model_tensors

TRUST = ["--trust", "tiny:model", "--trust", "tiny:data"]
SOURCE = DataSource("tiny:data", {}, None, as_json(Classification()))
DATA = SOURCE.load()
TINY = ExampleInputs.of(DATA)
TINY_ARGUMENTS = dict(DATA.model_arguments)
WITH_EXECUTORCH = importlib.util.find_spec("executorch") is not None
EXTRAS = {"pte": ("executorch", "mobile"), "coreml": ("coremltools", "coreml")}  # package, extra


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A finished path: a dense round and three pruned ones."""
    folder = tmp_path_factory.mktemp("runs")
    run(tiny.EXPERIMENT, str(folder))
    return folder


@pytest.fixture(scope="module")
def ledger(storage):
    return Ledger(open_store(str(storage)))


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """(storage, its ledger): a path of masks and one of channels, which share their dense round."""
    folder = tmp_path_factory.mktemp("smaller")
    training = dataclasses.replace(tiny.EXPERIMENT.training, epochs=8, schedule=StepDecay(0.05, drops=(6,)))
    masked = dataclasses.replace(tiny.EXPERIMENT, training=training, path=Geometric(0.3, rounds=1))
    run(masked, str(folder))
    selection = Channels(round_to=2)
    run(dataclasses.replace(masked, name="fewer", selection=selection, path=OneShot(0.5)), str(folder))
    return folder, Ledger(open_store(str(folder)))


@pytest.fixture(scope="module")
def exported(storage, ledger, tmp_path_factory):
    """(folder, printed lines) of the command for the last round."""
    folder = tmp_path_factory.mktemp("deploy") / "new"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *args, **options: printed.append(" ".join(map(str, args))))
        assert (
            main(["export", str(storage), *TRUST, "--out", str(folder), "--round", ledger.records()[-1].key[:9]]) == 0
        )
    return folder, printed


def accuracy_of(path, data):
    module = load_packed(path, model="tiny:model")
    images, labels = data.test.tensors
    with torch.inference_mode():
        return float((module(images).argmax(1) == labels).double().mean())


def test_every_network_in_every_format(exported, ledger):
    folder, printed = exported
    deployment = ExportedNetworks.load(folder)
    dense, pruned = ledger.records()[0], ledger.records()[-1]
    assert [facts.origin["key"] for facts in deployment.networks] == [dense.key, pruned.key]
    assert [facts.name for facts in deployment.networks] == ["dense", "unstructured"]
    formats = [name for name in FORMATS if name not in EXTRAS or importlib.util.find_spec(EXTRAS[name][0])]
    assert [(a.network, a.format) for a in deployment.artifacts] == [
        (network, name) for network in ("dense", "unstructured") for name in formats
    ]
    for facts, record in zip(deployment.networks, (dense, pruned), strict=True):
        assert facts.test == record.metrics["test_accuracy"] == facts.origin["test"]
        assert facts.metrics["loss"] == pytest.approx(record.metrics["test_loss"], rel=1e-5)
        assert facts.objective == record.objective
        never_pruned = 8 + 8 + 8 + 3  # biases and norms
        assert facts.parameters == record.prunable + never_pruned
        assert facts.nonzero == record.kept + never_pruned
        assert (facts.macs, facts.macs == facts.effective_macs) == (36 * 72 + 96, record.round == 0)
        assert facts.raw_bytes == 4 * (facts.parameters + 2 * 8) + 8
    for artifact in deployment.artifacts:
        blob = (folder / artifact.file).read_bytes()
        assert (hashlib.sha256(blob).hexdigest(), len(blob)) == (artifact.sha256, artifact.bytes)
        assert artifact.download_bytes <= artifact.bytes
        assert any(line.startswith(f"written: {folder / artifact.file}: ") for line in printed)
        assert (artifact.speed is None) == (not_run(folder / artifact.file) is not None)
    for artifact, speed in deployment.measured:
        assert 0 < speed.latency_p50 <= speed.latency_p90
        assert speed.load_seconds > 0
        assert speed.peak_bytes >= speed.base_bytes > 10**7
        assert (speed.threads, speed.warm_up, speed.runs, speed.sparse_kernels) == (1, 10, 100, False)
        assert speed.processor
        named = {"packed": "torch ", "onnx": "onnxruntime ", "pte": "executorch "}[artifact.format.split("-")[0]]
        assert speed.runtime.startswith(named)
    for skipped in deployment.skipped:
        assert f"'.[{EXTRAS[skipped.format][1]}]'" in skipped.reason


def test_what_is_whole_is_exported_beside_what_is_damaged(storage, ledger, tmp_path, capsys):
    shutil.copytree(storage, tmp_path / "runs")
    damaged = tmp_path / f"runs/rounds/{ledger.records()[-1].key}/record.json"
    damaged.write_text("{")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "runs"), *TRUST, "--out", str(out), "--formats", "packed"]) == 1
    assert ExportedNetworks.load(out).networks[0].name == "dense"
    told = capsys.readouterr().err
    assert f"error: rounds/{damaged.parent.name}/record.json" in told
    assert told.splitlines()[-1].startswith("error: the networks were chosen without what is damaged: restore it")


def test_accuracy_is_that_of_the_file(exported):
    folder, _ = exported
    by_name = {(a.network, a.format): a for a in ExportedNetworks.load(folder).artifacts}
    for network in ("dense", "unstructured"):
        packed = by_name[network, "packed"]
        assert packed.test == accuracy_of(folder / packed.file, DATA)
        assert packed.relative_error == 0
        assert by_name[network, "onnx"].test == packed.test
        assert by_name[network, "onnx"].relative_error < 1e-5
        for name in ("packed-fp16", "packed-int8", "onnx-fp16", "onnx-int8"):
            assert 1e-6 < by_name[network, name].relative_error < 0.5


def test_a_process_of_its_own_measures_an_onnx_file_without_torch(exported, tmp_path):
    folder, _ = exported
    found = {}
    call, sample = observe(tiny.model(3, (1, 6, 6)).eval(), TINY).call, [DATA.test.tensors[0][:1].numpy()]
    save_arrays(tmp_path / "0.npz", [np.ones((31, 3), np.float32)])
    for name in ("unstructured.safetensors", "unstructured.onnx"):
        apart, here = (
            way(folder / name, call, sample, SOURCE, expected=tmp_path, code=Code("tiny:model"))
            for way in (measure, measure_here)
        )
        assert (apart.speed.runtime, apart.speed.runs) == (here.speed.runtime, here.speed.runs)
        assert apart.metrics == here.metrics
        assert apart.relative_error == here.relative_error > 0.1
        assert apart.finite
        found[name] = apart.speed.base_bytes
    assert found["unstructured.onnx"] < 0.5 * found["unstructured.safetensors"]


def test_the_page_shows_it(exported, storage, tmp_path):
    folder, _ = exported
    page = (folder / "report.html").read_text()
    assert "Exported files" in page
    for artifact in ExportedNetworks.load(folder).artifacts:
        assert f" download>{artifact.file}</a></td>" in page
        assert artifact.sha256[:12] in page
    assert "effective MACs (not realised)" in page
    assert (folder / "deploy-download.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(storage), "--out", str(tmp_path)]) == 0
    assert 'id="deployed"' not in (tmp_path / "report.html").read_text()


def test_dense_masked_and_smaller_networks_side_by_side(smaller, tmp_path, capsys):
    storage, ledger = smaller
    rounds = {structure(record): record for record in ledger.records()}
    chosen = [part for name in ("unstructured", "channels") for part in ("--round", rounds[name].key[:12])]
    assert main(["export", str(storage), *TRUST, "--out", str(tmp_path), *chosen, "--formats", "packed", "onnx"]) == 0
    printed = capsys.readouterr().out
    found = ExportedNetworks.load(tmp_path)
    dense, masked, fewer = found.networks
    assert [facts.name for facts in found.networks] == ["dense", "unstructured", "channels"]
    assert [facts.origin["key"] for facts in found.networks] == [rounds[facts.name].key for facts in found.networks]
    channels = rounds["channels"].channels
    assert fewer.origin["channels"] == {name: channels[name] for name in ("unit", "macs", "parameters")}
    assert [masked.origin["channels"], dense.origin["channels"]] == [None, None]
    assert [fewer.macs, dense.macs] == channels["macs"]
    assert [fewer.parameters, dense.parameters] == channels["parameters"]
    assert (masked.macs, masked.parameters) == (dense.macs, dense.parameters)
    assert fewer.effective_macs == fewer.macs <= 0.5 * dense.macs
    assert masked.effective_macs < masked.macs
    assert f"{channels['macs'][0]:,} of {channels['macs'][1]:,} MACs" in printed
    by_name = {(artifact.network, artifact.format): artifact for artifact in found.artifacts}
    for name, record in rounds.items():
        facts = next(facts for facts in found.networks if facts.name == name)
        assert facts.test == record.metrics["test_accuracy"] == by_name[name, "packed"].test
        assert by_name[name, "onnx"].test == facts.test
        assert by_name[name, "packed"].relative_error == 0
    kept = networks.described_in(tmp_path / "channels.safetensors").channels
    assert kept == channels["kept"]
    module = load_packed(tmp_path / "channels.safetensors", model="tiny:model")
    stored = ledger.load(rounds["channels"])[0].model
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model_tensors(module).items())
    assert by_name["channels", "onnx"].bytes < by_name["unstructured", "onnx"].bytes
    page = (tmp_path / "report.html").read_text()
    assert all(f" download>{name}.onnx</a></td>" in page for name in rounds)


def test_masks_and_channels_are_each_recommended():
    masked, fewer = path_of("fine-tuning", 0, 4, epochs=1), path_of("learning-rate-rewinding", 0, 4, epochs=1)
    fewer = [dataclasses.replace(r, channels={"unit": "macs"}) if r.round else r for r in fewer]
    found = recommended_rounds(masked + fewer)
    assert found == [*recommended_rounds(masked), *recommended_rounds(fewer)]
    assert all(record.round for record in found)
    assert recommended_rounds(fewer) == found[1:]
    assert [record.round for record in recommended_rounds([masked[0], *fewer[:1]])] == [0]
    assert recommended_rounds([masked[0], *fewer]) == found[1:], "the dense network stands beside it anyhow"


@pytest.mark.parametrize(
    ("selection", "name"),
    [
        (Global(), "unstructured"),
        (Layerwise(), "unstructured"),
        (NofM(), "n-of-m"),
        (Filters(), "filters"),
        (Channels(), "channels"),
        (Amc(), "channels"),
        (Amc(mode="weights"), "unstructured"),
        (Amc(mode="weights", pattern=AtMost(2)), "n-of-m"),
    ],
)
def test_a_network_is_named_after_what_was_removed(ledger, selection, name):
    record = ledger.records()[1]
    settings = {**record.settings, "selection": as_json(selection)}
    assert structure(dataclasses.replace(record, settings=settings)) == name
    assert structure(dataclasses.replace(record, settings=settings, round=0)) == "dense"
    assert structure(dataclasses.replace(record, settings={"selection": {"type": "mine.Own"}})) == "pruned"


def test_two_networks_of_one_kind_have_their_keys_behind_their_names(ledger):
    dense, first, second, _ = ledger.records()
    networks = side_by_side(ledger, with_dense(ledger, [first, second, first, dense]), DATA, Classification())
    assert [network.name for network in networks] == [
        "dense", f"unstructured-{first.key[:12]}", f"unstructured-{second.key[:12]}"
    ]  # fmt: skip


def test_a_record_whose_channels_do_not_fit_is_damage_that_names_the_file(smaller):
    ledger = smaller[1]
    record = next(record for record in ledger.records() if record.channels)
    for kept, words in (({"0": {"out": [8]}}, "must ascend within 0..7"), ({"0": {"out": [0]}}, "is of another")):
        wrong = dataclasses.replace(record, channels={**record.channels, "kept": kept})
        with pytest.raises(DamagedError, match=words) as caught:
            candidate("channels", ledger, wrong, DATA, TINY)
        assert record.key[:12] in str(caught.value)


def test_the_recommended_round_is_the_default(storage, tmp_path, capsys):
    assert main(["export", str(storage), *TRUST, "--out", str(tmp_path), "--formats", "packed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = next(line.split()[1] for line in lines if line.strip().startswith("*"))
    assert f"round {marked}, " in lines[0]
    assert sorted(file.name for file in tmp_path.glob("*.safetensors"))[0] == "dense.safetensors"


# What is wrong.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--round", "zz"], "--round must be the beginning of a round's key, got 'zz'"),
        (["--round", ""], "--round must be the beginning of one key, got '', which 4 have"),
        (
            ["--formats", "packed", "gif"],
            "a format must be one of packed, packed-fp16, packed-int8, onnx, onnx-fp16, onnx-int8, pte, coreml",
        ),
    ],
)
def test_wrong_flags_are_one_sentence(storage, tmp_path, capsys, args, words):
    assert main(["export", str(storage), *TRUST, "--out", str(tmp_path), *args]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {words}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(WITH_EXECUTORCH, reason="executorch is here")
def test_a_format_that_was_asked_for_must_be_there(storage, tmp_path, capsys):
    assert main(["export", str(storage), *TRUST, "--out", str(tmp_path), "--formats", "pte"]) == 1
    assert "pip install -e '.[mobile]'" in capsys.readouterr().err


def test_a_storage_does_not_decide_which_code_runs(storage, ledger, tmp_path, capsys):
    record = ledger.records()[0]
    hostile = dataclasses.replace(record, settings={**record.settings, "data": "os:mkdir"})
    for records, flags in (
        ([hostile], "--trust tiny:model --trust os:mkdir"),
        ([record, hostile], "--trust tiny:model --trust tiny:data --trust os:mkdir"),
    ):
        with pytest.raises(ConfigError, match=f"names a function for its data, 'os:mkdir': pass {flags} if"):
            check_code(records, ["tiny:model", "tiny:data"])
    check_code([hostile], ["tiny:model", "os:mkdir"])
    of_script = dataclasses.replace(record, settings={**record.settings, "model": "__main__:model"})
    with pytest.raises(ConfigError, match="'__main__:model', which a command cannot import: use load\\(\\) there"):
        check_code([of_script], ["__main__:model", "tiny:data"])
    check_code([of_script], ["__main__:model", "tiny:data"], in_python=True)
    for package in ("torchvision", "timm"):
        settings = {"model": f"{package}:resnet18", "data": "digits", "task": as_json(Classification())}
        check_code([dataclasses.replace(record, settings=settings)])
        settings |= {"model": "resnet8", "data": f"{package}:create_model"}
        with pytest.raises(ConfigError, match="names a function for its data"):
            check_code([dataclasses.replace(record, settings=settings)])
    model, data = "a function for its model, 'tiny:model'", "a function for its data, 'tiny:data'"
    way_out = "pass --trust tiny:model --trust tiny:data if that is code of yours that may run here\n"
    for flags, words in (
        ([], f"{model}, and {data}"),
        (["--trust", "tiny:data"], model),
        (["--trust", "tiny:model"], data),
    ):
        assert main(["export", str(storage), *flags, "--out", str(tmp_path / "out")]) == 1
        assert capsys.readouterr().err.endswith(f"names {words}: {way_out}")
    assert not (tmp_path / "out").exists()


def test_other_data_is_refused(ledger):
    other = dataclasses.replace(SOURCE, options={"samples": 90}).load()
    with pytest.raises(DataError, match="was trained on other data"):
        candidate("dense", ledger, ledger.records()[0], other, TINY)


def test_rounds_of_two_data_sets_are_not_put_side_by_side(ledger):
    first, second = ledger.records()[:2]
    other = dataclasses.replace(second, settings={**second.settings, "data_options": {"samples": 90}})
    assert source_of([first, second], None) == SOURCE
    words = r"must have the same data and task, got 'tiny:data' for 'Classification' and, for \w+, 'tiny:data' for '"
    with pytest.raises(ConfigError, match=words):
        source_of([first, other], None)
    settings = {**second.settings, "task": as_json(Classification(label_smoothing=0.5))}
    with pytest.raises(ConfigError, match=words):
        source_of([first, dataclasses.replace(second, settings=settings)], None)


def test_a_missing_parent_is_told(ledger):
    record = dataclasses.replace(ledger.records()[-1], parent="f" * 64)
    with pytest.raises(DamagedError, match=r"rounds/f+/record.json, the parent of"):
        dense_round(ledger, record)


def test_a_round_is_found_by_the_beginning_of_its_key(ledger):
    records = ledger.records()
    assert find_round(records, records[2].key[:10]) is records[2]
    with pytest.raises(ConfigError, match="which 4 have"):
        find_round(records, "")


def test_a_file_that_does_something_else_is_found_out(tmp_path, monkeypatch):
    """As if the exporter had lost a sign somewhere."""
    given = Candidate("n", tiny.model(3, (1, 6, 6)).eval(), "tiny:model", {}, TINY, TINY_ARGUMENTS)

    def wrong(network, path, **options):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other[0].weight.neg_()
        return save_packed(other, path, **options)

    monkeypatch.setattr("orchestrator.export.deploy.save_packed", wrong)
    with pytest.raises(
        ExportError, match=r"n\.safetensors does not do what the network does: it differs by .* allowed"
    ):
        deploy([given], tmp_path, formats=["packed"], source=SOURCE)
    assert list(tmp_path.iterdir()) == [], "nobody takes it for good"


def test_a_file_that_does_not_run(tmp_path):
    (tmp_path / "n.onnx").write_bytes(b"no model")
    call, sample = observe(networks.tied(4), networks.GREY).call, [networks.images(1).numpy()]
    with pytest.raises(ExportError, match=r"n\.onnx does not run: "):
        measure(tmp_path / "n.onnx", call, sample)
    with pytest.raises(ExportError, match=r"a file to run must end in one of \.safetensors, \.onnx, \.pte"):
        measure(tmp_path / "n.gif", call, sample)


def test_a_network_in_16_bits_is_measured(tmp_path):
    module = networks.in_16_bits(4)
    given = Candidate("n", module, "export.networks:in_16_bits", {}, networks.GREY, networks.ARGUMENTS)
    (facts,) = deploy([given], tmp_path, formats=["packed"]).networks
    assert (facts.macs, facts.raw_bytes) == (4 * 192, 2 * 4 * 192)
    assert module[0].weight.dtype == torch.bfloat16


def test_without_data_nothing_is_said_of_the_objective(tmp_path):
    told = []
    given = Candidate("n", networks.tied(4), "export.networks:tied", {}, networks.GREY, networks.ARGUMENTS)
    found = deploy([given], tmp_path, formats=["packed", "onnx-int8"], on_artifact=told.append)
    assert [(a.test, a.relative_error, a.metrics) for a in found.artifacts] == [(None, None, {})] * 2
    assert tuple(told) == found.artifacts
    assert found.networks[0].parameters == 192 * 192 + 2 * 192 + 192 * 4 + 4, "a shared weight counts once"
    assert ExportedNetworks.load(tmp_path) == found


def test_another_export_into_a_folder_leaves_no_file_of_the_earlier_one(tmp_path):
    """And takes nothing else away: no file of the user's, though deploy.json names it or it has another's name."""
    folder = tmp_path / "out"
    earlier = Candidate("old", networks.tied(4), "export.networks:tied", {}, networks.GREY, networks.ARGUMENTS)
    deploy([earlier], folder, formats=["packed", "packed-fp16"])
    (folder / "old.fp16.safetensors").write_bytes(b"the user's own by now")
    (folder / "old.onnx").write_bytes(b"the user's own")
    (tmp_path / "secret").write_bytes(b"elsewhere")
    said = json.loads((folder / "deploy.json").read_text())
    digest = hashlib.sha256(b"elsewhere").hexdigest()
    for file in ("../secret", str(tmp_path / "secret"), ".."):
        said["artifacts"].append({**said["artifacts"][0], "file": file, "sha256": digest})
    (folder / "deploy.json").write_text(json.dumps(said))
    deploy([dataclasses.replace(earlier, name="new")], folder, formats=["packed"])
    left = ["deploy.json", "new.safetensors", "old.fp16.safetensors", "old.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == left
    assert (tmp_path / "secret").exists()
    (folder / "deploy.json").write_text("{")
    deploy([earlier], folder, formats=["packed"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*left, "old.safetensors"])


def test_what_cannot_be_exported_is_left_out_with_its_reason(tmp_path):
    given = Candidate("n", networks.data_flow(4), "export.networks:data_flow", {}, networks.GREY, networks.ARGUMENTS)
    (tmp_path / "n.onnx").write_bytes(b"of an earlier run")
    (tmp_path / "n.int8.onnx").mkdir()
    found = deploy([given], tmp_path)
    assert not (tmp_path / "n.onnx").exists()
    assert (tmp_path / "n.int8.onnx").is_dir()
    assert [a.format for a in found.artifacts] == ["packed", "packed-fp16", "packed-int8"]
    assert {s.format for s in found.skipped} >= {"onnx", "onnx-fp16", "onnx-int8"}
    assert all("cannot be exported" in s.reason for s in found.skipped if s.format not in EXTRAS)
    with pytest.raises(ExportError, match="DataFlow cannot be exported"):
        deploy([given], tmp_path, formats=["packed", "onnx"])


def test_a_file_that_answers_nan_is_left_out_with_its_reason(tmp_path, monkeypatch):
    """As if a converter had overflown."""
    onnx = pytest.importorskip("onnx")

    def overflown(source, path):
        model = onnx.load(str(source))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, str(path))
        return path

    monkeypatch.setattr("orchestrator.export.deploy.save_onnx_half", overflown)
    given = Candidate("n", tiny.model(3, (1, 6, 6)), "tiny:model", {}, TINY, TINY_ARGUMENTS)
    found = deploy([given], tmp_path, source=SOURCE)
    assert {"packed", "onnx"} <= {a.format for a in found.artifacts}
    (reason,) = [s.reason for s in found.skipped if s.format == "onnx-fp16"]
    assert reason == "n.fp16.onnx answers NaN or infinity to test samples, which its network does not"
    assert not (tmp_path / "n.fp16.onnx").exists()
    with pytest.raises(ExportError, match=r"n\.fp16\.onnx answers NaN or infinity"):
        deploy([given], tmp_path, formats=["onnx-fp16"], source=SOURCE)


def test_a_network_that_answers_nan_or_has_no_values_is_told(tmp_path):
    module = tiny.model(3, (1, 6, 6)).eval()
    next(module.parameters()).data.fill_(float("nan"))
    given = Candidate("n", module, "tiny:model", {}, TINY, TINY_ARGUMENTS)
    with pytest.raises(ExportError, match="the network answers NaN or infinity to its example"):
        deploy([given], tmp_path, formats=["packed"], source=SOURCE)
    with pytest.raises(ExportError, match="has no values to write"):
        deploy([dataclasses.replace(given, module=module.to("meta"))], tmp_path, formats=["packed"])


def test_litert_is_refused_with_its_reason(tmp_path):
    given = Candidate("n", networks.tied(4), "export.networks:tied", {}, networks.GREY, networks.ARGUMENTS)
    with pytest.raises(ExportError, match="LiteRT files are not written: its converter wants an older torch"):
        deploy([given], tmp_path, formats=["packed", "litert"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_told_before_anything_is_measured(storage, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nope")):
        assert main(["export", str(storage), *TRUST, "--out", str(out)]) == 1
        said = f"error: --out must be a folder that can be written to, got '{out}' ("
        assert capsys.readouterr().err.startswith(said)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_no_page_of_other_files(tmp_path):
    good = Candidate("n", networks.tied(4), "export.networks:tied", {}, networks.GREY, networks.ARGUMENTS)
    deploy([good], tmp_path, formats=["packed", "packed"])
    assert len(ExportedNetworks.load(tmp_path).artifacts) == 1, "asked for twice, made once"
    bad = dataclasses.replace(good, module=networks.data_flow(4), model="export.networks:data_flow")
    with pytest.raises(ExportError, match="DataFlow cannot be exported"):
        deploy([bad], tmp_path, formats=["packed", "onnx"])
    assert ExportedNetworks.load(tmp_path) is None


def test_a_record_that_does_not_say_what_it_is_of(ledger):
    record = dataclasses.replace(ledger.records()[1], settings={})
    for ask in (lambda r: source_of([r], None), structure, lambda r: candidate("n", ledger, r, DATA, TINY)):
        with pytest.raises(DamagedError, match=r"rounds/\w+/record.json does not say the (data|selection|model)"):
            ask(record)


def test_from_s3_to_files(storage, s3_uri, tmp_path, capsys):
    here, there = open_store(str(storage)), open_store(s3_uri)
    for file in here.list(""):
        there.write(file, here.read(file))
    keys = [record.key for record in Ledger(there).records()]
    arguments = ["--out", str(tmp_path), "--round", keys[-1][:12], "--formats", "packed"]
    assert main(["export", s3_uri, *TRUST, *arguments]) == 0
    found = ExportedNetworks.load(tmp_path)
    assert [facts.origin["key"] for facts in found.networks] == [keys[0], keys[-1]]
    assert [artifact.test for artifact in found.artifacts] == [facts.test for facts in found.networks]
    said = capsys.readouterr().out + (tmp_path / "deploy.json").read_text() + (tmp_path / "report.html").read_text()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"format": 4}', "has format 4, this one reads up to 3"),
        ('{"format": 2}', "an earlier version, whose format 2 is not read any more: run orchestrator export again"),
    ],
)
def test_a_damaged_deploy_json_is_told(tmp_path, text, words):
    assert ExportedNetworks.load(tmp_path) is None
    (tmp_path / "deploy.json").write_text(text)
    with pytest.raises(DamagedError, match=words):
        ExportedNetworks.load(tmp_path)


def test_deploy_json_is_plain(exported):
    value = json.loads((exported[0] / "deploy.json").read_text())
    assert value["format"] == 3
    assert {"sha256", "bytes", "download_bytes", "objective", "metrics", "speed"} <= value["artifacts"][0].keys()
    assert str(exported[0].parent) not in json.dumps(value)
