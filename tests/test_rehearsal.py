"""A mistake in a function of the user's ends the job before anything is trained, with the error's text and line."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch
from torch.utils.data import TensorDataset

from orchestrator.data.image_data import image_data
from orchestrator.data.load import complete
from orchestrator.distributed.deployment import Deployment, Workers
from orchestrator.errors import ConfigError
from orchestrator.problem import load_problem
from orchestrator.pruning import Global, Masks, OneShot
from orchestrator.rehearsal import rehearse
from orchestrator.techniques import LearningRateRewinding, RetrainingTechnique, Start
from orchestrator.train_state import TrainState
from orchestrator.training.optimizer import SGD
from orchestrator.user_code import described


def one_argument(weight):
    return weight.abs()


def exits(*_):
    sys.exit(3)


def exits_in_forward(num_classes, input_shape):
    model = tiny.model(num_classes, input_shape)
    model.register_forward_pre_hook(exits)
    return model


def fails_inside(weight, gradient):
    return weight.no_such_method()


class Unprintable(torch.nn.Sequential):
    def __repr__(self):
        raise RuntimeError("no text")


class Undecided(torch.nn.Sequential):
    @property
    def prune_exclude(self):
        raise RuntimeError("no list")


def unprintable(num_classes, input_shape):
    return Unprintable(*tiny.model(num_classes, input_shape))


def undecided(num_classes, input_shape):
    return Undecided(*tiny.model(num_classes, input_shape))


def excludes_none(num_classes, input_shape):
    model = tiny.model(num_classes, input_shape)
    model.prune_exclude = None
    return model


@dataclass(frozen=True)
class TextPath:
    def densities(self):
        return ("half",)


@dataclass(frozen=True)
class RisingPath:
    def densities(self):
        return (0.5, 0.7)


@dataclass(frozen=True)
class FailsAtTheLastEpoch:
    def lr_at(self, epoch, epochs):
        return {0: 0.1, 1: 0.1, 2: 0.1}[int(epoch)]


@dataclass(frozen=True)
class NegativeRate:
    def lr_at(self, epoch, epochs):
        return -0.1


@dataclass(frozen=True)
class OtherArguments(Global):
    def select(self, weights, density, *, min_kept_per_layer):
        return Masks({name: weight > 0 for name, weight in weights.items()})


@dataclass(frozen=True)
class PlainMasks(Global):
    def select(self, view, density):
        return {name: weight > 0 for name, weight in view.weights.items()}


@dataclass(frozen=True)
class MasksOfNumbers(Global):
    def select(self, view, density):
        return Masks({name: weight.abs() for name, weight in view.weights.items()})


@dataclass(frozen=True)
class MasksOfNothing(Global):
    def select(self, view, density):
        return Masks({})


@dataclass(frozen=True)
class FailsInTheSecondRound(Global):
    def select(self, view, density):
        if view.masks:
            raise IndexError("no second round")
        return super().select(view, density)


@dataclass(frozen=True)
class UnknownSlot(RetrainingTechnique):
    def start(self, dense, parent):
        return Start(parent.state().optimizer["no/such/slot"], dense.training.schedule, 0, 1)


@dataclass(frozen=True)
class StartsNowhere(RetrainingTechnique):
    def start(self, dense, parent):
        return parent.state()


@dataclass(frozen=True)
class StartsFrom(RetrainingTechnique):
    """Starts from a state that no network can be put in."""

    what: str

    def start(self, dense, parent):
        state = parent.state()
        wrong = {
            "text": "state",
            "nothing": TrainState({}),
            "other names": TrainState({f"module.{name}": value for name, value in state.model.items()}),
            "other shapes": TrainState({name: value[..., None] for name, value in state.model.items()}),
            "no tensors": TrainState(dict.fromkeys(state.model, 0.0)),
            "an unknown slot": TrainState(state.model, {"weight": torch.zeros(())}),
        }
        return Start(wrong[self.what], dense.training.schedule, 0, 1)


@dataclass(frozen=True)
class StartsHalfway(RetrainingTechnique):
    def start(self, dense, parent):
        return Start(parent.state(), dense.training.schedule, 0.5, 1)


@dataclass(frozen=True)
class OtherSnapshot(RetrainingTechnique):
    def start(self, dense, parent):
        return Start(dense.snapshot(2), dense.training.schedule, 0, 1)


@dataclass(frozen=True)
class BuildsNothing(SGD):
    def build(self, module):
        return list(module.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"criterion": "test_rehearsal:one_argument"},
            "', called with (weight, gradient), failed: TypeError: one",
        ),
        ({"criterion": "test_rehearsal:fails_inside"}, "AttributeError: 'Tensor' object has no attribute 'no_such_me"),
        ({"criterion": "test_rehearsal:exits"}, "failed: SystemExit: 3"),
        ({"model": "test_rehearsal:exits"}, "model 'test_rehearsal:exits' failed: SystemExit: 3"),
        ({"model": "test_rehearsal:exits_in_forward"}, "cannot take inputs of shape (2, 1, 6, 6): SystemExit: 3"),
        ({"path": TextPath()}, "TextPath.densities()[0] must be a finite number, got 'half'"),
        ({"path": RisingPath()}, "densities must decrease from round to round"),
        ({"schedule": FailsAtTheLastEpoch()}, "FailsAtTheLastEpoch.lr_at() failed: KeyError: 3"),
        ({"schedule": NegativeRate()}, "at epoch 0 must be a finite number of 0 or more, got -0.1"),
        ({"selection": OtherArguments()}, "OtherArguments.select() failed: TypeError"),
        ({"selection": PlainMasks()}, "PlainMasks.select() must return a structure, such as Masks(...), got dict"),
        ({"selection": MasksOfNothing()}, "must return Masks with a mask for each of ['"),
        ({"selection": MasksOfNumbers()}, "must return bool masks of their weight's shape, got torch.float32"),
        ({"selection": FailsInTheSecondRound()}, "IndexError: no second round"),
        ({"technique": UnknownSlot()}, "UnknownSlot.start() failed: KeyError: 'no/such/slot'"),
        ({"technique": StartsNowhere()}, "StartsNowhere.start() must return a Start, got TrainState"),
        (
            {"technique": StartsFrom("text")},
            "must return a Start with a TrainState or None, got str",
        ),
        ({"technique": StartsFrom("no tensors")}, "StartsFrom.start() must return a TrainState of dicts of tensors"),
        ({"technique": StartsFrom("nothing")}, "StartsFrom.start() must return the tensors of dense.state()"),
        ({"technique": StartsFrom("other names")}, "tensors are not those of the model: '0.bias, 0.weight"),
        ({"technique": StartsFrom("other shapes")}, "0.weight: the model has (8, 1, 3, 3)"),
        ({"technique": StartsFrom("an unknown slot")}, "the optimizer's state 'weight' is of no parameter"),
        (
            {"technique": StartsHalfway()},
            "first_epoch of StartsHalfway.start() must be a whole number of 0 or",
        ),
        ({"model": "test_rehearsal:unprintable"}, "repr() of model Unprintable failed: RuntimeError: no text"),
        ({"model": "test_rehearsal:undecided"}, "prune_exclude of model Undecided failed: RuntimeError: no list"),
        ({"model": "test_rehearsal:excludes_none"}, "prune_exclude must be a tuple, got None"),
        ({"technique": OtherSnapshot()}, "must read only the snapshot of rewinds_to(), None, got 2"),
        ({"optimizer": BuildsNothing()}, "BuildsNothing.build() must return a torch.optim.Optimizer, got list"),
    ],
)
def test_every_function_is_called_once(changes, words):
    training = {field: value for field, value in changes.items() if field in ("schedule", "optimizer")}
    others = {field: value for field, value in changes.items() if field not in training}
    experiment = tiny.with_training(dataclasses.replace(tiny.EXPERIMENT, **others), **training)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load_problem(experiment)
    if "failed: " in str(caught.value):
        assert re.search(rf"\({re.escape(__file__)}:\d+\)$", str(caught.value))


class Augment:
    draws = 1

    def __init__(self, change):
        self.change = change

    def __call__(self, images, u):
        return self.change(images)


def augmented(data, augment):
    return image_data(data.train, data.val, data.test, 3, (1, 6, 6), augment)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: images.flip(7), "augment Augment, called with (images, u), failed: IndexError"),
        (
            lambda images: images[0],
            "images of the same shape and dtype, or floating point, got torch.float32 (1, 6, 6)",
        ),
        (
            lambda images: images[..., :5],
            "must turn torch.float32 images of shape (2, 1, 6, 6) into images of the same shape",
        ),
        (lambda images: images.long(), "or floating point, got torch.int64 (2, 1, 6, 6)"),
        (lambda images: None, "got NoneType"),
    ],
)
def test_the_augmentation_is_called_once(change, words):
    data = augmented(tiny.data(), Augment(change))
    with pytest.raises(ConfigError, match=re.escape(words)):
        complete(data)


def test_the_augmentation_sees_images_as_they_are_stored_and_changes_none_of_them():
    seen = []

    def change(images):
        seen.append((images.dtype, tuple(images.shape)))
        return images.zero_()

    images = torch.full((4, 1, 6, 6), 7, dtype=torch.uint8)
    split = TensorDataset(images, torch.zeros(4, dtype=torch.int64))
    data = augmented(dataclasses.replace(tiny.data(), train=split), Augment(change))
    assert (complete(data).train[0][0] == 7).all()
    assert seen == [(torch.uint8, (2, 1, 6, 6))]


def test_what_is_right_passes_and_leaves_no_trace():
    @dataclass(frozen=True)
    class Own(LearningRateRewinding):
        def start(self, dense, parent):
            assert set(parent.state().optimizer) == {
                f"{name}/momentum_buffer" for name in dict(model.named_parameters())
            }
            return super().start(dense, parent)

    model = tiny.model(3, (1, 6, 6))
    before = torch.get_rng_state()
    load_problem(dataclasses.replace(tiny.EXPERIMENT, technique=Own()))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_place_of_an_error_is_the_innermost_line_of_the_users_own_files():
    """What torch, Python or an installed package raise below it tells the user nothing of where to look."""
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2)(torch.zeros(3))
    line = caught.traceback[0].lineno + 1
    assert described(caught.value).endswith(f"({Path(__file__)}:{line})")
    assert described(ValueError("never\nraised")) == "ValueError: never raised"


@dataclass(frozen=True)
class GpuOnly(SGD):
    """As AdamW(capturable=True), optimizers of 8 bits and those of apex."""

    def build(self, module):
        return torch.optim.AdamW(module.parameters(), capturable=True)


def normed(num_classes, input_shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is a newer weight_norm, whose weights Python can copy
        hidden = torch.nn.utils.weight_norm(torch.nn.Linear(36, 4))
    return torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.Linear(4, num_classes))


@pytest.mark.parametrize("technique", [tiny.EXPERIMENT.technique, UnknownSlot()])
def test_an_optimizer_that_needs_a_gpu_is_not_refused_for_its_step(technique, caplog):
    """Nor a technique, of whose start without the slots that such a step makes nothing can be known."""
    experiment = dataclasses.replace(tiny.EXPERIMENT, technique=technique)
    load_problem(tiny.with_training(experiment, optimizer=GpuOnly()))
    assert "the optimizer of GpuOnly cannot make a step on the CPU" in caplog.text


def test_a_model_whose_weights_hooks_compute_is_rehearsed():
    model = normed(3, (1, 6, 6))
    experiment = dataclasses.replace(tiny.EXPERIMENT, technique=OtherSnapshot())
    with pytest.raises(ConfigError, match="must read only the snapshot"):
        rehearse(experiment, model, {"2.weight": (3, 4)})


def synchronised(num_classes, input_shape):
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(tiny.model(num_classes, input_shape))


def test_synchronised_batch_norm_needs_gpus():
    problem, _ = load_problem(dataclasses.replace(tiny.EXPERIMENT, model="test_rehearsal:synchronised"))
    with pytest.raises(ConfigError, match=r"SyncBatchNorm can be trained on GPUs only.* has it in 1: use"):
        Deployment().check_layers(problem.gpu_only)
    Deployment(Workers(1, 1, 1.0, 1.0)).check_layers(problem.gpu_only)
    Deployment().check_layers(())


def test_a_sweep_calls_the_path_of_every_experiment():
    """Experiments that differ in nothing else share what is known of their model and data."""
    from orchestrator.distributed.sweep import _paths  # imports Ray

    named = {"half": OneShot(0.5), "less": OneShot(0.4)}
    experiments = [dataclasses.replace(tiny.EXPERIMENT, name=name, path=path) for name, path in named.items()]
    assert len(_paths(experiments, Deployment())) == 2
    with pytest.raises(ConfigError, match="densities must decrease"):
        _paths([*experiments, dataclasses.replace(tiny.EXPERIMENT, name="own", path=RisingPath())], Deployment())


@pytest.mark.parametrize(
    ("workers", "accumulate", "words"), [(1, 16, None), (3, 5, None), (3, 6, "at most 5"), (16, 2, "at most 1")]
)
def test_every_worker_has_a_sample_for_every_part_of_a_batch(workers, accumulate, words):
    experiment = tiny.with_training(accumulate=accumulate)
    if words is None:
        load_problem(experiment, workers=workers)
        return
    with pytest.raises(ConfigError, match=rf"accumulate must be {words}, .* batch_size 16 among {workers} worker"):
        load_problem(experiment, workers=workers)


def test_a_part_of_one_image_is_too_few_for_batch_normalisation():
    experiment = tiny.with_training(dataclasses.replace(tiny.EXPERIMENT, model="tiny:normed"), accumulate=9)
    with pytest.raises(ConfigError, match="is one sample: raise batch_size, or lower workers or accumulate"):
        load_problem(experiment)
