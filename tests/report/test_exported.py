"""Reports of exported files: the files come first, then the experiments with their model and data."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from report.synthetic import deployment, digest, path_of, write

from orchestrator.__main__ import main
from orchestrator.export.measure import DataSource
from orchestrator.export.proof import ExportedNetworks
from orchestrator.record import Record
from orchestrator.report.chapters.exported import recommended_rounds
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

SMALL = path_of("learning-rate-rewinding", 0, 6, epochs=2)  # its model comes first by name
WIDE = path_of("weight-rewinding", 0, 4, epochs=2, model="resnet56")
FAILURES = [
    {"experiment": name, "seed": 0, "round": 9, "reason": f"{name} diverged"} for name in ("weight-rewinding", "x")
]


def of_rounds(records: list[Record]) -> ExportedNetworks:
    """Return two exported networks, of the two `records`."""
    found = deployment()
    networks = [
        dataclasses.replace(facts, origin={"key": record.key, "round": record.round})
        for facts, record in zip(found.networks, records, strict=True)
    ]
    return dataclasses.replace(found, networks=tuple(networks))


class Sketch:
    """Stand for a picture, because drawing takes seconds and these tests look at the text alone."""

    name = "sketch"

    def save(self, path: Path) -> Path:
        return path

    def svg(self, prefix: str) -> str:
        return "<svg></svg>"


@pytest.fixture(autouse=True)
def _sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.report.folder.draw_pictures", lambda comparison, references: [])
    monkeypatch.setattr("orchestrator.report.folder.exported_pictures", lambda exported: [Sketch()])


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return a storage of two models on one data set, with failures of one of them and of another experiment."""
    ledger = Ledger(open_store(str(tmp_path / "runs")))
    write(ledger, [SMALL, WIDE])
    for number, failure in enumerate(FAILURES):
        ledger.write_failure(f"{number}" * 64, {**failure, "key": f"{number}" * 64})
    return tmp_path / "runs"


def exported(folder: Path, rounds: list[Record]) -> ExportedNetworks:
    folder.mkdir(exist_ok=True)
    found = of_rounds(rounds)
    found.save(folder)
    for artifact in found.artifacts:
        (folder / artifact.file).write_bytes(b"network")
    return found


def test_files_come_first_and_their_model_before_others(storage: Path, tmp_path: Path) -> None:
    """Each chapter says whether its recommended network is among the files."""
    exported(tmp_path / "deploy", [WIDE[0], recommended_rounds(WIDE)[0]])
    assert main(["report", str(storage), "--out", str(tmp_path / "deploy")]) == 0
    page = (tmp_path / "deploy" / "report.html").read_text()
    parts = ["<h2>Exported files", '<h2 class="task">resnet56 on ', '<h2 class="task">resnet20 on ']
    assert [page.index(part) for part in parts] == sorted(page.index(part) for part in parts)
    chapters = page.split('class="chapter"')[1:]
    assert ["not among the exported files" in chapter for chapter in chapters] == [False, True]
    commands = re.findall(r"<code>(orchestrator export [^<]*)</code>", page)
    keys = [recommended_rounds(records)[0].key[:12] for records in (WIDE, SMALL)]
    assert commands == [f"orchestrator export {storage} --round {key} --out ./deploy" for key in keys]


