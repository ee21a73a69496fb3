"""Tables, CSV files and JSON lines, which show names as they are."""

import csv
import io

import pytest
from report.synthetic import path, record
from rich.console import Console

from orchestrator.errors import OrchestratorError
from orchestrator.report import print_status, print_table, save_csv

SEEDS = [r for seed in range(3) for r in path([0.95, 0.95 + seed / 100, 0.94], seed)]
ODD = "a[red]b[/] $x$ :smile: \x1b[2J\n"


def printed(show, *args, width=200, **console):
    out = io.StringIO()
    show(*args, Console(file=out, width=width, **console))
    return out.getvalue()


def line(output, round):
    return next(x for x in output.splitlines() if x.replace("*", " ").split()[:1] == [str(round)])


def test_the_table_of_one_seed():
    output = printed(print_table, path([0.95, 0.9612, 0.94], test=0.9))
    assert "digits: LearningRateRewinding, seed 0, 4,096 prunable weights" in output
    assert " ".join(line(output, 0).split()) == "0 1 1.0x 4,096 95.00 90.00 30 1 m 23 s 16.4 kB"
    assert " ".join(line(output, 1).split()) == "* 1 0.5 2.0x 2,048 96.12 90.00 30 1 m 23 s 8.19 kB"
    assert "validation accuracy is at most half a point below the dense one's" in output
    assert "Test accuracy is shown, never used to choose" in output
    assert ".." not in output


def test_the_table_of_several_seeds_gives_median_and_range():
    output = printed(print_table, SEEDS)
    assert "seeds 0, 1, 2" in output
    assert "96.00 (95.00..97.00)" in line(output, 1)
    assert "Median over the seeds" in output
    assert line(output, 1).split()[0] == "*"


def test_the_recommended_line_stands_out():
    lines = printed(print_table, SEEDS, force_terminal=True, color_system="standard").splitlines()
    assert [("* 1" in x) for x in lines if "\x1b[1;32m" in x] == [True]


def test_one_table_for_each_experiment():
    output = printed(print_table, path([0.9], experiment="a") + path([0.9], experiment="b"))
    assert [x for x in output.splitlines() if "prunable weights" in x] == [
        "a: dense, seed 0, 4,096 prunable weights",
        "b: dense, seed 0, 4,096 prunable weights",
    ]


def test_without_a_dense_round_nothing_is_recommended():
    output = printed(print_table, path([None, 0.9]))
    assert "*" not in output
    assert "Nothing is recommended" in output


@pytest.mark.parametrize("show", [lambda r, c: print_table(r, c), lambda r, c: print_status(r, [], c)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_terminal_of_80_columns_shows_whole_numbers(show, seeds):
    records = [r for r in SEEDS if r.seed < seeds]
    narrow, wide = printed(show, records, width=80), printed(show, records, width=200)
    assert max(map(len, narrow.splitlines())) <= 80
    for r in range(3):
        cells = [cell for cell in line(narrow, r).split() if "Learning" not in cell]
        assert not any("…" in cell for cell in cells)
        assert set(cells) <= set(line(wide, r).split())


def test_names_are_shown_as_they_are_but_on_one_line():
    records = path([0.9, 0.9], experiment=ODD, technique=ODD)
    failure = {"experiment": ODD, "seed": 0, "round": 2, "reason": ODD}
    tables = printed(print_table, records) + printed(print_status, records, [failure])
    assert tables.count("a[red]b[/] $x$ :smile:  [2J") == 2 + 1 + 1 + 2  # title twice, section, its technique, failure
    assert "\x1b" not in tables


def test_a_failed_round_is_told_in_red():
    failure = {"experiment": "digits", "seed": 3, "round": 2, "reason": "the loss of epoch 4 is nan"}
    output = printed(print_status, [], [failure, {}], width=30, force_terminal=True, color_system="standard")
    first, second = output.splitlines()
    assert first == "\x1b[31mfailed: digits, seed 3, round 2: the loss of epoch 4 is nan\x1b[0m"
    assert "seed ?, round ?: no reason was written" in second


# Files.


def test_the_csv_holds_every_record(tmp_path):
    file = save_csv(SEEDS, tmp_path / "new" / "report.csv")
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(r["key"], float(r["val_accuracy"]), int(r["bytes"]), float(r["compression"])) for r in rows] == [
        (r.key, r.metrics["val_accuracy"], r.model_bytes, 2.0**r.round) for r in SEEDS
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "two\nlines", "\ud800", "plain"])
def test_a_name_in_the_csv_is_no_formula_and_one_line(tmp_path, name):
    file = save_csv([record(experiment=name)], tmp_path / "report.csv")
    with open(file, newline="", encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    assert row["experiment"] in (f"'{name}", name.replace("\n", " ").replace("\ud800", " "))
    assert row["experiment"][0] not in "=+-@"


def test_a_csv_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OrchestratorError, match=r"cannot write .*/file/x\.csv .*choose another folder"):
        save_csv(path([0.9]), tmp_path / "file" / "x.csv")
