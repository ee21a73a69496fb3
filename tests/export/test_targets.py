"""Targets: what is here is measured, what is not says how to get it, and the rest of the table is still made."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import elastic
import numpy as np
import pytest
import searching
import tiny
import torch
from report.synthetic import record
from torch import nn

from orchestrator.__main__ import main
from orchestrator.errors import ExportError
from orchestrator.export import kernel_choice, originals, target_rounds
from orchestrator.export.arrays import Array
from orchestrator.export.converting import no_output
from orchestrator.export.example import ExampleInputs
from orchestrator.export.measure import DataSource
from orchestrator.export.originals import Candidate, Original
from orchestrator.export.target_rounds import column, recommended_of_each
from orchestrator.export.targets import TARGETS, mnn_cpu
from orchestrator.export.targets.mnn_cpu import zeros_in_blocks
from orchestrator.export.targets.side_by_side import TARGETS_FILE, Cell, compare_on, save_cells
from orchestrator.export.targets.target import TargetFile
from orchestrator.pruning import AtMost, Blocks, Global, OneShot
from orchestrator.record import Record
from orchestrator.report.pictures import drawing_style
from orchestrator.report.pictures.targets_picture import targets_picture
from orchestrator.report.target_table import TargetTable, cell_line
from orchestrator.report.targets_page import PAGE, PICTURE, print_targets
from orchestrator.runner import run

TRUST = ("--trust", tiny.EXPERIMENT.model, "--trust", tiny.EXPERIMENT.data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Record]]:
    """Train a dense round, one with masks, one with blocks, one 2:4, and one on other data."""
    place, records = str(tmp_path_factory.mktemp("runs")), []
    selections = {"masks": Global(), "blocks": Global(Blocks(3)), "groups": Global(AtMost(2, of=4))}
    for name, selection in selections.items():
        records += run(replace(tiny.EXPERIMENT, name=name, selection=selection, path=OneShot(0.5)), place)
    return place, records


def test_the_command_measures_each_structure_and_writes_the_table(
    storage: tuple[str, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "where"
    asked = ["targets", storage[0], *TRUST, "--on", "download,torch", "--report", str(folder)]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    cells = [Cell(**cell) for cell in json.loads((folder / TARGETS_FILE).read_text())["cells"]]
    assert {cell.network for cell in cells} == {"dense", "masks", "blocks", "2-of-4"}
    assert [cell.reason for cell in cells if cell.reason] == []
    by_file = {(cell.network, cell.file): cell for cell in cells}
    masked = by_file["masks", "packed"]
    assert masked.bytes is not None
    assert masked.bytes < (by_file["dense", "packed"].bytes or 0)
    assert (masked.error, masked.seconds is not None) == (0.0, True)
    assert 0 < (by_file["blocks", "packed-int8"].error or 0) < 0.5
    assert by_file["dense", "zip"].value == by_file["dense", "float32"].value, "the objective through each file"
    page = (folder / PAGE).read_text()
    for text in ("For download ", "For torch ", "packed-int8", "zstd -19", "2:4", "measured here"):
        assert text in printed
        assert text in page
    assert (folder / PICTURE).exists()
    assert page.count("<svg") == 1
    assert 'rowspan="6">download</th>' in page, "rows are targets, columns are networks"


def test_the_recommended_round_of_each_column(storage: tuple[str, list[Record]]) -> None:
    chosen = recommended_of_each(storage[1])
    assert [(r.experiment, r.round, column(r)) for r in chosen] == [
        ("masks", 1, "masks"), ("blocks", 1, "blocks"), ("groups", 1, "2-of-4"),
    ]  # fmt: skip


def test_stored_networks_of_both_searches_go_through_targets(tmp_path: Path) -> None:
    """The supernet and its teacher are as large as the dense network, which has one column."""
    amc = replace(searching.SEARCHED, name="amc", model=elastic.ELASTIC.model, data=elastic.ELASTIC.data)
    searching.works(amc, tmp_path / "runs")
    elastic.works(elastic.ELASTIC, tmp_path / "runs")
    folder, asked = tmp_path / "where", ["targets", str(tmp_path / "runs"), "--trust", elastic.ELASTIC.data]
    assert main([*asked, "--on", "download,torch", "--report", str(folder)]) == 0
    cells = [Cell(**cell) for cell in json.loads((folder / TARGETS_FILE).read_text())["cells"]]
    assert [cell.reason for cell in cells if cell.reason] == []
    sizes = {cell.network: cell.bytes or 0 for cell in cells if cell.file == "packed"}
    assert list(sizes) == ["dense", "AMC", "OFA"]
    assert sizes["dense"] > max(sizes["AMC"], sizes["OFA"])
    for cell in cells:
        assert cell.value is not None
        assert cell.seconds is not None or cell.file in ("plain", "zip", "zstd -19")
    page = (folder / PAGE).read_text()
    assert all(f">{name}<br>" in page for name in ("AMC", "OFA"))


SUBNET = {"space": "small", "architecture": {}}


@pytest.mark.parametrize(
    ("selection", "changes", "name"),
    [
        ({"type": "Layerwise"}, {}, "masks"),
        ({"type": "NofM", "m": 4}, {"density": 0.25}, "1-of-4"),
        ({"type": "Global", "pattern": {"type": "AtMost", "n": 2, "of": 4}}, {}, "2-of-4"),
        ({"type": "Channels"}, {}, "channels"),
        ({"type": "Amc"}, {"search": {"agent": "Cem"}}, "AMC"),
        ({"type": "Global"}, {"search": {"budget": 0.5}, "channels": SUBNET}, "OFA"),
        ({}, {"round": 0}, "dense"),
    ],
)
def test_each_column_is_named_by_what_its_network_is(
    selection: dict[str, object], changes: dict[str, object], name: str
) -> None:
    given = {"round": 1, **changes}
    assert column(record(settings={"selection": selection}, **given)) == name  # type: ignore[arg-type]


def test_a_supernet_is_left_out_and_its_networks_are_a_column() -> None:
    of_space: dict[str, object] = {"space": "small", "macs": [50, 100], "parameters": [50, 100]}
    records = [
        record(0, settings={}),
        record(1, channels=of_space, settings={}),
        record(2, channels={**of_space, "architecture": {}}, search={}, settings={}),
    ]
    assert [column(each) for each in recommended_of_each(records)] == ["OFA"]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        (
            {"data_options": {"samples": 48}, "training": replace(tiny.EXPERIMENT.training, batch_size=8)},
            "data_options {}, got {'samples': 48}",
        ),
        ({"model": "tiny:deeper"}, "model 'tiny:model', got 'tiny:deeper'"),
        ({"model_options": {"norm": False}}, "model_options {}, got {'norm': False}"),
    ],
)
def test_keys_of_different_data_or_models_are_left_out_in_one_sentence(
    changes: dict[str, Any], differs: str, storage: tuple[str, list[Record]], capsys: pytest.CaptureFixture[str]
) -> None:
    (other,) = run(replace(tiny.EXPERIMENT, name="other", path=OneShot(0.5), **changes), storage[0])[-1:]
    asked = ["targets", storage[0], storage[1][-1].key, other.key, *TRUST, "--on", "download"]
    assert main(asked) == 1
    shown = capsys.readouterr()
    assert f"round {other.key[:12]} was left out: rounds side by side must have the same data and task" in shown.err
    assert f"here {differs}: give its key alone" in shown.err
    assert "For download " in shown.out, "the rest of the table is still made"
    assert other.key[:12] not in shown.out
    assert main(["targets", storage[0], other.key, *TRUST, "--trust", "tiny:deeper", "--on", "download"]) == 0


def test_a_network_that_answers_nan_is_a_column_of_reasons(
    storage: tuple[str, list[Record]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    networks = target_rounds.side_by_side

    def last_is_broken(*given: Any) -> list[Candidate]:
        *others, last = networks(*given)
        with torch.no_grad():
            next(last.module.parameters()).fill_(torch.nan)
        return [*others, last]

    monkeypatch.setattr(target_rounds, "side_by_side", last_is_broken)
    monkeypatch.setattr(kernel_choice, "NETWORK_SECONDS", 0.0)
    keys = [each.key for each in storage[1] if each.round]
    assert main(["targets", storage[0], *keys, *TRUST, "--on", "download,torch", "--report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "left out: download: 2:4: the network answers NaN or infinity to its example" in printed
    assert printed.count("answers NaN or infinity") == 2, "once for each target"
    cells = [Cell(**cell) for cell in json.loads((tmp_path / TARGETS_FILE).read_text())["cells"]]
    assert [(cell.target, cell.network) for cell in cells if cell.reason] == [
        ("download", "2-of-4"),
        ("torch", "2-of-4"),
    ]
    assert {cell.network for cell in cells if not cell.reason} == {"dense", "masks", "blocks"}


def test_a_target_that_there_is_not(storage: tuple[str, list[Record]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", storage[0], *TRUST, "--on", "toaster"]) == 1
    names = "download, torch, mnn, web, vela, onnxruntime, openvino"
    assert f"a target must be one of {names}, got 'toaster'" in capsys.readouterr().err


class Made:
    """A target of this test: `answer` makes outputs of inputs, or raises."""

    name = "torch"

    def __init__(self, answer: object, exact: bool = True, missing: str | None = None) -> None:
        self._answer, self._exact, self._missing = answer, exact, missing

    def missing(self) -> str | None:
        return self._missing

    def measured_by(self) -> str:
        return "measured here"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        if isinstance(self._answer, Exception):
            raise self._answer

        def run(arrays: Sequence[Array]) -> list[Array]:
            with torch.no_grad():
                outputs: Array = original.candidate.module(torch.from_numpy(arrays[0])).numpy()
            return [self._answer(outputs)]  # type: ignore[operator]

        return {"file": TargetFile(8, run, self._exact)}


def candidate() -> Candidate:
    module = tiny.model(3, (1, 6, 6)).eval()
    return Candidate("dense", module, "tiny:model", {}, ExampleInputs(torch.rand(4, 1, 6, 6)))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Made(None, missing="it is not installed: run this"), "it is not installed: run this"),
        (Made(ExportError("the operator Gru cannot be taken")), "the operator Gru cannot be taken"),
        (Made(ValueError("no such\nlayout")), "cannot take the network: ValueError: no such layout"),
        (Made(np.zeros_like), "wrong outputs: they differ from torch's by 1 of the largest"),
        (Made(lambda outputs: outputs * np.nan), "wrong outputs: it answers NaN or infinity"),
        (Made(lambda outputs: outputs * np.nan, exact=False), "wrong outputs: it answers NaN or infinity"),
        (Made(lambda outputs: outputs[:, :1]), "does not run: ExportError: an output has shape"),
        (Made(lambda outputs: 1 / 0), "does not run: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_had_says_why_and_the_rest_is_still_made(target: Made, reason: str, tmp_path: Path) -> None:
    with Original.of(candidate(), None) as original:
        first, second = compare_on([target, Made(lambda outputs: outputs)], [original])
    assert save_cells(tmp_path, [first, second]).exists()
    assert first.reason is not None
    assert first.reason.startswith(reason)
    assert first.seconds is None
    assert "left out: torch" in cell_line(first)
    assert (second.reason, second.error) == (None, 0.0)


def test_a_file_that_answers_nan_to_the_test_set_alone_says_so() -> None:
    """It answers the example, a batch of four; test batches are larger."""
    target = Made(lambda outputs: outputs if len(outputs) <= 4 else outputs * np.nan, exact=False)
    with Original.of(candidate(), originals.TestSet.of(DataSource(tiny.EXPERIMENT.data, {}, None))) as original:
        first, second = compare_on([target, Made(lambda outputs: outputs)], [original])
    assert (first.reason or "").startswith("wrong outputs: it answers NaN or infinity")
    assert second.value == original.metrics["accuracy"]


def test_a_turn_begins_with_a_call_that_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.cycle([0.5, 1.0])  # seconds
    monkeypatch.setattr(TargetFile, "time", lambda file, sample: next(calls))
    with Original.of(candidate(), None) as original:
        (cell,) = compare_on([Made(lambda outputs: outputs)], [original])
    assert cell.seconds == 1.0


def test_a_file_that_fails_only_while_it_is_timed_says_why_it_has_no_time() -> None:
    calls = itertools.count()
    target = Made(lambda outputs: outputs if next(calls) else 1 / 0)
    with Original.of(candidate(), None) as original:
        first, second = compare_on([target, Made(lambda outputs: outputs)], [original])
    assert first.reason == "it runs, but timing it failed: ZeroDivisionError: division by zero"
    assert (first.seconds, first.error) == (None, 0.0)
    assert second.seconds is not None


def test_a_form_that_cannot_hold_a_network_leaves_the_others() -> None:
    large = replace(candidate(), arguments={"num_classes": 3, "input_shape": (1, 6, 6)})
    with torch.no_grad():
        next(large.module.parameters())[0] = 1e5  # more than float16 holds
    with Original.of(large, None) as original:
        cells = compare_on([TARGETS["download"]], [original])
    assert [cell.file for cell in cells] == ["plain", "zip", "zstd -19", "packed", "packed-fp16", "packed-int8"]
    (failed,) = (cell for cell in cells if cell.reason)
    assert failed.file == "packed-fp16"
    assert "float16 holds finite values" in (failed.reason or "")


def test_rounded_weights_may_differ() -> None:
    with Original.of(candidate(), None) as original:
        (cell,) = compare_on([Made(np.zeros_like, exact=False)], [original])
    assert (cell.reason, cell.error) == (None, 1.0)


def table(*cells: Cell, **networks: float) -> TargetTable:
    """Return a table of networks with these validation values."""
    return TargetTable(cells, {name: record(val=val, test=0.9) for name, val in networks.items()})


def timed(network: str, seconds: float, value: float = 0.9) -> Cell:
    return Cell(target="torch", network=network, file="float32", seconds=seconds, value=value)


def on_two(cell: Cell, seconds: float) -> Cell:
    return replace(cell, file="float32, 2 threads", where="2 threads", seconds=seconds)


def sized(network: str, file: str, count: int) -> Cell:
    return Cell(target="download", network=network, file=file, bytes=count, seconds=0.1, value=0.9)


DENSE = timed("dense", 10.0)
ALL = {"dense": 0.9, "masks": 0.9, "channels": 0.9}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            table(DENSE, timed("masks", 4.0), timed("channels", 5.0), **ALL),
            "For torch take masks as float32, because it is 2.50 times as fast as the dense network as float32, at "
            "90.00 %. Gains: masks 2.50x, channels 2.00x.",
        ),
        (
            table(DENSE, timed("masks", 4.0), timed("channels", 5.0), dense=0.9, masks=0.8, channels=0.9),
            # masks lose too much on validation
            "For torch take channels as float32, because it is 2.00 times as fast as the dense network as float32, at "
            "90.00 %. Gains: channels 2.00x, masks 2.50x (not as good).",
        ),
        (
            # the file of the masks loses too much
            table(DENSE, timed("masks", 4.0, value=0.5), timed("channels", 5.0), **ALL),
            "For torch take channels as float32, because it is 2.00 times as fast as the dense network as float32, at "
            "90.00 %. Gains: channels 2.00x, masks 2.50x (not as good).",
        ),
        (
            table(DENSE, timed("masks", 9.8), **ALL),
            "For torch take the dense network as float32, because no other network that is as good is faster. "
            "Gains: masks 1.02x.",
        ),
        (
            table(replace(DENSE, cycles=100.0), replace(timed("masks", 20.0), cycles=50.0), **ALL),
            "For torch take masks as float32, because it is 2.00 times as fast as the dense network as float32, at "
            "90.00 %. Gains: masks 2.00x.",
        ),
        (
            table(DENSE, timed("masks", 4.0), on_two(DENSE, 5.0), on_two(timed("masks", 4.0), 4.0), **ALL),
            "For torch take masks as float32, because it is 2.50 times as fast as the dense network as float32, at "
            "90.00 %. Gains: masks 2.50x. "
            "For torch on 2 threads take masks as float32, because it is 1.25 times as fast as the dense network as "
            "float32, at 90.00 %. Gains: masks 1.25x.",
        ),
        (
            table(replace(DENSE, reason="wrong outputs", seconds=None), timed("masks", 4.0), **ALL),
            "For torch take masks as float32, because the dense network could not be had.",
        ),
        (
            table(Cell(target="torch", network="", reason="get it"), **ALL),
            "torch: nothing was measured, because get it.",
        ),
        (
            # rounding alone makes the dense network as small
            table(sized("dense", "plain", 100), sized("dense", "int8", 25), sized("masks", "int8", 5), **ALL),
            "For download take masks as int8, because it is 5.00 times smaller than the dense network as int8, at "
            "90.00 %. Gains: masks 5.00x.",
        ),
        (
            table(timed("dense", 10.0, value=0.5), timed("masks", 4.0), **ALL),
            "For torch take masks as float32, because the dense network has no file that is as good as itself.",
        ),
        (
            table(timed("dense", 10.0, value=0.5), timed("masks", 4.0, value=0.5), **ALL),
            "For torch no file is as good as the dense network.",
        ),
    ],
)
def test_the_sentence_of_a_target_follows_from_its_figures(given: TargetTable, words: str) -> None:
    (target,) = given.targets
    assert given.verdict(target) == words


def test_without_sparse_kernels_a_masked_network_takes_as_long_as_the_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the same work, so that only noise differs; fewer channels are other work."""
    monkeypatch.setattr(kernel_choice, "NETWORK_SECONDS", 0.0)
    with torch.no_grad():
        masked, dense, fewer = (replace(candidate(), name=name) for name in ("masks", "dense", "channels"))
        masked.module[0].weight.mul_(torch.rand_like(masked.module[0].weight) > 0.7)
        fewer = replace(fewer, module=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval())
    with contextlib.ExitStack() as stack:
        originals = [stack.enter_context(Original.of(each, None)) for each in (dense, masked, fewer)]
        cells = compare_on([TARGETS["torch"]], originals)
    assert [cell.detail for cell in cells] == 3 * ["dense kernels kept"], "so small a network gains nothing"
    assert cells[0].seconds == cells[1].seconds != cells[2].seconds
    given = TargetTable(cells, {name: record() for name in ("dense", "masks", "channels")})
    first, second, _ = (given.lines(cell) for cell in cells)
    assert (len(first), second[0][-7:], second[1]) == (1, "(1.00x)", "dense kernels kept")


