"""Spaces and architectures: how many there are, and that one function has one name."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from random import Random

import pytest

from orchestrator.errors import ConfigError
from orchestrator.models.ofa_networks import FAMILIES
from orchestrator.ofa.architecture import Architecture, BlockChoice, StageChoice
from orchestrator.ofa.spaces import SPACES, Space, find_space
from orchestrator.ofa.stage import ElasticStage, Largest

SMALL, MOBILE, COMPOUND = find_space("small"), find_space("mobilenetv3"), find_space("compofa")
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def test_the_spaces_have_as_many_networks_as_the_papers_say():
    assert MOBILE.networks() == 7371**5
    assert MOBILE.count() == 25 * 7371**5
    assert COMPOUND.networks() == 3**5
    assert SMALL.count() == 42**2
    bottlenecks = [sum(3**depth for depth in depths) for depths in [(2, 3, 4), (2, 3, 4), (4, 5, 6), (2, 3, 4)]]
    assert find_space("resnet50d").networks() == 2 * 2 * 3 * 3**4 * bottlenecks[0] ** 3 * bottlenecks[2]


@pytest.mark.parametrize("space", [SMALL, COMPOUND], ids=["small", "compofa"])
def test_enumeration_gives_every_architecture_once_and_each_has_a_digest_of_its_own(space):
    every = list(space.enumerate())
    assert len(every) == len({each.digest for each in every}) == space.count()
    for each in every[::50]:
        assert space.check(each) == each


@every_space
def test_what_is_drawn_mutated_and_crossed_is_in_the_space(space):
    rng = Random(1)
    first, second = space.smallest(), space.largest()
    for _ in range(200):
        first, second = space.mutate(space.cross(first, second, rng), 0.3, rng), space.sample(rng)
        for each in (first, second, space.shrink(second, rng)):
            space.check(each)


@every_space
def test_an_architecture_comes_back_from_json_as_it_was(space):
    sampled = space.sample(Random(2))
    assert Architecture.from_json(json.loads(json.dumps(sampled.to_json()))) == sampled
    assert Architecture.from_json(sampled.to_json()).digest == sampled.digest


@every_space
def test_no_two_choices_of_a_stage_are_the_same_function(space):
    family = FAMILIES[space.family]
    for place, elastic in enumerate(space.stages):
        assert len({family.stage(place, choice, 16) for choice in elastic.enumerate()}) == elastic.count()


def test_a_number_has_one_spelling_in_a_digest():
    whole = Architecture("small", (StageChoice(1, (BlockChoice(3, 4),)),))
    assert whole.digest == Architecture("small", (StageChoice(1.0, (BlockChoice(3, 4.0),)),)).digest


def test_the_same_seed_draws_the_same_architectures():
    draws = [[MOBILE.sample(rng) for _ in range(5)] for rng in (Random(7), Random(7), Random(8))]
    assert draws[0] == draws[1] != draws[2]


def test_every_choice_is_drawn_equally_often():
    rng = Random(0)
    drawn = [MOBILE.sample(rng).stages[2] for _ in range(6000)]
    for seen, choices in [
        (Counter(len(stage.blocks) for stage in drawn), 3),
        (Counter(stage.blocks[0].kernel for stage in drawn), 3),
        (Counter(stage.blocks[1].expand for stage in drawn), 3),
    ]:
        chi_squared = sum((count - 6000 / choices) ** 2 / (6000 / choices) for count in seen.values())
        assert len(seen) == choices
        assert chi_squared < 13.8  # 0.1 % of fair draws exceed this, with two degrees of freedom


def test_mutation_at_rate_zero_changes_nothing_and_at_rate_one_draws_everything_anew():
    rng = Random(3)
    sampled = MOBILE.sample(rng)
    assert MOBILE.mutate(sampled, 0.0, rng) == sampled
    assert len({MOBILE.mutate(sampled, 1.0, rng) for _ in range(50)}) == 50


def test_each_choice_of_a_child_is_that_of_a_parent():
    rng = Random(4)
    for _ in range(50):
        first, second = MOBILE.sample(rng), MOBILE.sample(rng)
        child = MOBILE.cross(first, second, rng)
        for mine, *theirs in zip(child.stages, first.stages, second.stages, strict=True):
            assert len(mine.blocks) in {len(stage.blocks) for stage in theirs}
            for block, *options in itertools.zip_longest(mine.blocks, *(stage.blocks for stage in theirs)):
                assert block in options or block is None


@every_space
def test_steps_down_lead_from_the_largest_to_the_smallest_and_end(space):
    rng, path = Random(5), [space.largest()]
    while (smaller := space.shrink(path[-1], rng)) is not None:
        path.append(smaller)
    assert path[-1] == space.smallest()
    assert len(set(path)) == len(path)
    assert any(step.resolution != space.largest().resolution for step in path) == bool(space.resolutions)


def test_a_stage_has_every_step_down_in_one_choice():
    elastic = ElasticStage((1, 2), (3, 5), (2, 4), (0.5, 1))
    wide, slim = BlockChoice(5, 4), BlockChoice(3, 2)
    assert set(elastic.smaller(StageChoice(1, (wide, slim)))) == {
        StageChoice(0.5, (wide, slim)),
        StageChoice(1, (wide,)),
        StageChoice(1, (BlockChoice(3, 4), slim)),
        StageChoice(1, (BlockChoice(5, 2), slim)),
    }
    assert elastic.smaller(elastic.at(0)) == []


def test_a_narrowed_space_has_only_the_largest_choices():
    largest = MOBILE.narrowed(Largest(kernels=1, depths=1, expands=1))
    assert largest.networks() == 1
    assert largest.largest() == MOBILE.largest()
    assert MOBILE.narrowed(Largest(depths=1, expands=1)).networks() == (3**4) ** 5
    assert MOBILE.narrowed(Largest(expands=1)).networks() == (3**2 + 3**3 + 3**4) ** 5
    assert COMPOUND.narrowed(Largest(depths=2)).networks() == 2**5
    assert MOBILE.narrowed(Largest()) == MOBILE


def test_coupled_stages_have_one_expand_for_each_depth():
    rng = Random(6)
    expected = {2: {3.0}, 3: {4.0}, 4: {6.0}}
    for _ in range(50):
        for stage in COMPOUND.mutate(COMPOUND.sample(rng), 0.5, rng).stages:
            assert {block.expand for block in stage.blocks} == expected[len(stage.blocks)]


def test_uniform_architectures_show_every_expand_and_width():
    shown = [(each.stages[2].width, each.stages[2].blocks[0].expand) for each in find_space("resnet50d").uniform()]
    assert set(shown) == set(itertools.product((0.65, 0.8, 1.0), (0.2, 0.25, 0.35)))
    shown = [(len(each.stages[0].blocks), each.stages[0].blocks[0].expand) for each in COMPOUND.uniform()]
    assert shown == [(2, 3), (3, 4), (4, 6)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"family": "resnet50d"}, "must be one of the space 'small', got 2 stages of the family 'resnet50d'"),
        ({"resolution": 32}, "got resolution 32"),
        (
            {"stages": [{"width": 1, "blocks": [{"kernel": 7, "expand": 4}]}] * 2},
            "got 7x4 for stage 0, which has depths 1, 2; kernels 3, 5; expands 2, 3, 4; widths 1$",
        ),
        ({"stages": []}, "got 0 stages"),
    ],
)
def test_an_architecture_outside_the_space_is_refused_by_name(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SMALL.check(Architecture.from_json({**SMALL.largest().to_json(), **change}))


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"family": "small"},
        {"family": "small", "stages": [{"width": 1, "blocks": [{"kernel": 4, "expand": 1}]}]},
        {"family": "small", "stages": [{"width": 0, "blocks": []}]},
        {"family": "small", "stages": [], "depth": 3},
        {"family": "small", "stages": [], "resolution": 8.5},
        {"family": "small", "stages": {1, 2}},
    ],
)
def test_what_is_not_an_architecture_is_refused(content):
    with pytest.raises(ConfigError, match="architecture cannot be read"):
        Architecture.from_json(content)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depths": ()}, "depths must hold at least one choice"),
        ({"depths": (1,), "kernels": (5, 3)}, "kernels must hold at least one choice and rise"),
        ({"depths": (1, 2), "expands": (1, 2, 3), "coupled": True}, "coupled depths and expands"),
    ],
)
def test_choices_that_make_no_stage_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ElasticStage(**options)


def test_an_unknown_space_is_refused_with_the_names():
    with pytest.raises(ConfigError, match="one of mobilenetv3, compofa, resnet50d, small"):
        find_space("mobilenet")


def test_a_line_shows_an_architecture():
    tiny = Space("tiny", "small", (ElasticStage((0, 1), (5,), (0.25,), (0.5, 1)),) * 2, (8,))
    stages = (tiny.smallest().stages[0], tiny.largest().stages[1])
    assert str(Architecture("small", stages, 8)) == "small@8: width 0.5 | 5x0.25"


def test_the_hash_of_an_architecture_is_the_same_in_every_process():
    """It is pickled with it, and that of None differs from process to process in some versions of Python."""
    smallest = find_space("small").smallest()
    assert smallest.resolution is None
    assert hash(smallest) == hash((smallest.stages, 0))