def test_files_of_networks_that_a_report_does_not_show_are_left_out(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deploy"
    exported(folder, [WIDE[0], WIDE[1]])
    assert main(["report", str(storage), "--out", str(folder), "--experiment", "learning-rate-rewinding"]) == 0
    assert f"left out: {folder}/deploy.json measures networks that this report does not show" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert 'id="deployed"' not in page
    assert "diverged" not in page, "nor failures of other experiments"


def test_a_file_that_is_gone_is_not_shown_as_one_to_download(storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    found = exported(folder, [WIDE[0], WIDE[1]])
    gone = found.artifacts[2].file
    (folder / gone).unlink()
    assert main(["report", str(storage), "--out", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert f">{gone}</a>" not in page
    assert f"{gone} is gone" in page


def test_files_that_were_written_without_data_have_no_objective(storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    found = exported(folder, [WIDE[0], WIDE[1]])
    nothing: dict[str, Any] = {"objective": None, "metrics": {}}
    networks = tuple(dataclasses.replace(facts, **nothing) for facts in found.networks)
    artifacts = [dataclasses.replace(artifact, **nothing) for artifact in found.artifacts]
    artifacts[1] = dataclasses.replace(artifacts[1], speed=None, not_run="no Mac")
    for files in (found, ExportedNetworks(networks, tuple(artifacts), found.skipped)):
        files.save(folder)
        assert main(["report", str(storage), "--out", str(folder)]) == 0
        page = (folder / "report.html").read_text()
        section = page[page.index('id="deployed"') : page.index('class="chapter"')]
        assert ("accuracy" in section) == (files is found)
        for table in re.findall(r"<table.*?</table>", section, flags=re.DOTALL):
            heads = table.count("<th>")
            rows = re.findall(r"<tr><td>.*?</tr>", table, flags=re.DOTALL)
            assert len(rows) == len(found.networks if "MACs" in table else found.artifacts)
            for row in rows:
                spans = [int(span) - 1 for span in re.findall(r'colspan="(\d+)"', row)]
                assert row.count("<td") + sum(spans) == heads


@pytest.fixture
def _quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace loading, exporting and measuring, so that an export takes no time."""
    monkeypatch.setattr(DataSource, "load", lambda self: None)
    place = "orchestrator.export.finished_rounds"
    monkeypatch.setattr(f"{place}.side_by_side", lambda ledger, records, data, task: records)
    monkeypatch.setattr(f"{place}.deploy", lambda networks, out, **_: exported(out, list(networks)))


@pytest.mark.usefixtures("_quick_export")
@pytest.mark.parametrize("now", [path_of("weight-rewinding", 1, 1, epochs=2, model="resnet56"), SMALL])
def test_export_of_a_round_of_earlier_settings_shows_its_files(
    now: list[Record], storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the experiments of its model and data, or before the round itself if there are none."""
    name, ledger, folder = WIDE[0].experiment, Ledger(open_store(str(storage))), tmp_path / "deploy"
    if now is not SMALL:
        write(ledger, [now])
    content = {"name": name, "seed": 0, "densities": [], "keys": [record.key for record in now]}
    ledger.write_experiment(digest(name)[:12], 0, content)
    assert main(["export", str(storage), "--out", str(folder), "--round", WIDE[2].key[:12]]) == 0
    assert "does not show" not in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert 'id="deployed"' in page
    assert "resnet20" not in page
    assert page.count('class="chapter"') == 1
    assert main(["report", str(storage), "--out", str(folder)]) == 0
    assert 'id="deployed"' in (folder / "report.html").read_text(), "nor does a report of the storage leave them out"


@pytest.mark.usefixtures("_quick_export")
def test_export_writes_a_page_of_the_model_and_data_that_it_exports(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = [WIDE[0], recommended_rounds(WIDE)[0]]
    folder = tmp_path / "deploy"
    assert main(["export", str(storage), "--out", str(folder), "--round", rounds[1].key[:12]]) == 0
    printed, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in (printed, page):
        assert "weight-rewinding" in text
        assert "learning-rate-rewinding" not in text
    assert "weight-rewinding diverged" in page
    assert "x diverged" not in page


@pytest.mark.parametrize("package", ["matplotlib", "jinja2", "itables"])
def test_export_needs_the_packages_of_its_page_first(
    package: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("the export began")

    monkeypatch.setattr(DataSource, "load", never)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(storage), "--out", str(tmp_path / "deploy"), "--round", WIDE[1].key[:12]]) == 1
    assert "pip install -e '.'" in capsys.readouterr().err


def test_without_a_round_a_storage_of_two_models_names_the_recommended_ones(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(storage), "--out", str(tmp_path / "deploy")]) == 1
    small, wide = (recommended_rounds(records)[0].key[:12] for records in (SMALL, WIDE))
    assert capsys.readouterr().err == (
        "error: the storage holds 2 networks (model, data and task), each with recommended rounds of its own: "
        f"pass --round {small} for resnet20 on cifar10, or --round {wide} for resnet56 on cifar10\n"
    )
