"""Targets: what is here is measured, what is not says how to get it, and the rest of the table is still made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from orchestrator.__main__ import main
from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array
from orchestrator.export.example import ExampleInputs
from orchestrator.export.originals import Candidate, Original
from orchestrator.export.target_rounds import recommended_of_each_structure
from orchestrator.export.targets import TARGETS
from orchestrator.export.targets.mnn_cpu import zeros_in_blocks
from orchestrator.export.targets.side_by_side import TARGETS_FILE, Cell, compare_on
from orchestrator.export.targets.target import TargetFile
from orchestrator.objective import Objective
from orchestrator.pruning import Blocks, Global, OneShot
from orchestrator.record import Record
from orchestrator.report.targets_page import PAGE, cell_line, print_cells, verdict
from orchestrator.runner import run

TRUST = ("--trust", tiny.EXPERIMENT.model, "--trust", tiny.EXPERIMENT.data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Record]]:
    """Train a dense round, one with masks and one with blocks."""
    place, records = str(tmp_path_factory.mktemp("runs")), []
    for name, selection in (("masks", Global()), ("blocks", Global(Blocks(3)))):
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
    assert {cell.network for cell in cells} == {"dense", "unstructured", "blocks"}
    assert [cell.reason for cell in cells if cell.reason] == []
    by_file = {(cell.network, cell.file): cell for cell in cells}
    masked = by_file["unstructured", "packed"]
    assert masked.bytes is not None
    assert masked.bytes < (by_file["dense", "packed"].bytes or 0)
    assert (masked.error, masked.seconds is not None) == (0.0, True)
    assert 0 < (by_file["blocks", "packed-int8"].error or 0) < 0.5
    assert by_file["dense", "zip"].value == by_file["dense", "float32"].value, "the objective through each file"
    page = (folder / PAGE).read_text()
    for text in ("download: take", "torch: ", "packed-int8", "zstd -19"):
        assert text in printed
        assert text in page


def test_the_recommended_round_of_each_structure(storage: tuple[str, list[Record]]) -> None:
    chosen = recommended_of_each_structure(storage[1])
    assert sorted((record.experiment, record.round) for record in chosen) == [("blocks", 1), ("masks", 1)]


def test_a_target_that_there_is_not(storage: tuple[str, list[Record]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", storage[0], *TRUST, "--on", "toaster"]) == 1
    names = "download, torch, mnn, web, vela, onnxruntime, openvino"
    assert f"a target must be one of {names}, got 'toaster'" in capsys.readouterr().err


class Made:
    """A target of this test: `answer` makes outputs of inputs, or raises."""

    name = "torch"  # whose words the page knows
    pays_for = ""

    def __init__(self, answer: object, exact: bool = True, missing: str | None = None) -> None:
        self._answer, self._exact, self._missing = answer, exact, missing

    def missing(self) -> str | None:
        return self._missing

    def measured_by(self) -> str:
        return "measured here"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        if isinstance(self._answer, ExportError):
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
        (Made(np.zeros_like), "wrong outputs: 1 from torch's"),
        (Made(lambda outputs: outputs[:, :1]), "does not run: ExportError: an output has shape"),
        (Made(lambda outputs: 1 / 0), "does not run: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_had_says_why_and_the_rest_is_still_made(target: Made, reason: str) -> None:
    with Original.of(candidate(), None) as original:
        first, second = compare_on([target, Made(lambda outputs: outputs)], [original])
    assert first.reason is not None
    assert first.reason.startswith(reason)
    assert first.seconds is None
    assert "left out: torch" in cell_line(first)
    assert (second.reason, second.error) == (None, 0.0)


def test_rounded_weights_may_differ() -> None:
    with Original.of(candidate(), None) as original:
        (cell,) = compare_on([Made(np.zeros_like, exact=False)], [original])
    assert (cell.reason, cell.error) == (None, 1.0)


def cells(**seconds: float) -> list[Cell]:
    return [Cell(target="torch", network=name, file="float32", seconds=s) for name, s in seconds.items()]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (cells(dense=10.0, masks=4.0, channels=5.0), "torch: take masks as float32: 2.50 times as fast as the dense"),
        (cells(dense=10.0, masks=9.8), "torch: no network is faster than the dense one. Here zeros pay from"),
        ([Cell(target="torch", network="", reason="get it")], "torch: nothing was measured: get it"),
        (
            [
                Cell(target="download", network="dense", file="plain", bytes=100),
                Cell(target="download", network="masks", file="packed-int8", bytes=5, seconds=1.0),
            ],
            "download: take masks as packed-int8: 20.0 times smaller than the plain dense file",
        ),
    ],
)
def test_the_sentence_of_a_target_follows_from_its_figures(given: list[Cell], words: str) -> None:
    assert verdict(given[0].target, given).startswith(words)


def test_the_terminal_shows_a_reason_with_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "run pip install -e '.[targets]'"
    print_cells([Cell(target="torch", network="", reason=reason)], Objective("mae", higher_is_better=False))
    assert capsys.readouterr().out.count(reason) == 2


def test_blocks_are_seen_in_the_weights() -> None:
    layer = nn.Linear(4, 8)
    with torch.no_grad():
        layer.weight.fill_(1)[:4, 1] = 0
        assert zeros_in_blocks(layer) == 1.0
        layer.weight[5, :] = 0
        assert zeros_in_blocks(layer) == 0.5
    assert zeros_in_blocks(nn.Linear(4, 8)) == 0.0


@pytest.mark.parametrize(("name", "package"), [("mnn", "MNN"), ("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_a_sentence(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(TARGETS[name]).__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda wanted: None if wanted == package else object())
    assert "is not installed: run" in (TARGETS[name].missing() or "")
    monkeypatch.setattr(f"{module}.find_spec", lambda wanted: object())
    assert TARGETS[name].missing() is None


@pytest.mark.parametrize("name", ["mnn", "openvino", "onnxruntime"])
def test_a_runtime_says_what_the_network_says(name: str) -> None:
    if reason := TARGETS[name].missing():
        pytest.skip(reason)
    with Original.of(candidate(), None) as original:
        for cell in compare_on([TARGETS[name]], [original]):
            assert cell.reason is None, cell
            assert cell.error is not None
            assert cell.error < (0.05 if cell.file == "int8 weights" else 1e-5)
