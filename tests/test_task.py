"""Built-in tasks by closed forms, and one sentence for each task, metric and example that cannot be used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import any_task
import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Data
from orchestrator.data.load import complete
from orchestrator.errors import ConfigError, DataError
from orchestrator.experiment import Experiment
from orchestrator.objective import Objective, is_fraction
from orchestrator.problem import load_problem
from orchestrator.runner import run
from orchestrator.stopping import Floor
from orchestrator.task import ACCURACY, Classification, Regression, Segmentation, Task, Tokens, objective_of
from orchestrator.training.distillation import Distillation


def measured(task: Task, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return every metric of a task over several batches of outputs and targets."""
    metrics = dict(task.metrics())
    for outputs, targets in batches:
        for metric in metrics.values():
            metric.update(outputs, targets)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


LOGITS = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, math.log(3)]])
CLASSES = torch.tensor([0, 0, 1])


def test_classification() -> None:
    task = Classification()
    expected = math.log(1 + math.exp(-2)) + math.log(2) + math.log(4 / 3)
    assert task.loss(LOGITS, CLASSES).item() == pytest.approx(expected)
    assert task.loss(LOGITS, CLASSES.to(torch.uint8)).item() == pytest.approx(expected)
    assert task.count(CLASSES) is None
    assert measured(task, (LOGITS, CLASSES), (LOGITS[:1], torch.tensor([1]))) == {"accuracy": 0.75}
    assert objective_of(task) == ACCURACY


def test_label_smoothing_is_the_share_of_all_classes() -> None:
    smooth = Classification(label_smoothing=0.2).loss(LOGITS, CLASSES)
    every = sum(Classification().loss(LOGITS, torch.full((3,), label)) for label in (0, 1)) / 2
    assert smooth.item() == pytest.approx((0.8 * Classification().loss(LOGITS, CLASSES) + 0.2 * every).item())


@pytest.mark.parametrize("outputs", [torch.tensor([1.0, 4.0]), torch.tensor([[1.0], [4.0]])], ids=["flat", "column"])
def test_regression(outputs: Tensor) -> None:
    task, targets = Regression(), torch.tensor([2.0, 1.0])
    assert task.loss(outputs, targets).item() == 10
    assert task.count(targets) == 2
    assert measured(task, (outputs, targets)) == {"rmse": pytest.approx(math.sqrt(5)), "mae": 2.0}
    assert objective_of(task) == Objective("rmse", higher_is_better=False)


def test_outputs_that_would_mix_up_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs outputs of the targets' shape \(2,\), got \(2, 2\)"):
        Regression().loss(torch.zeros(2, 2), torch.zeros(2))


@pytest.mark.parametrize(
    ("task", "logits", "targets", "got"),
    [
        (
            Segmentation(),
            (2, 3, 6, 6),
            (2, 1, 6, 6),
            r"dimension 1, got targets \(2, 1, 6, 6\) and logits \(2, 3, 6, 6\)",
        ),
        (Segmentation(), (2, 3, 3, 3), (2, 6, 6), r"dimension 1, got targets \(2, 6, 6\) and logits \(2, 3, 3, 3\)"),
        (Segmentation(), (2, 6, 6, 3), (2, 6, 6), r"got targets \(2, 6, 6\) and logits \(2, 6, 6, 3\)"),
        (Tokens(), (2, 8, 7), (2, 5), r"dimension -1, got targets \(2, 5\) and logits \(2, 8, 7\)"),
        (Tokens(), (2, 7, 9), (2, 9), r"got targets \(2, 9\) and logits \(2, 7, 9\)"),
        (Tokens(), (2, 7), (2, 9), r"got targets \(2, 9\) and logits \(2, 7\)"),
        (Tokens(), (), (), r"got targets \(\) and logits \(\)"),
        (Classification(), (2, 3), (2, 1), r"got targets \(2, 1\) and logits \(2, 3\)"),
        (Classification(), (2,), (2,), r"got targets \(2,\) and logits \(2,\)"),
    ],
)
def test_outputs_that_have_other_places_than_the_targets_are_refused(
    task: Task, logits: tuple[int, ...], targets: tuple[int, ...], got: str
) -> None:
    kind = type(task).__name__
    with pytest.raises(
        ConfigError, match=f"^{kind} needs targets of the logits' shape without the classes, .*{got}: give the model an"
    ):
        task.loss(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))


