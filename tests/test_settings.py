"""`--set`: a field of an experiment changed by a text, of the field's type, or a sentence that says what is wrong."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from orchestrator import AdamW, Amc, Cosine, FineTuning, Geometric, Global, TrainingConfig
from orchestrator.errors import ConfigError
from orchestrator.examples import DIGITS
from orchestrator.pruning import AtMost, OneShot
from orchestrator.settings import changed, paths_ending_in
from orchestrator.techniques import AdaptiveLinearRestart
from orchestrator.training.distillation import Distillation

TRAINING = TrainingConfig(epochs=30, batch_size=8, schedule=Cosine(0.1))


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("training.epochs=24", 24),
        ("training.schedule.drops=10,20", (10, 20)),
        ("training.schedule.peak=5e-2", 0.05),
        ("training.ema=0.99", 0.99),
        ("training.ema=None", None),
        ("training.channels_last=true", True),
        ("training.channels-last=no", False),
        ("training.precision=bf16", "bf16"),
        ("training.optimizer=AdamW(weight_decay=0.1)", AdamW(weight_decay=0.1)),
        ("technique=FineTuning", FineTuning()),
        ("technique=FineTuning(epochs=3)", FineTuning(epochs=3)),
        ("technique=AdaptiveLinearRestart(epochs=3)", AdaptiveLinearRestart(epochs=3)),
        ("technique.epochs=7", 7),
        ("path=OneShot(0.1)", OneShot(0.1)),
        ("path=Geometric.down_to(0.1, remove=0.5)", Geometric.down_to(0.1, remove=0.5)),
        ("distillation=Distillation(temperature=4)", Distillation(temperature=4)),
        ("selection=Global(AtMost(2, of=4))", Global(AtMost(2, of=4))),
        ("exclude=fc, conv1", ("fc", "conv1")),
        ("exclude=()", ()),
        ("kinds=linear", ("linear",)),
        ("seeds=[1,2]", (1, 2)),
        ("model_options.width=16", 16),
        ('model_options={"width": 16}', {"width": 16}),
        ("start_from=weights.safetensors", "weights.safetensors"),
        ("name=mine", "mine"),
    ],
)
def test_a_text_becomes_the_type_of_its_field(assignment: str, value: object) -> None:
    found: Any = changed(DIGITS, [assignment])
    for name in assignment.partition("=")[0].replace("-", "_").split("."):
        found = found[name] if isinstance(found, dict) else operator.attrgetter(name)(found)
    assert found == value
    assert type(found) is type(value)


def test_nothing_else_changes_and_several_are_applied_together() -> None:
    """Fields that must fit each other are checked after all of them have changed."""
    both = changed(DIGITS, ["technique=FineTuning", "technique.epochs=40", "training.epochs=40"])
    assert (both.technique, both.training.epochs) == (FineTuning(epochs=40), 40)
    assert changed(both, ["technique=LearningRateRewinding", "training.epochs=30"]) == DIGITS


@pytest.mark.parametrize(
    ("assignments", "value"),
    [
        (["path=OneShot(0.5)", "selection=Amc(evaluations=64)"], Amc(evaluations=64)),
        (["training=TrainingConfig(epochs=30, batch_size=8, schedule=Cosine(0.1))"], TRAINING),
    ],
)
def test_a_public_class_may_be_named(assignments: list[str], value: object) -> None:
    field = assignments[-1].partition("=")[0]
    assert getattr(changed(DIGITS, assignments), field) == value


def test_a_seed_takes_the_place_of_the_seeds() -> None:
    assert changed(changed(DIGITS, ["seeds=1,2"]), ["seed=3"]).replicates() == changed(DIGITS, ["seed=3"]).replicates()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training", "--set must be FIELD=VALUE, such as training.epochs=5, got 'training'"),
        ("=5", "--set must be FIELD=VALUE"),
        ("epochs=5", "an experiment has no field 'epochs': did you mean 'training.epochs' or 'technique.epochs'?"),
        ("traning.epochs=5", "an experiment has no field 'traning': did you mean 'training'?"),
        ("training.epoch=5", r"training \(TrainingConfig\) has no field 'epoch': did you mean 'epochs'?"),
        ("training.schedule.rate=1", r"training.schedule \(StepDecay\) has no field 'rate': it has peak, drops"),
        ("model.x=3", "--set model.x: model is 'resnet8', which has no fields$"),
        ("distillation.weight=0.5", r"distillation is None, .*: write --set 'distillation=Distillation\(weight=0.5\)'"),
        ("training.epochs=x", "--set training.epochs must be a whole number, got 'x'"),
        ("training.epochs=5.5", "--set training.epochs must be a whole number, got '5.5'"),
        ("training.epochs=0", "--set training.epochs=0: training.epochs must be a whole number of 1 or more, got 0"),
        ("training.ema=high", "--set training.ema must be a number, got 'high'"),
        ("training.compile=maybe", "--set training.compile must be true or false, got 'maybe'"),
        ("training.precision=bf61", "must be one of fp32, bf16, got 'bf61': did you mean 'bf16'?"),
        ("kinds=linaer", "--set kinds must be one of .*, got 'linaer': did you mean 'linear'?"),
        ("technique=FineTunning", "--set technique: 'FineTunning' is not a known class: did you mean 'FineTuning'?"),
        ("technique=FineTuning(epoch=3)", "FineTuning takes epochs, optimizer_state .*unexpected keyword argument"),
        ("technique=3", r"technique must be a dataclass with start\(\)"),
        ("technique.epochs=40", "--set technique.epochs=40: .* from 1 to 30, got 40: the dense run has 30 epochs"),
        ("path=OneShot(0.1", r"--set path must be a value such as Geometric\(.*\), got 'OneShot\(0.1'"),
        ("path=OneShot(2)", "--set path: .* must be a number in"),
        ("path=Geometric.upto(0.1)", "--set path: Geometric has no 'upto'"),
        ("path=Geometric.__subclasses__()", "--set path: Geometric has no '__subclasses__'"),
        ("path=__import__('os').getcwd()", "--set path: .* is not a known class"),
        ("name=../x", "--set name=../x: name must be 1 to 100 of"),
    ],
)
def test_what_does_not_fit_is_a_sentence(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        changed(DIGITS, [assignment])
    assert str(caught.value).startswith("--set")


def test_a_field_is_given_once() -> None:
    with pytest.raises(ConfigError, match="--set seed must be given once, got '1' and '2'"):
        changed(DIGITS, ["seed=1", "seed=2"])


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("epochs", ["training.epochs", "technique.epochs"]),
        ("training.epochs", ["training.epochs"]),
        ("width", ["model_options.width"]),
        ("storage", []),
    ],
)
def test_a_name_is_found_wherever_it_stands(name: str, paths: list[str]) -> None:
    assert paths_ending_in(name, DIGITS) == paths
