"""The section of a report about searches: its rivals, what its scores were worth, and what it draws."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from synthetic import record

from orchestrator import report
from orchestrator.record import MODEL, Blob, Record
from orchestrator.report.chapters.search_verdict import verdicts
from orchestrator.report.chapters.searches import published_section, retraining_correlation, search_section, searched
from orchestrator.report.comparison import comparisons
from orchestrator.report.pictures import drawing_style

SELECTION = {
    "type": "Amc",
    "unit": "macs",
    "mode": "channels",
    "tune_epochs": 1,
    "agent": {"type": "Cem"},
    "take": "Cem",
}


def result(score: float, evaluations: int = 8) -> dict[str, Any]:
    return {
        "evaluations": evaluations, "score": score, "final_score": score + 0.1, "ratios": {"conv1": 0.5, "conv2": 1.0}
    }  # fmt: skip


def proof(score: float = 0.8, agent: str = "Cem", found_by: str = "", **changes: Any) -> dict[str, Any]:
    """Return what a search says of itself, as a record has it."""
    return {
        "agent": agent, "unit": "macs", "mode": "channels", "cost": 0.1, "found_by": found_by or agent,
        "score": score, "scored": 17, "epochs": 29, "seconds": 61.0, "correlation": 0.5,
        "results": {agent: result(0.8), "Uniform": result(0.6, 1), "Random": result(0.7)},
        "ratios": {"conv1": 0.25, "conv2": 0.75},
        "scores": {agent: [[0.5, None, 0.7], [0.6, 0.8]], "Uniform": [[0.6]], "Random": [[0.7, 0.1, 0.2], [0.3, 0.4]]},
        **changes,
    }  # fmt: skip


def round_of(experiment: str, score: float, test: float, seed: int = 0, network: str = "", **search: Any) -> Record:
    """Return a round whose structure was searched for, with its score and its test value after retraining."""
    made = record(1, seed, test, test, experiment, parent=f"dense-{seed}", search=proof(score, **search))
    blobs = {MODEL: Blob((network or experiment[-1]).encode().hex().rjust(64, "0"), 9)}
    return dataclasses.replace(made, blobs=blobs, settings={"model": "m", "data": "d", "selection": SELECTION})


def dense(experiment: str, seed: int = 0) -> Record:
    return record(0, seed, experiment=experiment, settings={"model": "m", "data": "d"})


def test_a_search_without_its_rivals_is_not_shown():
    alone = proof(results={"Cem": result(0.8), "Random": result(0.7)})
    others = [alone, None, {"kind": "front"}, proof(scored=-1), proof(found_by="Ddpg")]
    records = [record(1, search=each) for each in [*others, proof()]]
    assert [each.proof for each in searched(records)] == [each.proof for each in searched(records[-1:])]
    assert len(searched(records)) == 1


def test_scores_are_compared_with_what_retraining_made_of_them():
    """Ranks 1, 2, 3, 4 against 1, 3, 2, 4: 1 - 6 * 2 / (4 * 15)."""
    four = [round_of(f"e{n}", score, test) for n, (score, test) in enumerate([(1, 1), (2, 3), (3, 2), (4, 4)])]
    assert retraining_correlation(searched(four)) == (pytest.approx(0.8), 4)
    other_seed = [round_of(f"e{n}", score, test, seed=1) for n, (score, test) in enumerate([(9, 3), (8, 2), (7, 1)])]
    assert retraining_correlation(searched([*four, *other_seed])) == (pytest.approx(0.9), 7)


def test_networks_are_compared_only_if_they_were_scored_and_retrained_alike():
    three = [round_of(f"e{n}", n, n) for n in range(3)]
    assert retraining_correlation(searched(three)) == (pytest.approx(1), 3)
    assert retraining_correlation(searched(three[:2])) is None
    same = [dataclasses.replace(each, blobs=three[0].blobs) for each in three]
    assert retraining_correlation(searched(same)) is None
    for change in ({"tune_epochs": 0}, {"take": "Random"}, {"agent": {"type": "Ddpg"}}, {"evaluations": 9}):
        changed = dataclasses.replace(three[0], settings={**three[0].settings, "selection": {**SELECTION, **change}})
        found = retraining_correlation(searched([changed, *three[1:]]))
        assert (found is None) == ("tune_epochs" in change), change


def section_of(records: list[Record]):
    (comparison,) = comparisons(records)
    with drawing_style():
        return search_section(comparison)


def test_the_section_has_the_agent_beside_its_rivals():
    records = [
        dense("cem"),
        round_of("cem", 0.9, 0.93),
        dense("random"),
        round_of("random", 0.8, 0.9, found_by="Random"),
    ]
    (section,) = section_of(records)
    (table,) = section.tables
    assert [line[:4] for line in table.lines] == [["cem", "Cem", "8", "Cem"], ["random", "Cem", "8", "Random"]]
    assert table.lines[0][4:10] == ["80.00 %", "60.00 %", "70.00 %", "90.00 %", "70.00 %", "80.00 %"]
    assert table.lines[0][10:] == ["17", "29", "1 m 01 s", "+0.50", "93.00 %"]
    assert len(table.columns) == len(table.lines[0])
    assert "is not known" in section.paragraphs[1]
    assert [picture.name for picture in section.pictures] == ["ratios", "search-scores"]


def retrained(tests: dict[str, float], seeds: int) -> list[Record]:
    """Return the rounds of an experiment for each agent, whose test values rise by a point from seed to seed."""
    return [
        each
        for agent, test in tests.items()
        for seed in range(seeds)
        for each in (
            dense(agent, seed),
            round_of(agent, 0.8, test + seed / 100, seed, agent, agent=AGENTS.get(agent, agent), found_by=agent),
        )
    ]


AGENTS = {"Uniform": "Cem", "Random": "Cem"}  # which search a rival's network is of


def verdict_of(tests: dict[str, float], seeds: int) -> list[str]:
    (section,) = section_of(retrained(tests, seeds))
    return [text for text in section.paragraphs if "worth its cost" in text][1:]


def test_a_search_is_worth_its_cost_if_it_is_clearly_better_than_both_rivals():
    first, rule = verdict_of({"Cem": 0.9, "Random": 0.88, "Uniform": 0.89, "Ddpg": 0.885}, seeds=6)
    assert (
        "Cem for channels at density 0.5 of the macs: minus Random +2.00 (+2.00..+2.00, 6 seeds), "
        "minus Uniform +1.00 (+1.00..+1.00, 6 seeds): "
        "worth its cost." in first
    )
    assert "minus Random +0.50 (+0.50..+0.50, 6 seeds), minus Uniform -0.50 (-0.50..-0.50, 6 seeds): not shown" in first
    assert "at least 6 seeds" in rule


def test_few_seeds_or_a_missing_rival_show_nothing():
    assert "Cem for channels at density 0.5 of the macs: minus Random +2.00 (+2.00..+2.00, 5 seeds)" in verdict_of(
        {"Cem": 0.9, "Random": 0.88, "Uniform": 0.88}, seeds=5
    )[0]  # fmt: skip
    few = {"Cem": 0.9, "Random": 0.88, "Uniform": 0.88}, {"Cem": 0.9, "Random": 0.88}, {"Cem": 0.9}
    for tests, seeds in zip(few, (5, 6, 6), strict=True):
        assert verdict_of(tests, seeds)[0].endswith(": not shown to be worth its cost.")
    assert "no retrained network of Uniform" in verdict_of(few[1], 6)[0]
    assert "(no interval, 1 seed)" in verdict_of(few[0], 1)[0]
    assert verdict_of({"Random": 0.9, "Uniform": 0.9}, 6) == []


def test_only_networks_of_one_dense_network_and_one_way_to_score_are_compared():
    own, rival = retrained({"Cem": 0.9}, 1), retrained({"Random": 0.8}, 1)
    other = dataclasses.replace(rival[1], settings={**rival[1].settings, "selection": {**SELECTION, "evaluations": 9}})
    for changed in (other, dataclasses.replace(rival[1], parent="dense-9")):
        (section,) = section_of([*own, rival[0], changed])
        assert "minus Random" not in " ".join(section.paragraphs)


def test_searches_for_another_budget_have_a_verdict_of_their_own():
    own, rival = round_of("cem", 0.9, 0.93), round_of("random", 0.8, 0.9, found_by="Random")
    weights = {"unit": "weights", "mode": "weights"}
    others = [
        dataclasses.replace(each, settings={**each.settings, "selection": {**SELECTION, **weights}})
        for each in (own, rival)
    ]
    groups = [{"Cem": own, "Random": rival}, {"Cem": others[0], "Random": others[1]}]
    assert [(each.unit, each.mode, len(each.differences)) for each in verdicts(groups)] == [
        ("macs", "channels", 1),
        ("weights", "weights", 1),
    ]


def test_an_agent_has_one_colour_in_both_pictures():
    (section,) = section_of(retrained({"Uniform": 0.9, "Random": 0.9, "Ddpg": 0.9}, 1))
    ratios, scores = (
        {
            text.get_text().strip(): line.get_color()
            for line, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
        }
        for legend in (picture.figure.legends[0] for picture in section.pictures)
    )
    assert set(scores) == {"Cem", "Uniform", "Random", "Ddpg"}
    assert all(scores[agent] == ratios[agent] for agent in ratios)
    assert len(set(scores.values())) == 4


def test_the_figures_of_the_paper_stand_above_ours_where_the_network_is_the_paper_s():
    about = {"model": "torchvision:mobilenet_v2", "data": "imagefolder"}
    rounds = [
        dataclasses.replace(each, settings={**each.settings, **about}, prunable=3_469_760)
        for each in (dense("v2"), round_of("v2", 0.9, 0.7))
    ]
    half = dataclasses.replace(rounds[1], channels={"macs": [150_000_000, 300_000_000], "groups": {}})
    (comparison,) = comparisons([rounds[0], half])
    (section,) = published_section(comparison)
    (table,) = section.tables
    assert [line[1:4] for line in table.lines] == [
        ["MobileNetV2", "70 % of the MACs", "70.85 %"],
        ["MobileNetV1", "50 % of the MACs", "70.49 %"],
        ["torchvision:mobilenet_v2", "50 % of the MACs, 150 million", "70.00 %"],
    ]
    assert table.lines[-1][0] == "ours: v2, round 1, seed 0"
    assert all(len(line) == len(table.columns) for line in table.lines)
    (other,) = comparisons([dense("cem"), round_of("cem", 0.9, 0.93)])
    assert published_section(other) == []


@pytest.mark.parametrize(("error", "warned"), [(1.54, True), (0.2, False), (None, False)])
def test_a_latency_table_that_misses_whole_networks_is_spoken_of(error, warned):
    (section,) = section_of([dense("cem"), round_of("cem", 0.9, 0.93, table={"digest": "0", "error": error})])
    said = [each for each in section.paragraphs if "misses a whole network by 154 %" in each]
    assert len(said) == warned


def test_the_ratios_are_drawn_by_layer_and_the_scores_by_generation():
    (section,) = section_of([dense("cem"), round_of("cem", 0.9, 0.93)])
    ratios, scores = section.pictures
    assert ratios.titles == {"ratios-0": ["cem, conv1: 25.00 %", "cem, conv2: 75.00 %"]}
    assert scores.titles == {
        "scores-0": ["Cem, after 3 evaluations: 70.00 %", "Cem, after 5 evaluations: 80.00 %"],
        "scores-1": ["Uniform, after 1 evaluations: 60.00 %"],
        "scores-2": ["Random, after 3 evaluations: 70.00 %", "Random, after 5 evaluations: 70.00 %"],
    }


def test_rounds_of_one_path_are_not_mixed():
    """As the paper's stages: each round was searched for at a density of its own."""
    first = round_of("cem", 0.9, 0.93)
    scores = {"Cem": [[0.3]], "Uniform": [[0.2]], "Random": [[0.1]]}
    later = proof(0.7, ratios={"conv1": 0.5}, scores=scores)
    second = dataclasses.replace(first, key="second", round=2, density=0.25, parent=first.key, search=later)
    (section,) = section_of([dense("cem"), first, second])
    (table,) = section.tables
    assert [line[0] for line in table.lines] == ["cem, round 1", "cem, round 2"]
    ratios, best = section.pictures
    assert ratios.titles == {
        "ratios-0": ["cem, round 1, conv1: 25.00 %", "cem, round 1, conv2: 75.00 %"],
        "ratios-1": ["cem, round 2, conv1: 50.00 %"],
    }
    assert best.titles["scores-0"] == ["Cem, after 1 evaluations: 30.00 %"]


def test_a_comparison_without_a_search_has_no_section():
    assert section_of([dense("plain"), record(1, experiment="plain", settings={"model": "m", "data": "d"})]) == []


def test_the_page_has_the_section(tmp_path: Path):
    records = [dense("cem"), round_of("cem", 0.9, 0.93)]
    *_, page = report.write(records, tmp_path)
    text = page.read_text()
    assert "Uniform keeps the same fraction of every layer" in text
    assert 'id="searches-1"' in text
    assert (tmp_path / "search-scores.png").is_file()