def test_tokens_that_are_ignored_count_nowhere() -> None:
    task = Tokens(unit="character")
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    targets = torch.tensor([[0, -100, 1], [-100, -100, 1]])
    nats = math.log(1 + math.exp(-2)) + math.log(4 / 3) + (2 + math.log(1 + math.exp(-2)))
    assert task.loss(logits, targets).item() == pytest.approx(nats)
    assert task.count(targets) == 3
    assert measured(task, (logits[:1], targets[:1]), (logits[1:], targets[1:])) == {
        "bits_per_character": pytest.approx(nats / 3 / math.log(2)),
        "perplexity": pytest.approx(math.exp(nats / 3)),
        "accuracy": pytest.approx(2 / 3),
    }
    assert objective_of(task) == Objective("bits_per_character", higher_is_better=False)


def test_segmentation() -> None:
    """Of a row of pixels: class 0 is found in one of two places, class 1 in one of one and falsely in another."""
    task = Segmentation()
    logits, targets = LOGITS.T.view(1, 2, 1, 3), torch.tensor([[[0, 0, 1]]], dtype=torch.uint8)
    logits = logits + torch.tensor([0.0, 0.1]).view(1, 2, 1, 1)  # the second pixel is said to be of class 1
    expected = sum(
        Classification().loss(logits[..., i].flatten().view(1, 2), targets[0, 0, i : i + 1]) for i in range(3)
    )
    assert task.loss(logits, targets).item() == pytest.approx(expected.item())
    assert task.count(targets) == 3
    assert measured(task, (logits, targets)) == {"mean_iou": 0.5, "accuracy": pytest.approx(2 / 3)}
    unknown = targets.clone()
    unknown[0, 0, 1] = 255
    assert task.count(unknown) == 2
    assert task.loss(logits, unknown) < task.loss(logits, targets)
    assert measured(task, (logits, unknown)) == {"mean_iou": 1.0, "accuracy": 1.0}
    assert objective_of(task) == Objective("mean_iou", higher_is_better=True, fraction=True)


def test_an_objective_compares_and_writes_its_values() -> None:
    bits = Objective("bits", higher_is_better=False)
    assert [bits.is_better(1.0, 2.0), ACCURACY.is_better(1.0, 2.0), bits.is_better(math.nan, 2.0)] == [
        True,
        False,
        False,
    ]
    assert [bits.text(1.9301), ACCURACY.text(0.9731), bits.text(12345.0)] == ["1.930", "97.31 %", "1.234e+04"]
    assert (bits.mode, ACCURACY.mode) == ("min", "max")


class OwnF1(torchmetrics.classification.MulticlassF1Score):
    """A user's subclass of a class of torchmetrics."""


class Share(torchmetrics.MeanMetric):
    """A user's metric that says what it is."""

    is_fraction = True