def test_a_cell_that_could_not_be_had_says_why_in_five_words() -> None:
    missing = Cell(target="mnn", network="", reason="MNN is not installed: run this", short="not installed here")
    broken = Cell(target="torch", network="masks", reason="the operator Gru", short="cannot take this network")
    given = table(DENSE, broken, missing, **ALL)
    assert given.rows == [("torch", "float32"), ("mnn", "")]
    shown = [[given.lines(given.cell(*row, network)) for network in ALL] for row in given.rows]
    assert shown == [
        [["10000 ms", "90.00 %"], ["cannot take this network"], ["no such file"]],
        3 * [["not installed here"]],
    ]
    assert given.reasons == ["torch: masks: the operator Gru", "mnn: MNN is not installed: run this"]


def test_a_reason_of_several_networks_or_files_is_one_line() -> None:
    why = Cell(target="mnn", network="dense", reason="the operator Dft")
    cells = [why, replace(why, network="2-of-4"), replace(why, network="2-of-4", file="int8")]
    given = table(*cells, replace(why, target="web"), replace(why, reason="wrong outputs"), **ALL)
    assert given.reasons == [
        "mnn: dense, 2:4: the operator Dft",
        "web: dense: the operator Dft",
        "mnn: dense: wrong outputs",
    ]


