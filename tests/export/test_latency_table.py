"""`orchestrator latency`: a table of a network's layers, held against whole networks, and a search by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from searching import AMC, SEARCHED, begun, searching, works

from orchestrator.__main__ import main
from orchestrator.amc.latency import LatencyTable, LayerTimes, NetworkTime, read_latency_table
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

TIMES = LayerTimes(1, [1], [1], [[1e-3]])


@pytest.mark.parametrize(
    ("networks", "error"),
    [([], None), ([(1.0, 1.0)], 0.0), ([(1.0, 1.25), (1.5, 1.2)], 0.25), ([(0.5, 1.0), (1.1, 1.0)], 0.5)],
)
def test_the_error_is_the_largest_relative_one(networks, error):
    table = LatencyTable("any", 1, "made", {"fc": TIMES}, [NetworkTime(*each) for each in networks])
    assert table.error == (None if error is None else pytest.approx(error))


@pytest.mark.slow
def test_a_table_is_measured_and_a_search_by_it_records_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "tables" / "tiny.json"
    assert main(["latency", "searching:SEARCHED", "--points", "2", "--out", str(file)]) == 0
    table, printed = read_latency_table(file), capsys.readouterr().out
    assert table.layers.keys() == {"0", "2.0", "2.6"}
    assert len(table.networks) == 4
    assert f"largest error: {100 * table.error:.0f} %" in printed
    assert "3 layers of tiny:deeper on " in printed
    predicted = [each.predicted for each in table.networks]
    assert predicted == sorted(predicted, reverse=True)

    experiment = searching(dataclasses.replace(AMC, unit="latency", table=table, evaluations=4, generation=4), SEARCHED)
    experiment = dataclasses.replace(experiment, path=type(experiment.path)(0.9))
    works(experiment, tmp_path / "runs")
    record = Ledger(open_store(str(tmp_path / "runs"))).record(begun(experiment, tmp_path / "runs")[0].keys[-1])
    assert record.search["table"] == {
        "digest": table.digest, "processor": table.processor, "threads": 1, "runtime": table.runtime,
        "error": table.error, "networks": 4,
    }  # fmt: skip


def test_an_experiment_that_does_not_exist_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["latency", "nothing", "--out", str(tmp_path / "table.json")]) == 1
    assert capsys.readouterr().err.startswith("error: the experiment must be ")
