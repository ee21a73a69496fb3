"""What a person reads while a run is under way."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
import tiny
from rich.console import Console
from tiny import measured

from orchestrator.distributed.progress_line import (
    LOG_SECONDS,
    Pace,
    Shown,
    epoch_line,
    live_line,
    path_line,
    restart_line,
    round_line,
    waiting_line,
)
from orchestrator.distributed.run_status import Report, Status
from orchestrator.distributed.search_report import SearchReport
from orchestrator.distributed.sweep import sweep_paths
from orchestrator.objective import Objective
from orchestrator.pruning import OneShot
from orchestrator.pruning.candidate import Generation, Scoring, SearchCandidate
from orchestrator.pruning.structure import Dense
from orchestrator.record import Blob, Record
from orchestrator.task import ACCURACY
from orchestrator.techniques import FineTuning
from orchestrator.train_state import TrainState
from orchestrator.work.scoring import Evaluate
from orchestrator.work.train import EpochMetrics

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


class Ahead(Pace):
    """A pace that knows how much time is left."""

    def left(self, report: Report) -> float:
        return 187.0


def test_the_line_of_a_terminal_is_a_bar_the_epoch_the_objective_the_speed_and_the_time_left():
    line = live_line(REPORT, Ahead(), 100)
    assert line == "round 2/14  ━━━━────────────  epoch 7/30  val 97.00 %  3 m 07 s left  5,400 samples/s"


@pytest.mark.parametrize("width", [20, 40, 60, 78, 200])
@pytest.mark.parametrize("objective", [ACCURACY, Objective("bits_per_character", higher_is_better=False)])
def test_the_line_of_a_terminal_fits(width, objective):
    metrics = EpochMetrics(6, 0.1, 0.0123, {objective.name: 0.97123})
    long = dataclasses.replace(REPORT, round=12, objective=objective, metrics=metrics, samples_per_second=123456.0)
    line = live_line(long, Ahead(), width)
    assert len(line) <= width
    assert line.startswith("round 12/14")
    assert ("samples/s" in line) == (width >= 78)


def shown(width: int = 120) -> tuple[Shown, io.StringIO]:
    output = io.StringIO()
    return Shown(Console(file=output, width=width), None), output


STATUS = Status(REPORT, (), None, 1, 0, None)


def test_a_log_has_a_line_a_minute_and_nothing_twice(monkeypatch):
    now = 100.0
    monkeypatch.setattr("orchestrator.distributed.progress_line.time.monotonic", lambda: now)
    lines, output = shown(200)
    for epoch in range(7, 20):
        lines.update(dataclasses.replace(STATUS, report=dataclasses.replace(REPORT, epochs_done=epoch)))
        now += LOG_SECONDS / 4
    assert re.findall(r"epoch (\d+)/30", output.getvalue()) == ["7", "11", "15", "19"]


@pytest.mark.parametrize(
    ("crash", "why"),
    [
        ("RuntimeError: CUDA error (job.py:12)", "RuntimeError: CUDA error (job.py:12)"),
        (None, "a worker died without a word, as it does when memory is short or its node is gone"),
    ],
)
def test_workers_that_start_again_say_why(crash, why):
    again = dataclasses.replace(STATUS, restarts=1, crash=crash)
    assert restart_line(again, 65.0) == f"workers started again (1 m 05 s into the run): {why}"
    lines, output = shown(200)
    lines.update(again)
    lines.update(again)
    assert output.getvalue().count("workers started again") == 1


def test_a_round_that_goes_on_says_from_where():
    lines, output = shown(200)
    for _ in range(2):
        lines.update(dataclasses.replace(STATUS, resumed=(2, 12, 340)))
    assert output.getvalue().count("round 2 goes on from its checkpoint: 12 epochs and 340 steps are done") == 1


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("CREATED", "waiting for the workers, which are starting"),
        ("PENDING", "other jobs have taken their resources; 1 of 4 CPU and 0 of 0 GPU are free"),
    ],
)
def test_resources_are_said_to_be_missing_only_if_they_are(monkeypatch, state, line):
    """Once the workers have reserved them, no CPU is free, and none is missing."""
    monkeypatch.setattr("ray.util.placement_group_table", lambda: {"a": {"state": "REMOVED"}, "b": {"state": state}})
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    assert line in waiting_line()


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
        "round 1/1  search: generation 3 of 18, 14 % of the generations  best val 93.12 %  "
        "2 evaluations/s on 2 worker(s)  2 m 04 s left"
    )
    loss = Objective("loss", higher_is_better=False)
    first = dataclasses.replace(work, generation=dataclasses.replace(generation, best=None))
    assert "best val 0.2500  " in SearchReport.of(first, loss, done=1, best=-0.25, per_second=0.0, workers=1).line
    assert "best" not in SearchReport.of(first, loss, done=1, best=None, per_second=0.0, workers=1).line
    last = dataclasses.replace(work, generation=dataclasses.replace(generation, number=17, later=8.0))
    assert SearchReport.of(last, ACCURACY, done=7, best=0.9, per_second=2.0, workers=2).line.endswith("  5.0 s left")