def test_the_gain_stands_beside_what_a_target_asks() -> None:
    given = table(DENSE, timed("masks", 4.0), sized("dense", "packed", 100), sized("masks", "packed", 50), **ALL)
    cells = [given.lines(given.cell(*row, "masks")) for row in given.rows]
    assert cells == [["4000 ms (2.50x)", "90.00 %"], ["50 B (2.00x)", "90.00 %"]]


MNN = {  # seconds of each file
    "sparse float32": {"dense": 1.90e-5, "masks": 1.37e-5, "channels": 0.70e-5},
    "int8 weights": {"dense": 1.42e-5, "masks": 1.58e-5, "channels": 1.48e-5},
}
DOWNLOAD = {"plain": {"dense": 4228, "masks": 4228}, "zip": {"dense": 3546, "masks": 1153}}


@pytest.mark.parametrize(
    ("cells", "gains"),
    [
        (
            [replace(timed(n, t), target="mnn", file=file) for file, row in MNN.items() for n, t in row.items()],
            [
                ["0.019 ms", "0.014 ms (1.39x)", "0.007 ms (2.71x)"],
                ["0.014 ms", "0.016 ms (0.90x)", "0.015 ms (0.96x)"],
            ],
        ),
        (
            [sized(n, file, count) for file, row in DOWNLOAD.items() for n, count in row.items()],
            [["4.23 kB", "4.23 kB (1.00x)", "no such file"], ["3.55 kB", "1.15 kB (3.08x)", "no such file"]],
        ),
        (
            [DENSE, replace(timed("masks", 4.0), file="int8")],  # the dense network has no such file
            [["10000 ms", "no such file", "no such file"], ["no such file", "4000 ms", "no such file"]],
        ),
        (
            [replace(DENSE, reason="wrong outputs", short="wrong outputs", seconds=None), timed("masks", 4.0)],
            [["wrong outputs", "4000 ms", "no such file"]],
        ),
    ],
)
def test_a_gain_is_over_the_dense_network_in_the_same_row(cells: list[Cell], gains: list[list[str]]) -> None:
    given = table(*cells, **ALL)
    assert [[given.lines(given.cell(*row, network))[0] for network in ALL] for row in given.rows] == gains