@pytest.mark.parametrize(
    ("metric", "fraction"),
    [
        (torchmetrics.Accuracy(task="multiclass", num_classes=3), True),
        (torchmetrics.classification.BinaryAUROC(), True),
        (OwnF1(num_classes=3), True),
        (torchmetrics.text.WordErrorRate(), True),
        (Share(), True),
        (torchmetrics.MeanMetric(), False),
        (
            torchmetrics.MatthewsCorrCoef(task="multiclass", num_classes=3),
            False,
        ),  # in [-1, 1], though plotted in [0, 1]
        (torchmetrics.CohenKappa(task="binary"), False),
        (torchmetrics.R2Score(), False),
        (torchmetrics.regression.ExplainedVariance(), False),
        (torchmetrics.MeanAbsoluteError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_metrics_that_are_fractions_are_written_in_per_cent(metric: torchmetrics.Metric, fraction: bool) -> None:
    assert is_fraction(metric) is fraction


def test_a_correlation_is_never_in_per_cent() -> None:
    correlation = Objective("correlation", higher_is_better=True)
    assert correlation.text(-0.25) == "-0.2500"
    assert correlation.limits == (-math.inf, math.inf)
    Floor(target=-0.5).check(correlation)


def test_an_error_rate_may_be_above_one() -> None:
    rate = Objective("phone_error_rate", higher_is_better=False, fraction=True)
    assert rate.text(1.25) == "125.00 %"
    assert rate.limits == (0.0, math.inf)
    assert rate.worst_gain < rate.gain(1.25), "a network that diverged is worse than any error rate"
    Floor(target=1.5).check(rate)
    with pytest.raises(ConfigError, match=r"floor\.target must be a finite number of 0 or more, got -0\.5"):
        Floor(target=-0.5).check(rate)


# What cannot be used, each as a change of a task that can.


@dataclass(frozen=True)
class Own(Regression):
    """A task whose parts are given."""

    objective: ClassVar[Any] = "rmse"

    def made(self, name: str, value: Any) -> Own:
        """Return a task of a class of its own, whose attribute `name` is `value`."""
        return dataclass(frozen=True)(type("Changed", (Own,), {name: value}))()


class Still:
    """A metric that says nothing."""

    higher_is_better = True

    def to(self, device: torch.device) -> None:
        pass

    def update(self, outputs: Any, targets: Any) -> None:
        pass

    def compute(self) -> Any:
        return torch.zeros(2)


def fails(*_: Any) -> Any:
    raise RuntimeError("of the user")


def computing(compute: Any) -> Still:
    return type("Computing", (Still,), {"compute": compute})()


def mean_from_three_samples_on(self: Own, outputs: Tensor, targets: Tensor) -> Tensor:
    squares = outputs.square()
    return squares.mean() if len(outputs) > 2 else squares.sum()


def with_task(name: str, value: Any) -> Experiment:
    return dataclasses.replace(any_task.EXPERIMENTS["regression"], task=Own().made(name, value))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "objective",
            "auc",
            r"objective must be one of its metrics\(\) or 'loss', got 'auc' and .* rmse, mae",
        ),
        (
            "metrics",
            lambda self: {"rmse": Still()},
            r"metric 'rmse' must compute one number, got tensor\(\[0\., 0\.\]\)",
        ),
        (
            "metrics",
            lambda self: {"rmse": computing(lambda _: None)},
            "metric 'rmse' must compute one number, got None",
        ),
        (
            "metrics",
            lambda self: {"rmse": computing(fails)},
            "metric 'rmse', computed after the last batch, failed: RuntimeError: of the user",
        ),
        ("metrics", fails, r"Changed.metrics\(\) failed: RuntimeError: of the user \(.*test_task.py:\d+\)"),
        ("loss", lambda self, outputs, targets: outputs - targets, "must return a floating-point scalar, .* of shape"),
        ("loss", lambda self, outputs, targets: 1.0, "must return a floating-point scalar, .* got float"),
        (
            "loss",
            lambda self, outputs, targets: (outputs * math.nan).sum(),
            "must be finite on the first samples, got nan",
        ),
        ("loss", lambda self, outputs, targets: outputs.square().mean(), "must be summed over the batch, .* not a sum"),
        (
            "loss",
            mean_from_three_samples_on,
            "must be summed over the batch, .* for 4 copies of a sample and .* for one",
        ),
        (
            "loss",
            lambda self, outputs, targets: outputs.detach().square().sum(),
            r"^Changed.loss\(\) must depend on the model's outputs, got a loss without a gradient: compute it from",
        ),
        ("loss", fails, r"Changed.loss\(\), called with \(outputs, targets\), failed: RuntimeError: of the user"),
        (
            "count",
            lambda self, targets: 3,
            r"count\(\) must return None or a finite scalar tensor of 0 or more, got 3",
        ),
        ("count", lambda self, targets: torch.tensor(-1), "must return None or a finite scalar tensor"),
        ("count", lambda self, targets: torch.zeros(2), r"got a tensor of shape \(2,\)"),
        (
            "outputs",
            fails,
            r"outputs\(\), called with the outputs of a batch, failed: RuntimeError: of the",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_one_sentence_before_training(name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_problem(with_task(name, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "later"), [("odd", "the first round stops after its first epoch"), ("rmse", "it is left out")]
)
def test_a_metric_that_may_be_undefined_is_a_warning_before_training(
    objective: str, later: str, caplog: pytest.LogCaptureFixture
) -> None:
    members = {
        "metrics": lambda self: {"rmse": Own().metrics()["rmse"], "odd": computing(lambda _: math.nan)},
        "objective": objective,
    }
    task = dataclass(frozen=True)(type("Changed", (Own,), members))()
    load_problem(dataclasses.replace(any_task.EXPERIMENTS["regression"], task=task))
    (sentence,) = (record.getMessage() for record in caplog.records if "metric" in record.getMessage())
    assert sentence.startswith("metric odd is nan on the first samples before training, where it may be undefined")
    assert sentence.endswith(f"if it is so on the whole validation split, {later}")


def test_a_metric_without_a_direction_is_refused() -> None:
    undecided = type("Undecided", (Still,), {"higher_is_better": None})
    with pytest.raises(
        ConfigError, match="higher_is_better of metric 'rmse' of Changed must be True or False, got None"
    ):
        objective_of(Own().made("metrics", lambda self: {"rmse": undecided()}))


KEPT = Still()


@pytest.mark.parametrize("objective", ["rmse", "loss"])
@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (fails, r"Changed.metrics\(\) failed: RuntimeError: of the user"),
        (lambda self: None, r"Changed.metrics\(\) must return a dict of metrics by name, got NoneType"),
        (lambda self: [Still()], r"Changed.metrics\(\) must return a dict of metrics by name, got list"),
        (lambda self: {"rmse": 0.5}, "metric 'rmse' of Changed must be an object with the methods to, update"),
        (lambda self: {"loss": Still(), "rmse": Still()}, "no metric of Changed may have the name 'loss'"),
        (lambda self: {3: Still()}, r"a metric's name in Changed.metrics\(\) must be a text .*, got 3"),
        (lambda self: {"rmse": KEPT}, r"Changed.metrics\(\) must return new metrics at each call"),
    ],
)
def test_metrics_are_checked_whatever_the_objective_is(objective: str, metrics: Any, words: str) -> None:
    changed = dataclass(frozen=True)(type("Changed", (Own,), {"metrics": metrics, "objective": objective}))
    with pytest.raises(ConfigError, match=words):
        objective_of(changed())


def test_a_task_has_an_objective() -> None:
    parts = {name: getattr(Own, name) for name in ("loss", "count", "metrics")}
    undecided = dataclass(frozen=True)(type("Undecided", (), parts))
    with pytest.raises(
        ConfigError, match=r"^Undecided must have an objective, the name of one of its metrics or 'loss'"
    ):
        objective_of(undecided())


@pytest.mark.parametrize("task", ["accuracy", object(), Regression])
def test_a_task_is_a_dataclass(task: Any) -> None:
    with pytest.raises(ConfigError, match=r"task must be a dataclass with loss\(\) and count\(\) and metrics\(\), got"):
        dataclasses.replace(any_task.EXPERIMENTS["images"], task=task)


def test_a_task_that_cannot_be_taught_takes_no_distillation() -> None:
    with pytest.raises(ConfigError, match=r"must be None for a task without divergence\(\), .* for Pinball"):
        dataclasses.replace(any_task.EXPERIMENTS["own task"], distillation=Distillation())


def test_a_loss_may_be_the_objective() -> None:
    task = Own().made("objective", "loss")
    assert objective_of(task) == Objective("loss", higher_is_better=False)


# Data of any kind.

COLUMNS, NUMBERS = torch.arange(24.0).view(8, 3), torch.arange(8.0)
SPLIT = TensorDataset(COLUMNS, NUMBERS)


def given(**changes: Any) -> Data:
    return Data(**{"train": SPLIT, "val": SPLIT, "test": SPLIT, **changes})


def test_the_example_is_made_of_the_first_two_samples() -> None:
    inputs, targets = complete(given()).example
    assert inputs.equal(COLUMNS[:2])
    assert targets.equal(NUMBERS[:2])


def as_named(samples: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    return {"columns": torch.stack([sample[0] for sample in samples])}, torch.stack([s[1] for s in samples])


def test_a_collate_makes_batches_of_any_nesting() -> None:
    inputs = complete(given(collate=as_named)).inputs
    assert inputs["columns"].equal(COLUMNS[:2])
    assert complete(given(collate=as_named)).identity != complete(given()).identity


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"collate": fails},
            DataError,
            r"collate fails failed on 2 samples of train: RuntimeError: of .* \(.*py:\d+",
        ),
        ({"collate": lambda samples: samples[0][0]}, DataError, r"must return a pair \(inputs, targets\), got Tensor"),
        (
            {"collate": lambda samples: (COLUMNS[:2], COLUMNS[:2], NUMBERS[:2])},
            DataError,
            r"must return a pair \(inputs, targets\), got tuple of 3",
        ),
        ({"example": (COLUMNS,) * 3}, DataError, r"must be None or a tuple \(inputs, targets\), got tuple of 3"),
        ({"collate": 3}, DataError, "collate must be None or callable, got 3"),
        ({"prepare": 3}, DataError, "prepare must be None or callable, got 3"),
        ({"prepare": fails}, DataError, "draws of prepare fails must be a whole number of 0 or more, got None"),
        ({"example": COLUMNS}, DataError, r"example must be None or a tuple \(inputs, targets\), got Tensor"),
        ({"model_arguments": {3: 4}}, DataError, "model_arguments must be a dict of arguments by name"),
        ({"train": TensorDataset(COLUMNS)}, DataError, "train split must hold two tensors, inputs and targets"),
        ({"val": TensorDataset(COLUMNS, NUMBERS / 0)}, DataError, "val sample 0 must hold finite numbers only"),
        (
            {"train": [1, 2, 3]},
            DataError,
            r"train sample 0 must be a pair \(input, target\) unless",
        ),
        ({"train": [(1, 2, 3)] * 2}, DataError, "unless the data has a collate, got tuple of 3"),
    ],
)
def test_data_that_cannot_be_used_is_one_sentence(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        complete(given(**changes))


class Shifted:
    """A preparation that adds a random number in training."""

    draws = 1

    def __call__(self, inputs: Tensor, targets: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        return inputs if u is None else inputs + u, targets


def test_an_example_is_prepared_as_in_evaluation() -> None:
    assert complete(given(prepare=Shifted())).inputs.equal(COLUMNS[:2])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Linear(4, 1), r"model Linear cannot take inputs of shape \(2, 3\): RuntimeError"),
        (nn.Identity(), "needs outputs of the targets' shape"),
    ],
)
def test_a_model_that_does_not_take_the_example_is_named(
    module: nn.Module, words: str, check: Callable[[nn.Module], None]
) -> None:
    with pytest.raises(ConfigError, match=words):
        check(module)


