"""The published results: whole, in the package, and only beside what they are results of."""

import dataclasses

import pytest
from report.synthetic import TECHNIQUES, path_of

from orchestrator.report.published import RESNET50_WEIGHTS, find_published, read_published


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
