"""Reports of any objective: its name, its unit and its better direction, in closed tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report.synthetic import (
    BITS,
    CLASSIFICATION,
    HOSTILE,
    THREE,
    in_bits,
    path,
    path_of,
    paths,
    record,
    save,
    save_page_alone,
)
from rich.console import Console

from orchestrator.objective import Objective
from orchestrator.record import MODEL, Blob, Record
from orchestrator.report import comparisons, json_line, print_and_write, print_status, print_table, save_csv, summary
from orchestrator.report.comparison import paired_differences
from orchestrator.report.page import Chapter
from orchestrator.report.pictures import draw_pictures, drawing_style
from orchestrator.report.pictures.style import ValueAxis
from orchestrator.report.published import find_published
from orchestrator.report.status import StorageView, changes
from orchestrator.report.summary import Quantity, pareto_front, recommend
from orchestrator.report.tables import rounds_table
from orchestrator.task import ACCURACY

ERROR_RATE = Objective("phone_error_rate", higher_is_better=False, fraction=True)
R2 = Objective("r2", higher_is_better=True)
LIKELIHOOD = Objective("log_likelihood", higher_is_better=True)


# Words.


@pytest.mark.parametrize(
    ("objective", "value", "name", "legend", "text", "difference", "allowance"),
    [
        (ACCURACY, 0.9731, "accuracy", "accuracy in per cent", "97.31 %", "-0.40", "half a point below"),
        (ERROR_RATE, 0.1, "phone error rate", "phone error rate in per cent, lower is better", "10.00 %", "-0.40",
         "half a point above"),
        (BITS, 1.93, "bits per character", "bits per character, lower is better", "1.930", "-0.004", "1 % above"),
        (BITS, 1234.4, "bits per character", "bits per character, lower is better", "1234", "0", "1 % above"),
        (R2, 0.5, "r2", "r2", "0.5000", "-0.0040", "1 % below"),
        (R2, 0.0, "r2", "r2", "0.000", "-0.004", "1 % below"),
        (LIKELIHOOD, -20.5, "log likelihood", "log likelihood", "-20.50", "0.00", "1 % below"),
    ],
)  # fmt: skip
def test_an_objective_is_put_into_words(
    objective: Objective, value: float, name: str, legend: str, text: str, difference: str, allowance: str
) -> None:
    quantity = Quantity(objective)
    assert (quantity.name, quantity.legend, quantity.text(value)) == (name, legend, text)
    assert quantity.difference(-0.004, value) == difference
    assert quantity.allowance == allowance
    assert quantity.rule == (
        f"recommended: the network with the fewest weights of those whose validation {name} is at most {allowance} the "
        f"dense one's. Test {name} is shown, never used to choose."
    )


def test_a_name_from_storage_is_one_short_line() -> None:
    odd = Objective("a\x1b[2J\n_b" + "c" * 99, higher_is_better=True)
    assert Quantity(odd).name == "a [2J  b" + "c" * 12 + "…" + "c" * 19
    assert "\x1b" not in "".join(printed(print_table, [record(objective=odd)]))


# Choices.


@pytest.mark.parametrize(
    ("objective", "values", "floor", "recommended", "front"),
    [
        (BITS, [2.0, 1.9, 2.02, 2.03], 2.02, 2, [3, 2, 1]),
        (BITS, [2.0, 2.0201, 1.0, 9.0], 2.02, 2, [3, 2]),
        (BITS, [0.0, 0.0, 0.001, 0.0], 0.0, 3, [3]),
        (ERROR_RATE, [0.1, 0.105, 0.106, 0.2], 0.105, 1, [3, 2, 1, 0]),
        (R2, [0.8, 0.792, 0.791, 0.9], 0.792, 3, [3]),
        (LIKELIHOOD, [-20.0, -20.2, -20.3, -19.0], -20.2, 3, [3]),
        (LIKELIHOOD, [-20.0, -20.2, -20.3, -30.0], -20.2, 1, [3, 2, 1, 0]),
    ],
)
def test_the_better_direction_decides_the_recommended_round_and_the_front(
    objective: Objective, values: list[float], floor: float, recommended: int, front: list[int]
) -> None:
    rows = summary(path(values, objective=objective))
    assert [row.round for row in rows if row.recommended] == [recommended]
    choice = recommend(rows)
    assert choice is not None
    assert choice.row.round == recommended
    assert choice.floor == pytest.approx(floor)
    assert [row.round for row in pareto_front(rows)] == front


def test_of_equally_large_files_only_the_one_of_fewer_bits_is_on_the_front() -> None:
    blobs = {MODEL: Blob("0" * 64, 100)}
    rows = summary([record(r, val=val, objective=BITS, blobs=blobs) for r, val in enumerate((1.9, 1.8, 2.0))])
    assert [row.round for row in pareto_front(rows)] == [1]


def test_the_reason_names_the_objective_and_its_floor() -> None:
    choice, nothing = (recommend(summary(path(values, objective=BITS))) for values in ([2.0, 1.9], [2.0, 2.1]))
    assert choice is not None
    assert choice.reason == (
        "2 of 2 rounds have a validation bits per character of at most 2.020, 1 % above the dense network's 2.000. "
        "This one keeps the fewest weights of them: 2,048 of 4,096 (2.0x, 8.19 kB), at 1.900."
    )
    assert nothing is not None
    assert nothing.reason == (
        "No pruned network has a validation bits per character of at most 2.020, 1 % above the dense network's 2.000: "
        "use the dense network for now."
    )


def test_of_equally_small_networks_and_of_seeds_the_one_of_fewer_bits_is_chosen() -> None:
    records = [
        record(r, seed, val, experiment=name, objective=BITS)
        for name, vals in (("a", (1.91, 1.92)), ("b", (1.9, 1.89)))
        for seed, val in enumerate(vals)
        for r in (0, 1)
    ]
    (comparison,) = comparisons(records)
    assert [(r.experiment, r.seed, r.round) for r in comparison.recommended_records] == [("b", 1, 1), ("b", 0, 1)]


# Comparisons.


def test_tasks_and_objectives_have_a_chapter_each() -> None:
    accuracy = path_of("fine-tuning", 0, 1)
    smoothed = [
        dataclasses.replace(r, settings={**r.settings, "task": {**CLASSIFICATION, "label_smoothing": 0.1}})
        for r in path_of("weight-rewinding", 0, 1)
    ]
    found = comparisons([*accuracy, *smoothed, *in_bits(path_of("lottery-ticket", 0, 1))])
    title = "resnet20 on cifar10 (task {}, objective {})"
    assert {each.title: list(each.experiments) for each in found} == {
        title.format("Classification label_smoothing=0.0", "accuracy"): ["fine-tuning"],
        title.format("Classification label_smoothing=0.1", "accuracy"): ["weight-rewinding"],
        title.format("Tokens unit=character", "bits per character"): ["lottery-ticket"],
    }
    same_task = [dataclasses.replace(r, settings=accuracy[0].settings) for r in in_bits(path_of("tiny", 0, 0))]
    assert len(comparisons([*accuracy, *same_task])) == 2


def test_values_of_different_tasks_are_no_pair() -> None:
    first, second = path_of("fine-tuning", 0, 1), path_of("weight-rewinding", 0, 1)
    assert len(paired_differences(first + second, THREE)) == 1
    assert paired_differences(first + in_bits(second), THREE) == []
    assert len(paired_differences(in_bits(first) + in_bits(second), THREE)) == 1
    smoothed = [dataclasses.replace(r, settings={**r.settings, "task": {"type": "Smoothed"}}) for r in second]
    assert paired_differences(first + smoothed, THREE) == []


def test_seeds_of_one_name_with_different_objectives_are_never_averaged() -> None:
    rows = summary([*path([0.9, 0.8], seed=0), *path([2.0, 2.0], seed=1, objective=BITS)])
    assert [(row.quantity.name, row.round, row.validation.median, row.recommended) for row in rows] == [
        ("accuracy", 0, 0.9, True), ("accuracy", 1, 0.8, False),
        ("bits per character", 0, 2.0, False), ("bits per character", 1, 2.0, True),
    ]  # fmt: skip


def test_published_results_are_those_of_accuracy_alone() -> None:
    records = path_of("fine-tuning", 0, 1)
    assert find_published(records) is not None
    assert find_published(in_bits(records)) is None
    other = Objective("accuracy", higher_is_better=False, fraction=True)
    assert find_published([dataclasses.replace(each, objective=other) for each in records]) is None


# Tables.


def printed(show: Callable[..., None], *args: Any) -> list[str]:
    out = io.StringIO()
    show(*args, Console(file=out, width=200))
    return [" ".join(line.split()) for line in out.getvalue().splitlines() if line.strip()]


def test_the_table_of_an_objective_that_goes_down() -> None:
    lines = printed(print_table, path([2.0, 1.93], test=2.5, objective=BITS))
    assert lines[0] == "digits: LearningRateRewinding, seed 0, 4,096 prunable weights"
    assert lines[2] == "round density compression kept val test epochs time size"
    assert lines[-4:] == [
        "0 1 1.0x 4,096 2.000 2.500 30 1 m 23 s 16.4 kB",
        "* 1 0.5 2.0x 2,048 1.930 2.500 30 1 m 23 s 8.19 kB",
        "val, test: bits per character, lower is better.",
        f"* {Quantity(BITS).rule}",
    ]


def test_status_shows_rounds_of_two_objectives_in_two_tables() -> None:
    records = [record(0), record(0, objective=ERROR_RATE, val=0.08, key="k"), record(1, objective=BITS, val=1.9)]
    lines = printed(print_status, records, [])
    assert [line for line in lines if line.startswith("digits")] == [
        "digits, seed 0: accuracy in per cent",
        "digits, seed 0: phone error rate in per cent, lower is better",
        "digits, seed 0: LearningRateRewinding, bits per character, lower is better",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("round")] == [
        f"round key density compression kept {measured} epochs seconds MB"
        for measured in ("val % test %", "val % test %", "val test")
    ]
    assert "0 k 1 1.0x 4,096 8.00 90.00 30 83.0 0.016" in lines


def test_the_csv_and_the_json_lines_name_the_objective(tmp_path: Path) -> None:
    records = [record(0, val=0.9, test=0.8), record(1, val=1.9, test=2.0, objective=BITS)]
    with open(save_csv(records, tmp_path / "report.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("objective", "higher_is_better", "train_loss", "val_accuracy", "val_bits_per_character", "test_accuracy")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("accuracy", "True", "0.25", "0.9", "", "0.8"),
        ("bits_per_character", "False", "0.25", "", "1.9", ""),
    ]
    value = json.loads(json_line(records[1]))
    assert (value["objective"], value["higher_is_better"]) == ("bits_per_character", False)
    assert value["metrics"] == {"train_loss": 0.25, "val_bits_per_character": 1.9, "test_bits_per_character": 2.0}


@pytest.mark.parametrize("name", [*HOSTILE, "=1+1"])
def test_a_hostile_name_of_a_metric_is_one_line_of_text_in_the_csv(tmp_path: Path, name: str) -> None:
    file = save_csv([record(objective=Objective(name, higher_is_better=True))], tmp_path / "report.csv")
    with open(file, newline="", encoding="utf-8") as lines:
        header, row = csv.reader(lines)
    assert f"val_{''.join(c if c.isprintable() else ' ' for c in name)}" in header
    assert not row[header.index("objective")].startswith("=")


def test_a_finished_round_is_told_in_its_objective() -> None:
    nothing = StorageView({}, {}, {}, {})
    after = dataclasses.replace(nothing, records={"k": record(1, val=1.93, test=2.0, objective=BITS)})
    (line,) = changes(nothing, after)
    assert line == "digits, seed 0: round 1 done (digits-0), 2.0x  bits per character: val 1.930, test 2.000  1 m 23 s"


# Pictures.


def drawn(records: list[Record]) -> dict[str, Any]:
    (comparison,) = comparisons(records)
    with drawing_style():
        return {picture.name: picture for picture in draw_pictures(comparison, {})}


@pytest.mark.parametrize(
    ("objective", "value", "ticks", "tolerance", "bounds"),
    [
        (ACCURACY, 0.995, ["98.5 %", "99 %", "99.5 %", "100 %"], 0.5, (0, 100)),
        (ERROR_RATE, 0.005, ["0 %", "0.5 %", "1 %", "1.5 %"], 0.5, (-float("inf"), 0)),
        (BITS, 2.0, ["1", "1.5", "2", "2.5", "3"], 0.02, (-float("inf"), float("inf"))),
        (BITS, 0.0, ["-1", "-0.5", "0", "0.5", "1"], 0.005, (-float("inf"), float("inf"))),
    ],
)
def test_the_axis_of_an_objective(
    objective: Objective, value: float, ticks: list[str], tolerance: float, bounds: tuple[int, int]
) -> None:
    axis = ValueAxis(Quantity(objective), [value])
    assert axis.tolerance == pytest.approx(tolerance)
    assert axis.gain_bounds == bounds
    assert axis.drawn_gain(axis.gain(value)) == axis.drawn(value)
    with drawing_style():
        from matplotlib.figure import Figure

        axes = Figure().add_subplot()
        axis.set_up(axes, axis.gain(value) - 1, axis.gain(value) + 1, "test")
    assert axes.get_ylim() == pytest.approx((axis.drawn(value) - 1, axis.drawn(value) + 1))
    assert [label.get_text() for label in axes.get_yticklabels()] == ticks


def test_pictures_of_bits_grow_upwards_and_say_that_lower_is_better() -> None:
    records = in_bits(paths(THREE, seeds=2, rounds=10, epochs=4))
    (comparison,) = comparisons(records)
    choice = comparison.recommendation
    assert choice is not None
    assert choice.row.round
    pictures = drawn(records)
    assert list(pictures) == ["compression", "front", "cost", "layers", "learning"]
    for name, data in {"compression": "test", "front": "validation", "cost": "test", "learning": "validation"}.items():
        axes = pictures[name].figure.axes[0]
        low, high = axes.get_ylim()
        assert low < high
        assert axes.get_ylabel() == f"{data} bits per character\n(lower is better)"
        assert "%" not in "".join(label.get_text() for label in axes.get_yticklabels())
    assert [pictures[name].alt.split(",")[0].split(":")[0] for name in ("compression", "front")] == [
        "Test bits per character against compression", "Validation bits per character against file size",
    ]  # fmt: skip
    levels = [list(line.get_ydata()) for line in pictures["front"].figure.axes[0].lines]
    assert [choice.floor] * 2 in levels
    texts = [text.get_text().strip() for text in pictures["compression"].figure.legends[0].get_texts()]
    assert texts[0] == f"recommended: {choice.row.compression:.1f}x, {choice.row.test.median:.3f}"


def test_networks_that_fail_leave_the_picture_above() -> None:
    records = in_bits(path_of("fine-tuning", 0, 4, epochs=1))
    records[4].metrics.update({"test_bits_per_character": 40.0})
    figure = drawn(records)["compression"].figure
    dense = records[0].test
    assert dense < figure.axes[0].get_ylim()[1] < 2 * dense
    assert any(re.match(r"Lines that leave the picture go on above [\d.]+\.", t.get_text()) for t in figure.texts)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
def test_pictures_of_equal_values(value: float) -> None:
    records = in_bits(path_of("fine-tuning", 0, 1, epochs=1))
    for each in records:
        each.metrics.update(val_bits_per_character=value, test_bits_per_character=value)
    for name in ("compression", "front", "cost"):
        low, high = drawn(records)[name].figure.axes[0].get_ylim()
        assert low < value < high


# The page.


def test_a_page_of_two_objectives_has_columns_for_each(tmp_path: Path) -> None:
    records = path_of("fine-tuning", 0, 1) + in_bits(path_of("fine-tuning", 1, 1))
    table = rounds_table(records)
    places = [place for place, (title, _) in enumerate(table.columns) if title.startswith(("val", "test"))]
    assert [table.columns[place] for place in places] == [
        ("val accuracy %", "percent"), ("test accuracy %", "percent"),
        ("val bits per character", "number"), ("test bits per character", "number"),
    ]  # fmt: skip
    assert [[line[place] for place in places] for line in table.lines] == [
        *([each.val, each.test, None, None] for each in records[:2]),
        *([None, None, each.val, each.test] for each in records[2:]),
    ]
    page = save_page_alone(records, tmp_path / "report.html")
    assert page.count("at most half a point below the dense one&#39;s") == 1
    assert page.count("at most 1 % above the dense one&#39;s") == 1


def test_a_page_of_bits_says_nothing_of_accuracy_and_colours_fewer_bits_as_better(tmp_path: Path) -> None:
    records = in_bits([each for name in THREE[:2] for seed in range(6) for each in path_of(name, seed, 1, history=0)])
    for each in records:
        each.metrics["test_bits_per_character"] = 1.5 if each.experiment == THREE[0] or not each.round else 1.6
    page = save_page_alone(records, tmp_path / "report.html")
    text = page[: page.index('<script type="module">')]
    assert "accurac" not in text
    assert "Test bits per character minus that of <strong>" in text
    (comparison,) = comparisons(records)
    first, _, lines = Chapter(comparison, {}, {}).differences or ("", [], [])
    ((_, (cell,)),) = lines
    assert cell is not None
    colour, shown = ("worse", "+0.100") if first == THREE[0] else ("better", "-0.100")
    assert f'<td class="{colour}">{shown} <small>{shown}..{shown}</small></td>' in text


def test_hostile_names_of_an_objective_are_text(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if len(name) < 100]
    records = [
        each
        for seed, name in enumerate(names)
        for each in in_bits(path_of("fine-tuning", seed, 1, epochs=1), Objective(name, higher_is_better=False))
    ]
    page = save_page_alone(records, tmp_path / "report.html")
    assert page[: page.index('<script type="module">')].count("<script") == 1, "the content of the table of all rounds"
    assert "<img" not in page
    assert "<b>49</b>" not in page
    assert not re.search("[\u2028\u202e\x00]", page)
    assert len(comparisons(records)) == len(names)
    hostile = [each for each in records if each.objective.name == HOSTILE[0]]
    assert "<script>alert" not in save(hostile, tmp_path / "pictures")


def test_a_report_prints_a_table_for_each_objective(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.report.folder.draw_pictures", lambda comparison, references: [])
    print_and_write([record(0), record(0, experiment="chars", objective=BITS, key="k")], tmp_path)
    legends = [line for line in capsys.readouterr().out.splitlines() if line.startswith("val, test")]
    assert sorted(legends) == ["val, test: accuracy in per cent.", "val, test: bits per character, lower is better."]