@pytest.fixture
def check() -> Callable[[nn.Module], None]:
    from orchestrator.model_check import check_model

    return lambda module: check_model(module, complete(given()), Regression())


# What a reader of the code broke.


def test_classes_of_eight_bits_are_not_taken_for_the_ignored_one() -> None:
    """In 8 bits, -100 is 156."""
    logits, targets = torch.zeros(1, 2, 200), torch.tensor([[156, 1]], dtype=torch.uint8)
    assert Tokens().count(targets) == 2
    assert Tokens().loss(logits, targets).item() == pytest.approx(2 * math.log(200))
    assert measured(Tokens(), (logits, targets))["bits_per_token"] == pytest.approx(math.log2(200))


@pytest.mark.parametrize("task", [Classification(), Tokens(), Segmentation()])
def test_classes_are_whole_numbers(task: Task) -> None:
    with pytest.raises(ConfigError, match=r"the targets must be whole numbers, .* got torch.float32"):
        task.loss(torch.zeros(2, 3), torch.tensor([0.7, 1.4]))


def test_a_label_of_minus_a_hundred_is_not_left_out() -> None:
    with pytest.raises(IndexError):
        Classification().loss(LOGITS, torch.tensor([0, 1, -100]))


def test_metrics_are_new_at_each_call() -> None:
    kept = Regression().metrics()
    with pytest.raises(ConfigError, match=r"Changed.metrics\(\) must return new metrics at each call"):
        load_problem(with_task("metrics", lambda self: kept))


