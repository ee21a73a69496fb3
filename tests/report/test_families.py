"""Networks of several methods in one picture: which is whose, which are small or fast, and what they cost."""

from __future__ import annotations

import dataclasses

import pytest
from synthetic import path_of

from orchestrator.ofa.spaces import find_space
from orchestrator.record import MODEL, Blob
from orchestrator.report.chapters.families import families_of, families_pictures, family_of
from orchestrator.report.comparison import comparisons
from orchestrator.report.pictures import drawing_style

ARCHITECTURE = find_space("small").smallest().to_json()
SMALL = {"unit": "macs", "macs": [30, 100], "parameters": [40, 100], "kept": {}}


def changed(record, name, key, **changes):
    settings = {**record.settings, **changes.pop("settings", {})}
    return dataclasses.replace(record, experiment=name, key=key * 64, settings=settings, **changes)


def records():
    """One network of each method, as good as each other; the dense run takes 182 epochs."""
    dense, masked = path_of("masked", 0, 1)
    masked = dataclasses.replace(masked, metrics=dense.metrics)
    supernet = changed(
        masked, "ofa", "1", parent=dense.key, epochs=50, channels={**SMALL, "macs": [100, 100], "space": "small"},
        settings={"phase": {"subnets": 4}},
    )  # fmt: skip
    found = changed(
        masked, "ofa", "2", round=2, parent=supernet.key, epochs=0, history=[],
        channels={**SMALL, "space": "small", "architecture": ARCHITECTURE}, search={"budget": 0.3},
    )  # fmt: skip
    amc = changed(masked, "amc", "3", channels={**SMALL, "macs": [60, 100]}, search={"agent": "Cem", "epochs": 20})
    cut = changed(masked, "cut", "4", channels={**SMALL, "macs": [70, 100]}, blobs={MODEL: Blob("5" * 64, 9)})
    alone = changed(dense, "alone", "6", epochs=90, settings={"model_options": {"architecture": ARCHITECTURE}})
    return [dense, masked, supernet, found, amc, cut, alone]


@pytest.fixture
def families():
    every = records()
    (found,) = (found for each in comparisons(every) if (found := families_of(each, every)))
    return found


def test_each_round_belongs_to_the_method_that_made_it():
    names = [family_of(record) for record in records()]
    assert names == ["dense", "masks", "supernet", "Once-for-All", "AMC", "channels", "dense"]


@pytest.mark.parametrize(
    ("found_by", "family"), [("Cem", "AMC"), ("Random", "rivals of AMC"), ("Uniform", "rivals of AMC")]
)
def test_what_a_rival_found_is_not_drawn_as_amc(found_by, family):
    amc = records()[4]
    assert family_of(dataclasses.replace(amc, search={"agent": "Cem", "found_by": found_by, "epochs": 20})) == family


def test_masks_have_the_multiply_accumulates_of_the_dense_network(families):
    macs = {point.family: point.macs for point in families.points}
    assert macs == {"dense": 100, "masks": 100, "Once-for-All": 30, "AMC": 60, "channels": 70, "trained alone": 30}


def test_a_supernet_is_cheaper_from_as_many_targets_as_its_epochs_are_those_of_networks_alone(families):
    """182 epochs, then 50 of 4 sub-networks each; a network alone takes 90."""
    costs = {each.family: (each.first, each.each) for each in families.costs}
    assert costs == {
        "trained alone": (0, 90),
        "masks": (182, 182),
        "channels": (182, 182),
        "AMC": (182, 202),
        "Once-for-All": (382, 0),
    }
    assert families.cheaper_from == 5  # 4 alone take 360, 5 take 450


def test_the_sentences_name_the_small_and_the_fast_ones(families):
    text = " ".join(families.sentences)
    assert "Smallest file: channels, 9 B (" in text
    assert "Fewest multiply-accumulates: Once-for-All, 30 (" in text
    assert "The supernet took 382 epochs" in text
    assert "For 5 targets or more, the supernet is cheaper. The median test accuracy of the same" in text
    inside, alone = (f"{100 * each.record.test:.2f} %" for each in families.points if each.macs == 30)
    assert f"is {inside} in the supernet and {alone} trained alone" in text


def only(every):
    (found,) = (found for each in comparisons(every) if (found := families_of(each, every)))
    return found


def test_a_dense_run_of_another_path_costs_no_method_anything(families):
    every = records()
    long = changed(every[0], "long", "7", epochs=1000)
    assert only([*every, long]).costs == families.costs


def test_a_supernet_without_dense_epochs_costs_its_phases_alone():
    """As SINGLE_STAGE has it: 50 epochs of 4 sub-networks."""
    every = records()
    first = changed(every[0], "single", "8", epochs=0, history=[])
    every[2] = dataclasses.replace(every[2], parent=first.key)
    costs = {each.family: each.first for each in only([*every, first]).costs}
    assert (costs["Once-for-All"], costs["channels"]) == (200, 182)


def test_without_networks_trained_alone_nothing_is_called_cheaper():
    found = only(records()[:-1])
    assert "trained alone" not in {each.family for each in found.costs}
    assert found.cheaper_from is None
    assert "cheaper" not in " ".join(found.sentences)


def test_of_networks_trained_alone_for_several_lengths_the_shortest_counts():
    every = records()
    longer = changed(every[-1], "longer", "9", epochs=140, metrics={**every[-1].metrics, "val_accuracy": 0.99})
    found = only([*every, longer])
    assert found.cheaper_from == 5
    assert "99.00" not in found.sentences[-1]


def test_methods_of_one_kind_have_no_such_picture():
    dense, masked, *_ = records()
    (comparison,) = comparisons([dense, masked])
    assert families_of(comparison, [dense, masked]) is None


def test_the_pictures_show_every_network(families):
    with drawing_style():
        front, cost = families_pictures(families)
        assert sum(map(len, front.titles.values())) == 2 * len(families.points)
        assert "6 networks" in front.alt
        assert cost.svg("x").count("<svg") == 1