def test_the_picture_has_a_panel_for_each_target() -> None:
    timings = [DENSE, timed("masks", 4.0), on_two(DENSE, 5.0)]
    cells = [*timings, sized("dense", "plain", 100), sized("masks", "packed", 50)]
    with drawing_style():
        picture = targets_picture(table(*cells, **ALL))
        assert picture is not None
        labels = [axes.get_xlabel() for axes in picture.figure.axes if axes.axison]
        assert labels == ["torch: time of one sample", "torch on 2 threads: time of one sample", "download: bytes"]
        assert "download, masks as packed: 50 B, 90.00 %" in picture.svg("").replace("\u00a0", " ")
        assert targets_picture(table(Cell(target="mnn", network="", reason="get it"), **ALL)) is None


def test_the_terminal_shows_a_reason_with_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "run pip install -e '.[targets]'"
    print_targets(table(Cell(target="torch", network="", reason=reason), **ALL))
    assert capsys.readouterr().out.count(reason) == 2


def test_blocks_are_seen_in_the_weights() -> None:
    layer = nn.Linear(4, 8)
    with torch.no_grad():
        layer.weight.fill_(1)[:4, 1] = 0
        assert zeros_in_blocks(layer) == 1.0
        layer.weight[5, :] = 0
        assert zeros_in_blocks(layer) == 0.5
    assert zeros_in_blocks(nn.Linear(4, 8)) == 0.0


