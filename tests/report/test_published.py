"""The published results: whole, in the package, and only beside what they are results of."""

import dataclasses

import pytest
import torch
from report.synthetic import TECHNIQUES, path_of
from torch import nn

from orchestrator.models.ofa_networks import ImageArguments, build_network
from orchestrator.ofa.spaces import find_space
from orchestrator.report.published import (
    PUBLISHED_SEARCHES,
    RESNET50_WEIGHTS,
    find_published,
    find_published_searches,
    read_published,
)


def with_settings(records, **changes):
    return [dataclasses.replace(record, settings={**record.settings, **changes}) for record in records]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("learning-rate-rewinding", "paper: learning-rate rewinding, t = T"),
        ("weight-rewinding", "paper: weight rewinding, best t"),
        ("lottery-ticket", "paper: weight rewinding, t = T"),
        ("fine-tuning", "paper: fine-tuning, t = T"),
        ("low-rate-weight-rewinding", "paper: low-rate weight rewinding, best t"),
        ("random-reinitialisation", None),  # published for one-shot pruning only
    ],
)
def test_each_technique_has_its_own(name, label):
    assert name in TECHNIQUES
    found = find_published(path_of(name, 0, 1))
    assert (found.label if found else None) == label


def test_the_numbers_are_those_of_the_paper():
    found = find_published(path_of("learning-rate-rewinding", 0, 1))
    assert found.network == "resnet20"
    assert [point.density for point in found.points] == pytest.approx([0.8**r for r in range(1, 11)], abs=1e-5)
    assert found.points[-1].median == 0.910125
    assert len(read_published()) == 30
    for reference in read_published().values():
        assert all(0 < p.low <= p.median <= p.high < 1 for p in reference.points)
        assert list(reference.points) == sorted(reference.points, key=lambda point: -point.density)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "resnet32"}, {"data": "digits"}, {"model_options": {"width": 8}}, {"model_options": "odd"},
        {"model_options": {"shortcut": "padding"}}, {"model": ["resnet20"]}, {"technique": "odd"},
        {"technique": {"type": "my.Own"}}, {"technique": {"type": {}}}, {"model": "torchvision:resnet50"},
    ],
    ids=str,
)  # fmt: skip
def test_other_networks_data_and_techniques_have_none(changes):
    assert find_published(with_settings(path_of("learning-rate-rewinding", 0, 1), **changes)) is None


def test_a_resnet50_of_a_thousand_classes_is_that_of_imagenet():
    records = with_settings(
        path_of("learning-rate-rewinding", 0, 1),
        model="torchvision:resnet50",
        data="imagefolder",
        training={"epochs": 90},
    )
    assert find_published(records) is None
    found = find_published([dataclasses.replace(record, prunable=RESNET50_WEIGHTS) for record in records])
    assert (found.network, found.full_length) == ("resnet50", True)


def searched_on(model, data="imagefolder", prunable=None):
    """Return a round of a search on `model`, with as many weights as the published network has."""
    known = {each.model: each.prunable for each in PUBLISHED_SEARCHES}
    (record,) = with_settings(path_of("learning-rate-rewinding", 0, 1)[1:], model=model, data=data)
    return dataclasses.replace(record, search={"agent": "Cem"}, prunable=prunable or known[model])


@pytest.mark.parametrize(
    ("model", "methods", "figures"),
    [
        ("torchvision:mobilenet_v2", {"AMC"}, [70.854, 70.494]),
        ("torchvision:resnet50", {"AMC"}, [76.11]),
        ("ofa:mobilenetv3", {"Once-for-All"}, [76.0, 76.9, 72.4, 80.0]),
        ("ofa:resnet50d", {"Once-for-All"}, [79.8, 75.0]),
    ],
)
def test_a_search_on_a_network_of_a_paper_has_the_figures_of_the_paper(model, methods, figures):
    found = find_published_searches([searched_on(model)])
    assert {each.method for each in found} == methods
    assert [each.top1 for each in found] == figures
    assert all("20" in each.source for each in found), "the year of the paper"


def test_other_searches_have_no_published_figures():
    same = searched_on("torchvision:mobilenet_v2")
    assert find_published_searches([dataclasses.replace(same, search=None)]) == []
    assert find_published_searches([dataclasses.replace(same, prunable=same.prunable - 1)]) == []
    assert find_published_searches(with_settings([same], data="digits")) == []


@pytest.mark.parametrize("space", ["mobilenetv3", "resnet50d"])
def test_the_published_spaces_are_known_by_the_weights_of_their_largest_network(space):
    with torch.device("meta"):
        network = build_network(find_space(space).largest(), ImageArguments(1000, (3, 224, 224)))
    weights = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    assert {each.prunable for each in PUBLISHED_SEARCHES if each.model == f"ofa:{space}"} == {weights}
