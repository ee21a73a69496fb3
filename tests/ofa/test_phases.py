"""Phases nest, have the paper's settings, and draw the same networks on every worker."""

from __future__ import annotations

import pytest

from orchestrator.errors import ConfigError
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import COMPOUND, ONE, PROGRESSIVE, SINGLE_STAGE, Phase, Phases
from orchestrator.ofa.spaces import SPACES, find_space
from orchestrator.ofa.stage import Largest
from orchestrator.randomness import derive

MOBILE, SMALL = find_space("mobilenetv3"), find_space("small")
ALL = {"progressive": PROGRESSIVE, "compound": COMPOUND, "single stage": SINGLE_STAGE}


def test_progressive_shrinking_has_the_settings_of_the_paper():
    table = [(phase.epochs, phase.warmup_epochs, phase.rate, phase.subnets) for phase in PROGRESSIVE]
    assert table == [
        (125, 5, 0.96, 1),
        (25, 0, 0.08, 2),
        (125, 5, 0.24, 2),
        (25, 0, 0.08, 4),
        (125, 5, 0.24, 4),
    ]
    networks = [MOBILE.narrowed(phase.largest).networks() for phase in PROGRESSIVE]
    assert networks == [81**5, (27 + 81) ** 5, (9 + 27 + 81) ** 5, (6**2 + 6**3 + 6**4) ** 5, 7371**5]
    assert Phases(PROGRESSIVE).epochs == 425


@pytest.mark.parametrize("phases", ALL.values(), ids=ALL)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_methods_train_every_space_and_draw_what_their_phases_train(phases, space):
    Phases(phases).check(space, 180)
    for phase in phases:
        trained = space.narrowed(phase.largest)
        drawn = phase.draw(space, derive(0, "subnets", 1))
        assert len(drawn) == phase.subnets
        assert all(trained.check(architecture) for architecture in drawn)
        assert drawn == phase.draw(space, derive(0, "subnets", 1))


def test_before_the_first_phase_the_largest_network_is_trained_and_then_those_of_each_phase():
    path = Phases(PROGRESSIVE)
    assert list(path.trained_before(0, MOBILE).enumerate()) == [MOBILE.largest()]
    assert path.trained_before(3, MOBILE) == MOBILE.narrowed(PROGRESSIVE[2].largest)


def test_there_is_a_round_for_each_phase_and_for_each_budget_of_the_search():
    assert Phases(COMPOUND).densities() == (1.0, 1.0)
    assert Phases(COMPOUND, search=FrontSearch(macs=(0.5, 0.3), parameters=(0.4,))).densities() == (1.0,) * 5


def test_steps_draw_different_networks_which_share_a_resolution():
    steps = [PROGRESSIVE[-1].draw(MOBILE, derive(0, step)) for step in range(20)]
    assert len({architecture for step in steps for architecture in step}) == 80
    assert all(len({architecture.resolution for architecture in step}) == 1 for step in steps)
    assert len({step[0].resolution for step in steps}) > 5


def test_a_sandwich_has_the_largest_the_smallest_and_two_drawn():
    drawn = SINGLE_STAGE[0].draw(MOBILE, 3)
    assert drawn[:2] == (MOBILE.largest(), MOBILE.smallest())
    assert len(set(drawn)) == 4


def test_the_rate_rises_then_falls_to_zero():
    schedule = Phases(PROGRESSIVE).schedule(0, 2048)
    rates = [schedule.lr_at(epoch, 30) for epoch in (0, 2.5, 5, 65, 125)]
    assert rates == pytest.approx([0, 0.48, 0.96, 0.48, 0])


def test_the_rate_is_in_proportion_to_the_batch():
    phases = Phases(PROGRESSIVE, batch_size=512)
    assert phases.schedule(0, 512).lr_at(5, 30) == pytest.approx(0.96)
    assert phases.schedule(0, 128).lr_at(5, 30) == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Phases(()), "at least one phase"),
        (lambda: Phases((SMALL,)), r"phases\[0\] must be a Phase"),
        (lambda: Phases((PROGRESSIVE[0], PROGRESSIVE[2], PROGRESSIVE[1])), "phases must nest, but phase 2"),
        (lambda: Phases((PROGRESSIVE[0], PROGRESSIVE[1], Phase(1, 0.1, largest=ONE))), "phases must nest, but phase 2"),
        (lambda: Phases(PROGRESSIVE, search=0.5), "Phases.search must be None or a FrontSearch, got 0.5"),
        (lambda: Phases(PROGRESSIVE, batch_size=0), "Phases.batch_size"),
        (lambda: Phases(COMPOUND).check(SMALL, 0), "needs a dense round of 1 epoch or more, got dense_epochs 0"),
        (lambda: Phases(PROGRESSIVE[:2]).check(SMALL, 1), "must train all 1,764 networks of the space 'small', got"),
        (lambda: Phase(0, 0.1), "Phase.epochs"),
        (lambda: Phase(5, 0.0), "Phase.rate"),
        (lambda: Phase(5, 0.1, warmup_epochs=5), "warmup_epochs must be below epochs, 5"),
        (lambda: Phase(5, 0.1, subnets=2, sandwich=True), "Phase.subnets must be a whole number of 3 or more"),
        (lambda: Phase(5, 0.1, teacher="largest of the step"), "needs sandwich=True"),
        (lambda: Phase(5, 0.1, teacher="round 0"), "Phase.teacher"),
        (lambda: Largest(kernels=0), "kernels must be a whole number of 1 or more"),
    ],
)
def test_phases_that_cannot_be_are_refused_before_any_training(build, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build()