@pytest.mark.parametrize("name", [None, ["rmse"]])
def test_an_objective_is_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"Changed.objective must be a text .*, got .*: give the name of a metric"):
        objective_of(Own().made("objective", name))


def test_the_objective_is_a_part_of_the_keys() -> None:
    from orchestrator.experiment import round_settings

    experiment = any_task.EXPERIMENTS["regression"]
    problem, _ = load_problem(experiment)
    settings = [
        round_settings(dataclasses.replace(experiment, task=Own().made("objective", name)), problem)[0]
        for name in ("rmse", "mae")
    ]
    assert settings[0] != settings[1]


def test_fields_that_json_cannot_hold_are_refused() -> None:
    @dataclass(frozen=True)
    class WithFunction(Regression):
        function: Any = len

    with pytest.raises(ConfigError, match=r"the fields of task WithFunction must be numbers, texts, .*: give a name"):
        dataclasses.replace(any_task.EXPERIMENTS["regression"], task=WithFunction())


def test_samples_come_first_in_every_tensor() -> None:
    def length_first(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([sample[0] for sample in samples], dim=1), torch.stack([sample[1] for sample in samples])

    with pytest.raises(DataError, match=r"length_first must return as .* \(3, 2\) for 2 .*: put samples first in"):
        complete(given(collate=length_first))


def test_the_example_has_its_samples_first_in_every_tensor() -> None:
    from orchestrator.model_check import check_model

    data = complete(given(example=(torch.zeros(3, 2), torch.zeros(2))))
    with pytest.raises(ConfigError, match=r"first dimension of every tensor .* got 0 \(3, 2\), 1 \(2,\)"):
        check_model(nn.Linear(2, 1), data, Regression())


@pytest.mark.parametrize("inputs", [["one", "two"], {"text": ["one", "two"]}])
def test_inputs_without_tensors_are_refused(inputs: Any) -> None:
    from orchestrator.model_check import check_model

    data = complete(given(example=(inputs, torch.zeros(2))))
    with pytest.raises(
        ConfigError, match=r"inputs of a batch must hold a tensor .*, got (list of 2|dict): make tensor"
    ):
        check_model(nn.Linear(3, 1), data, Regression())


def test_a_collate_that_leaves_samples_out_is_refused() -> None:
    def first_two(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([sample[0] for sample in samples[:2]]), torch.stack([sample[1] for sample in samples[:2]])

    data = complete(given(collate=first_two))
    batches = Batches(data, batch_size=4, device=torch.device("cpu"))
    with pytest.raises(
        DataError, match=r"first_two must return as many .* \(2, 3\) for 4 samples of train: leave some out in"
    ):
        next(batches.train(0))


def test_a_loss_that_fails_on_some_batches_only_is_one_sentence(tmp_path: Path) -> None:
    def loss(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
        if len(targets) > 2:
            raise ValueError("too many")
        return Regression().loss(outputs, targets)

    with pytest.raises(ConfigError, match=r"^training failed: ValueError: too many \(.*test_task.py:\d+\)$"):
        run(with_task("loss", loss), str(tmp_path))


class WithoutUpdate:
    higher_is_better = True

    def to(self, device: torch.device) -> None: ...

    def compute(self) -> Tensor:
        return torch.zeros(())


@pytest.mark.parametrize("metric", [torchmetrics.MeanSquaredError, WithoutUpdate(), 0.5])
def test_a_metric_without_the_methods_of_one_is_refused(metric: object) -> None:
    with pytest.raises(ConfigError, match=r"metric 'rmse' of Changed must be an object with the methods to, update"):
        load_problem(with_task("metrics", lambda self: {"rmse": metric}))


@pytest.mark.parametrize("count", [math.inf, -1.0, math.nan, 1j, True])
def test_a_count_that_nothing_can_be_divided_by_is_refused(count: complex) -> None:
    with pytest.raises(ConfigError, match=r"Changed.count\(\) must return None or a finite scalar tensor of 0 or more"):
        load_problem(with_task("count", lambda self, targets: torch.tensor(count)))


def test_a_check_of_outputs_that_fails_is_one_sentence() -> None:
    def check_outputs(self: Any, outputs: Tensor, arguments: Any) -> None:
        raise KeyError("classes")

    with pytest.raises(
        ConfigError, match=r"Changed.check_outputs\(\), called with \(outputs, model_arguments\), failed"
    ):
        load_problem(with_task("check_outputs", check_outputs))


def test_a_divergence_that_fails_is_told_before_training() -> None:
    changed = with_task("divergence", lambda self, outputs, taught, targets, temperature: outputs)
    with pytest.raises(ConfigError, match=r"Changed.divergence\(\) must return a finite scalar"):
        load_problem(dataclasses.replace(changed, distillation=Distillation()))


def test_a_class_beyond_the_last_is_named() -> None:
    split = TensorDataset(COLUMNS, torch.tensor([0, 1, 2, 7, 0, 1, 2, 0]))
    with pytest.raises(DataError, match=r"train sample 3 must have as its target an integer in \[0, 3\), .* got 7"):
        complete(given(train=split, model_arguments={"num_classes": 3}))


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([s[0] * self.scale for s in samples]), torch.stack([s[1] for s in samples])


def scaled_by(scale: float) -> Callable[[list[Any]], tuple[Tensor, Tensor]]:
    return lambda samples: Scaled(scale)(samples)


@pytest.mark.parametrize("make", [Scaled, scaled_by])
def test_what_a_collate_holds_is_a_part_of_the_identity(make: Callable[[float], Any]) -> None:
    identities = [
        complete(given(collate=make(scale), example=(COLUMNS[:2], NUMBERS[:2]))).identity for scale in (1, 2, 1)
    ]
    assert identities[0] == identities[2] != identities[1]


class Arrays(torch.utils.data.Dataset):
    """Samples that are no tensors, of more elements than a repr shows; each has an address of its own."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        array = np.zeros(1200, np.float32)
        array[600] = self.value
        return Box(array), float(index)


class Box:
    def __init__(self, content: Any) -> None:
        self.content = content


def unboxed(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([torch.from_numpy(box.content) for box, _ in samples]), torch.tensor([s[1] for s in samples])


def test_the_content_of_samples_of_any_type_is_a_part_of_the_identity() -> None:
    identities = [
        complete(Data(*[Arrays(value) for _ in range(3)], collate=unboxed)).identity for value in (1.0, 2.0, 1.0)
    ]
    assert identities[0] == identities[2] != identities[1]


def test_a_batch_of_objects_is_refused() -> None:
    with pytest.raises(DataError, match=r"a batch must be tensors in tuples, lists and dicts, got Box"):
        complete(given(collate=lambda samples: (Box(1), torch.zeros(2))))
