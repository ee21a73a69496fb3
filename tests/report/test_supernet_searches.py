"""A page shows what a search of a supernet found beside random search, and what its predictors knew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from synthetic import path_of

from orchestrator import report
from orchestrator.ofa.spaces import find_space
from orchestrator.report.chapters.supernet_searches import found_networks, supernet_section
from orchestrator.report.comparison import comparisons

SMALLEST = find_space("small").smallest()
WAYS = ("predictor and evolution", "random")


def proof(unit="macs", budget=0.5, cost=0.47, **more):
    results = {
        way: {"evaluations": 96, "score": score, "cost": part * cost, "architecture": SMALLEST.to_json()}
        for way, score, part in zip(WAYS, (0.95, 0.93), (1, 0.9), strict=True)
    }
    predictors = {
        name: {"kendall": tau, "rmse": rmse, "rmse_of_mean": 0.04}
        for name, tau, rmse in (("ridge", 0.8, 0.01), ("macs", 0.5, 0.02), ("depth", 0.3, 0.03))
    }
    return {
        "space": "small", "unit": unit, "budget": budget, "cost": cost, "architecture": SMALLEST.to_json(),
        "found_by": WAYS[0], "score": 0.95, "scored": 180, "epochs": 0, "seconds": 3.5, "results": results,
        "predictors": predictors, **more,
    }  # fmt: skip


@pytest.fixture
def records():
    """A dense round, a supernet, and two networks of it: within a budget of MACs, and within one of latency."""
    dense, phase, first, second = path_of("ofa", 0, 3)
    counted = {"unit": "macs", "macs": [1000, 1000], "parameters": [400, 400], "kept": {}, "space": "small"}
    small = {**counted, "macs": [470, 1000], "parameters": [90, 400], "architecture": SMALLEST.to_json()}
    return [
        dense,
        dataclasses.replace(phase, channels=counted, settings={**phase.settings, "phase": {"subnets": 4}}),
        dataclasses.replace(first, channels=small, search=proof(), epochs=0, history=[]),
        dataclasses.replace(
            second, channels=small, search=proof("latency_ms", 2.0, 1.5, latency_error=0.07), epochs=0, history=[]
        ),
    ]


def tables_of(records):
    (comparison,) = comparisons(records)
    (section,) = supernet_section(comparison)
    return section, {table.caption.partition(" of ")[0]: table for table in section.tables}


def test_each_budget_has_its_limit_and_cost_and_the_score_beside_random_search(records):
    section, tables = tables_of(records)
    table = tables["The network found for each budget"]
    assert table.lines == [
        ["ofa", "0", "2", "multiply-accumulates", "50.00 %", "47.00 %", WAYS[0], "95.00", "42.30 %", "93.00", "96",
         "180", ""],
        ["ofa", "0", "3", "latency", "2 ms", "1.5 ms", WAYS[0], "95.00", "1.35 ms", "93.00", "96", "180", "7.00 %"],
    ]  # fmt: skip
    assert len(table.columns) == len(table.lines[0])
    assert "beat random search for 2 of 2 budgets" in section.paragraphs[0]


def test_a_column_that_no_line_fills_is_left_out(records):
    _, tables = tables_of(records[:3])
    shown = tables["The network found for each budget"].without_empty_columns()
    assert shown.columns[-1] == "networks scored"
    assert shown.lines[0][-1] == "180"


def test_an_architecture_in_a_title_is_written_as_in_the_tables():
    options = {"architecture": SMALLEST.to_json()}
    (comparison,) = comparisons([
        dataclasses.replace(each, settings={**each.settings, "model": "ofa:small", "model_options": options})
        for each in path_of("alone", 0, 1)
    ])  # fmt: skip
    assert comparison.title == "ofa:small (blocks 3x2 | 3x2, kernel x expand) on cifar10"


def test_the_predictor_stands_beside_those_that_see_only_macs_and_depth_once_for_a_search(records):
    _, tables = tables_of(records)
    assert [line[2:] for line in tables["What predictors knew"].lines] == [
        ["ridge", "+0.80", "1.00", "4.00"],
        ["macs", "+0.50", "2.00", "4.00"],
        ["depth", "+0.30", "3.00", "4.00"],
    ]


def test_each_round_has_its_multiply_accumulates(records):
    _, tables = tables_of(records)
    assert [line[2:] for line in tables["Multiply-accumulates"].lines] == [
        ["1", "all of small, the largest counted", "1,000", "100.00 %", "400"],
        ["2", "small: 3x2 | 3x2", "470", "47.00 %", "90"],
        ["3", "small: 3x2 | 3x2", "470", "47.00 %", "90"],
    ]


def test_a_supernet_that_was_not_searched_has_only_its_rounds(records):
    section, tables = tables_of(records[:2])
    assert list(tables) == ["Multiply-accumulates"]
    assert "orchestrator ofa search" in section.paragraphs[0]


def test_other_searches_and_networks_without_a_supernet_have_no_section():
    (comparison,) = comparisons(path_of("plain", 0, 2))
    assert supernet_section(comparison) == []
    without_rival = {**proof(), "results": {}}
    assert not found_networks(dataclasses.replace(each, search=without_rival) for each in path_of("plain", 0, 1))


def test_the_page_has_the_section(records, tmp_path: Path):
    *_, page = report.write(records, tmp_path)
    text = page.read_text()
    assert 'id="supernets-1"' in text
    assert "The network found for each budget" in text
