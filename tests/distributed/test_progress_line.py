"""What a person reads while a run is under way."""

from __future__ import annotations

import dataclasses
import re

import pytest
import tiny
from tiny import measured

from orchestrator.distributed.actor import Report, Status
from orchestrator.distributed.progress_line import Pace, epoch_line, path_line, round_line
from orchestrator.distributed.search_report import SearchReport
from orchestrator.distributed.sweep import sweep_paths
from orchestrator.objective import ACCURACY, Objective
from orchestrator.pruning import OneShot
from orchestrator.pruning.candidate import Generation, Scoring, SearchCandidate
from orchestrator.pruning.structure import Dense
from orchestrator.record import Blob, Record
from orchestrator.techniques import FineTuning
from orchestrator.train_state import TrainState
from orchestrator.work import EpochMetrics, Evaluate

REPORT = Report(2, 14, 0.64, 7, 30, 383, EpochMetrics(6, 0.1, 0.0123, measured(0.97, 0.5)), ACCURACY, 5400.0, 2)
RECORD = Record(
    key="k", parent=None, experiment="e", round=2, technique="LearningRateRewinding", density=0.64, kept=12457,
    prunable=19464, seed=0, metrics={"train_loss": 0.1, "val_accuracy": 0.9833, "test_accuracy": 0.9966}, history=[],
    layers={}, dead_layers=[], epochs=30, seconds=125.0, samples_per_second=1.0, attempts=1, workers=1,
    objective=ACCURACY, settings={}, versions={}, finished_at="", blobs={"model.safetensors": Blob("", 60917)},
)  # fmt: skip


def test_a_line_an_epoch():
    line = epoch_line(REPORT, 187.0)
    for part in (
        "round 2/14",
        "epoch 7/30",
        "density 0.640",
        "lr 0.1",
        "loss 0.0123",
        "val 97.00 %",
        "5,400 samples/s",
    ):
        assert part in line
    assert line.endswith("3 m 07 s left")
    assert "left" not in epoch_line(REPORT, None)


def test_a_line_a_round():
    line = round_line(RECORD)
    for part in ("round 2 done", "density 0.640 (1.6x)", "val 98.33 %", "test 99.66 %", "60.9 kB", "2 m 05 s"):
        assert part in line
    assert "no weight left in: conv1.weight" in round_line(dataclasses.replace(RECORD, dead_layers=["conv1.weight"]))


def test_time_left_follows_the_epochs_done(monkeypatch):
    now = 100.0
    monkeypatch.setattr("orchestrator.distributed.progress_line.time.monotonic", lambda: now)
    pace = Pace()
    assert pace.left(REPORT) is None
    now = 110.0
    assert pace.left(dataclasses.replace(REPORT, epochs_left=378)) == pytest.approx(10 / 5 * 378)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (Status(None, (), None, 0, 0, None), "wr.1: starting its workers"),
        (Status(None, (), None, 0, 0, "ft.1 on host, ab12cd34"), "wr.1: waits for ft.1, which trains the round"),
        (Status(REPORT, (), None, 1, 0, None), "wr.1: round 2/14  epoch 7/30  density 0.640"),
        (Status(REPORT, (RECORD,), None, 1, 0, None), "wr.1: between two rounds"),
    ],
)
def test_a_line_a_path_of_a_sweep(status, line):
    assert path_line("wr.1 on host, 12345678", status).startswith(line)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_tells_what_its_paths_are_at(ray, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("orchestrator.distributed.progress_line.LOG_SECONDS", 0.2)
    slow = tiny.with_training(dataclasses.replace(tiny.PACED, path=OneShot(0.5)), epochs=50)
    paths = [dataclasses.replace(slow, name="a"), dataclasses.replace(slow, name="b", technique=FineTuning())]
    sweep_paths(paths, str(tmp_path), max_concurrent=2)
    output = capsys.readouterr().out
    assert re.search(r"^[ab]\.0: round 0/1  epoch \d+/50  density 1.000", output, re.MULTILINE), output
    assert re.search(r"^([ab]).0: waits for (?!\1)[ab].0, which trains", output, re.MULTILINE), output
    assert "path 2 of 2 has ended" in output


def test_a_search_shows_its_generation_its_best_score_and_the_time_left():
    candidates = tuple(SearchCandidate(str(number), Dense(), 1) for number in range(16))
    generation = Generation(candidates, 3, 18, 0.9312)
    work = Evaluate("k", 0, 1, TrainState({}), Dense(), Scoring(), generation)
    report = SearchReport.of(work, ACCURACY, done=4, best=0.9, per_second=2.0, workers=2)
    assert report.line == (
        "round 1/1  search: generation 3 of 18, 14 % of the evaluations  best val 93.12 %  "
        "2 evaluations/s on 2 worker(s)  2 m 04 s left"
    )
    loss = Objective("loss", higher_is_better=False)
    first = dataclasses.replace(work, generation=dataclasses.replace(generation, best=None))
    assert "best val 0.2500  " in SearchReport.of(first, loss, done=1, best=-0.25, per_second=0.0, workers=1).line