def test_what_a_library_prints_while_it_is_loaded_is_discarded(capfd: pytest.CaptureFixture[str]) -> None:
    with no_output():
        os.write(1, b"The device supports: ...")
    os.write(1, b"ours")
    assert capfd.readouterr().out == "ours"


@pytest.mark.parametrize(("name", "package"), [("mnn", "MNN"), ("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_a_sentence(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(TARGETS[name]).__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda wanted: None if wanted == package else object())
    assert "is not installed: run" in (TARGETS[name].missing() or "")
    monkeypatch.setattr(f"{module}.find_spec", lambda wanted: object())
    assert TARGETS[name].missing() is None


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.fft.rfft(x.flatten(1)).abs()
        return found


@pytest.mark.parametrize(
    ("name", "why"),
    [("mnn", "MNN cannot take the network (it does not know the operators ONNX::DFT)"), ("torch", None)],
)
def test_an_operator_that_a_runtime_does_not_know_is_named(name: str, why: str | None) -> None:
    if reason := TARGETS[name].missing():
        pytest.skip(reason)
    with Original.of(replace(candidate(), module=Spectrum()), None) as original:
        (cell,) = compare_on([TARGETS[name]], [original])
    assert cell.reason == why


@pytest.mark.parametrize("name", ["mnn", "openvino", "onnxruntime"])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_a_runtime_says_what_the_network_says(name: str, zeros: float) -> None:
    if reason := TARGETS[name].missing():
        pytest.skip(reason)
    made = candidate()
    with torch.no_grad():
        for weight in [each for each in made.module.parameters() if each.dim() > 1]:
            weight.mul_(torch.rand_like(weight) >= zeros)
    with Original.of(made, None) as original:
        for cell in compare_on([TARGETS[name]], [original]):
            assert cell.reason is None, cell
            assert cell.error is not None
            assert cell.error < (0.05 if "int8" in cell.file else 1e-5)


def wide(zeros: float) -> Candidate:
    """Return a network of one layer that sums many inputs, so that a zero weight that is not zero any more shows."""
    torch.manual_seed(0)
    layer = nn.Linear(512, 16)
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) >= zeros)
    return replace(candidate(), module=layer.eval(), example=ExampleInputs(torch.rand(4, 512)))


def cells_in_mnn(made: Candidate) -> dict[str, Cell]:
    if reason := TARGETS["mnn"].missing():
        pytest.skip(reason)
    with Original.of(made, None) as original:
        return {cell.file: cell for cell in compare_on([TARGETS["mnn"]], [original])}


def test_rounded_weights_of_mnn_keep_their_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are symmetric: asymmetric ones, which MNN takes without its option, have no zero."""
    assert (cells_in_mnn(wide(0.95))["int8 weights"].error or 0) < 0.02
    symmetric = [option for option in mnn_cpu._INT8 if "Asymmetric" not in option]
    monkeypatch.setattr(mnn_cpu, "_INT8", symmetric)
    assert (cells_in_mnn(wide(0.95))["int8 weights"].error or 0) > 0.1, "so this test notices it"


def test_a_file_of_mnn_that_cannot_be_made_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnn_cpu, "_INT8", ("--modelFile", "/no/such/file"))
    cells = cells_in_mnn(wide(0.5))
    assert list(cells) == ["sparse float32", "sparse float32, 2 threads", "int8 weights", "int8 weights, 2 threads"]
    reasons = {name: cell.reason or "" for name, cell in cells.items()}
    assert (reasons.pop("sparse float32"), reasons.pop("sparse float32, 2 threads")) == ("", "")
    assert all(reason.startswith("MNN cannot take the network (") for reason in reasons.values())


@pytest.mark.parametrize("name", ["mnn", "onnxruntime"])
def test_a_network_that_reads_whole_numbers_runs(name: str) -> None:
    if reason := TARGETS[name].missing():
        pytest.skip(reason)
    reader = nn.Sequential(nn.Embedding(11, 8), nn.Flatten(), nn.Linear(5 * 8, 3)).eval()
    words = ExampleInputs(torch.arange(10).view(2, 5))
    with Original.of(replace(candidate(), module=reader, example=words), None) as original:
        cells = compare_on([TARGETS[name]], [original])
    reasons = [cell.reason for cell in cells if "float32" in cell.file]
    assert reasons
    assert set(reasons) == {None}
