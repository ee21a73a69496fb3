"""The short form of an experiment, which --smoke trains."""

from __future__ import annotations

import dataclasses

import pytest
import tiny

from orchestrator.errors import ConfigError
from orchestrator.pruning import Explicit, Geometric, OneShot, Path
from orchestrator.runner import run
from orchestrator.schedules import Constant, Rescaled, StepDecay
from orchestrator.techniques import (
    FineTuning,
    LearningRateRewinding,
    RandomReinitialisation,
    RetrainingTechnique,
    WeightRewinding,
    paper_techniques,
    shortened,
)

LONG = dataclasses.replace(
    tiny.with_training(epochs=30, batch_size=64, accumulate=32, schedule=StepDecay(0.1, drops=(15, 23))),
    name="digits",
    path=Geometric.down_to(0.05),
    seeds=(3, 4),
)


def test_a_short_form_has_two_epochs_the_ends_of_the_path_and_one_seed() -> None:
    short = LONG.shortened()
    assert (short.name, short.seeds) == ("digits-smoke", (3,))
    assert short.densities() == (1.0, 0.8, 0.8**14)
    assert (short.training.epochs, short.training.batch_size) == (2, 64)
    assert short.training.schedule == Rescaled(StepDecay(0.1, drops=(15, 23)), 30)
    rates = [short.training.schedule.lr_at(epoch, 2) for epoch in (0, 0.99, 1, 1.52, 1.54)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_a_smaller_batch_has_a_rate_in_proportion_and_other_data_its_options() -> None:
    long = dataclasses.replace(LONG, data_options={"samples": 192, "broken": None})
    short = long.shortened(batch_size=16, data_options={"samples": 96})
    assert (short.training.batch_size, short.training.accumulate) == (16, 16)
    assert short.training.schedule.lr_at(0, 2) == pytest.approx(0.1 / 4)
    assert short.data_options == {"samples": 96, "broken": None}


@pytest.mark.parametrize(
    ("path", "densities"),
    [(OneShot(0.1), (0.1,)), (Explicit([0.5, 0.25]), (0.5, 0.25)), (Explicit([0.5, 0.4, 0.25]), (0.5, 0.25))],
)
def test_the_path_keeps_its_ends(path: Path, densities: tuple[float, ...]) -> None:
    assert dataclasses.replace(LONG, path=path).shortened().path.densities() == densities


@pytest.mark.parametrize(
    ("technique", "before", "after", "expected"),
    [
        (WeightRewinding(27), 30, 2, WeightRewinding(1)),  # in proportion 1.8, which would be a lottery ticket
        (WeightRewinding(164), 182, 20, WeightRewinding(18)),
        (WeightRewinding(30), 30, 2, WeightRewinding(2)),
        (WeightRewinding(), 30, 2, WeightRewinding()),
        (LearningRateRewinding(3), 30, 2, LearningRateRewinding(1)),
        (FineTuning(60, optimizer_state="fresh"), 90, 30, FineTuning(20, optimizer_state="fresh")),
        (FineTuning(1), 2, 1, FineTuning(1)),
        (RandomReinitialisation(), 30, 2, RandomReinitialisation()),
    ],
)
def test_the_epochs_of_a_technique_shrink_with_the_dense_run(
    technique: RetrainingTechnique, before: int, after: int, expected: RetrainingTechnique
) -> None:
    assert shortened(technique, before, after) == expected


def test_a_short_run_stays_as_short_as_it_is() -> None:
    short = tiny.with_training(epochs=1, schedule=Constant(0.1)).shortened()
    assert (short.training.epochs, short.training.schedule.lr_at(0.5, 1)) == (1, 0.1)


def test_the_longest_name_still_fits() -> None:
    assert len(dataclasses.replace(LONG, name="n" * 100).shortened().name) == 100


def test_what_a_technique_of_ones_own_cannot_do_in_two_epochs_is_a_sentence() -> None:
    @dataclasses.dataclass(frozen=True)
    class FromTen(LearningRateRewinding):
        def check(self, training: object) -> None:
            if getattr(training, "epochs", 0) < 10:
                raise ConfigError("FromTen needs 10 epochs")

    with pytest.raises(ConfigError, match="FromTen needs 10 epochs"):
        dataclasses.replace(LONG, technique=FromTen()).shortened()


@pytest.mark.parametrize("technique", paper_techniques(3).values(), ids=paper_techniques(3))
def test_every_technique_trains_its_short_form(technique: RetrainingTechnique, tmp_path: object) -> None:
    short = dataclasses.replace(tiny.EXPERIMENT, technique=technique).shortened()
    assert [record.round for record in run(short, str(tmp_path))] == [0, 1, 2]
