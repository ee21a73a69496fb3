"""Define what a network is for: its loss, its metrics, and the one metric that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.modules import logits_of
from orchestrator.objective import LOSS, Objective, is_fraction
from orchestrator.task_metrics import Accuracy, MeanAbsoluteError, Ratio, RootMeanSquaredError
from orchestrator.user_code import called
from orchestrator.validate import flag, fraction, text, whole

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from orchestrator import nested
    from orchestrator.training import collectives
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")
    collectives = lazy("orchestrator.training.collectives")
    nested = lazy("orchestrator.nested")

_NO_CLASS = -(2**62)  # for cross_entropy, which would leave out -100


class Metric(Protocol):
    """What a metric needs; every torchmetrics.Metric has it.

    `update` gets what the task's `outputs` returns, and the targets. `compute` returns one number over all workers, and
    is called by all of them. `is_fraction` True, where a metric has it, says that its values are written in per cent:
    fractions in [0, 1], or error rates, which may be above 1. Of torchmetrics' own classes it is known.
    """

    @property
    def higher_is_better(self) -> bool | None: ...

    def to(self, device: torch.device) -> Any: ...

    def update(self, outputs: Any, targets: Any) -> None: ...

    def compute(self) -> Tensor: ...


class Task(Protocol):
    """A frozen dataclass: its fields are a part of every key.

    Three methods are optional: `outputs(outputs)` turns what the model returns into what the metrics take,
    `check_outputs(outputs, model_arguments)` raises ConfigError for outputs that do not fit the data, and
    `divergence(outputs, taught, targets, temperature)` measures how far a network is from its teacher, as a sum over
    the batch, for `Distillation`. An optional `class_dim` is the dimension of the outputs that counts classes: exported
    files are asked how many of their predictions are those of the network.
    """

    @property
    def objective(self) -> str:
        """Return the name of the metric that decides; "loss" is the loss itself."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch, summed over it: a scalar."""

    def count(self, targets: Any) -> Tensor | None:
        """Return what the sum of losses is divided by, such as the number of tokens. None: the number of samples."""

    def metrics(self) -> Mapping[str, Metric]:
        """Return new metrics by name."""


@dataclass(frozen=True)
class Classification:
    """One class of several for each sample: logits (n, classes), targets (n,) of whole numbers."""

    label_smoothing: float = 0.0
    objective: ClassVar[str] = "accuracy"
    class_dim: ClassVar[int] = 1

    def __post_init__(self) -> None:
        fraction("Classification.label_smoothing", self.label_smoothing, zero=True)

    def outputs(self, outputs: Any) -> Tensor:
        return logits_of(outputs)

    def check_outputs(self, outputs: Any, arguments: Mapping[str, Any]) -> None:
        """Raise ConfigError unless there is a logit for each of the data's num_classes, where it says how many."""
        logits = logits_of(outputs)
        count = arguments.get("num_classes", logits.shape[-1] if logits.dim() else 0)
        if logits.dim() != 2 or logits.shape[1] != count or not logits.is_floating_point():
            raise ConfigError(
                f"the model must give float logits of shape (samples, {count}), got {tuple(logits.shape)} of "
                f"{logits.dtype}"
            )

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        logits, targets = _logits_and_classes(self, outputs, targets)
        smoothing = self.label_smoothing
        return F.cross_entropy(logits, targets, ignore_index=_NO_CLASS, reduction="sum", label_smoothing=smoothing)

    def count(self, targets: Tensor) -> None:
        return None

    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": Accuracy()}

    def divergence(self, outputs: Any, taught: Any, targets: Tensor, temperature: float) -> Tensor:
        return divergence(logits_of(outputs), logits_of(taught), temperature, dim=1).sum()


ACCURACY = Objective(Classification.objective, higher_is_better=True, fraction=True)


@dataclass(frozen=True)
class Regression:
    """Numbers for each sample: outputs and targets of one shape; the loss is the mean squared error over all values."""

    objective: ClassVar[str] = "rmse"

    def outputs(self, outputs: Any) -> Tensor:
        return logits_of(outputs)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return F.mse_loss(_shaped_as(logits_of(outputs), targets), targets, reduction="sum")

    def count(self, targets: Tensor) -> Tensor:
        return torch.tensor(targets.numel(), device=targets.device)

    def metrics(self) -> dict[str, Metric]:
        return {"rmse": RootMeanSquaredError(), "mae": MeanAbsoluteError()}

    def divergence(self, outputs: Any, taught: Any, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared distance; it needs no temperature, whose square `Distillation` multiplies by."""
        distance = F.mse_loss(logits_of(outputs).float(), logits_of(taught).float(), reduction="sum")
        return distance / temperature**2


@dataclass(frozen=True)
class Segmentation:
    """A class for each pixel: logits (n, classes, height, width), targets (n, height, width) of whole numbers.

    Pixels whose target is `ignore` count nowhere: loss and metrics are over the others.
    """

    ignore: int = 255
    objective: ClassVar[str] = "mean_iou"
    class_dim: ClassVar[int] = 1

    def __post_init__(self) -> None:
        whole("Segmentation.ignore", self.ignore)

    def outputs(self, outputs: Any) -> Tensor:
        return logits_of(outputs)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        logits, targets = _logits_and_classes(self, outputs, targets)
        return F.cross_entropy(logits, targets, ignore_index=self.ignore, reduction="sum")

    def count(self, targets: Tensor) -> Tensor:
        return (classes(targets) != self.ignore).sum()

    def metrics(self) -> dict[str, Metric]:
        return {"mean_iou": MeanIoU(self.ignore), "accuracy": Accuracy(ignore=self.ignore)}

    def divergence(self, outputs: Any, taught: Any, targets: Tensor, temperature: float) -> Tensor:
        by_pixel = divergence(logits_of(outputs), logits_of(taught), temperature, dim=1)
        return (by_pixel * (classes(targets) != self.ignore)).sum()


class MeanIoU:
    """The mean over classes of intersection / union of predicted and true pixels, over the whole split.

    Classes that are neither predicted nor true anywhere do not count (Everingham et al. 2010, section 4.4, for their
    union). A target must be a class or `ignore`.
    """

    higher_is_better = True
    is_fraction = True

    def __init__(self, ignore: int) -> None:
        self._ignore, self._device = ignore, torch.device("cpu")
        self._pixels: Tensor | None = None  # (classes, classes): of true class i predicted as j

    def to(self, device: torch.device) -> None:
        self._device = device

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        count, targets = outputs.shape[1], classes(targets)
        if self._pixels is None:
            self._pixels = torch.zeros((count, count), dtype=torch.int64, device=self._device)
        counted = targets != self._ignore
        pairs = targets[counted] * count + outputs.argmax(dim=1)[counted]
        self._pixels += torch.bincount(pairs, minlength=count**2).view(count, count)

    def compute(self) -> Tensor:
        """Return the value over all workers, some of which may have had no batch."""
        mine = torch.zeros((0, 0), dtype=torch.int64, device=self._device) if self._pixels is None else self._pixels
        count = int(collectives.gather(torch.tensor([len(mine)], device=self._device)).max())
        pixels = torch.zeros((count, count), dtype=torch.int64, device=self._device)
        pixels[: len(mine), : len(mine)] = mine
        pixels = collectives.sum_over_workers(pixels)
        intersection = pixels.diagonal()
        union = pixels.sum(0) + pixels.sum(1) - intersection
        return (intersection[union > 0] / union[union > 0]).double().mean()


@dataclass(frozen=True)
class Tokens:
    """A class for each place of a sequence: language models, sequence to sequence.

    Logits (n, length, vocabulary), targets (n, length) of whole numbers. Places whose target is `ignore`, such as
    padding, count nowhere: loss and metrics are means over the others. `unit`: what one token is, for the name of the
    objective, such as bits_per_character.
    """

    ignore: int = -100
    unit: str = "token"
    class_dim: ClassVar[int] = -1

    def __post_init__(self) -> None:
        whole("Tokens.ignore", self.ignore)
        text("Tokens.unit", self.unit)

    @property
    def objective(self) -> str:
        return f"bits_per_{self.unit}"

    def outputs(self, outputs: Any) -> Tensor:
        return logits_of(outputs)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        logits, targets = _logits_and_classes(self, outputs, targets)
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=self.ignore, reduction="sum")

    def count(self, targets: Tensor) -> Tensor:
        return (classes(targets) != self.ignore).sum()

    def metrics(self) -> dict[str, Metric]:
        return {
            self.objective: TokenEntropy(self.ignore),
            "perplexity": TokenEntropy(self.ignore, perplexity=True),
            "accuracy": Accuracy(dim=-1, ignore=self.ignore),
        }

    def divergence(self, outputs: Any, taught: Any, targets: Tensor, temperature: float) -> Tensor:
        by_place = divergence(logits_of(outputs), logits_of(taught), temperature, dim=-1)
        return (by_place * (classes(targets) != self.ignore)).sum()


class TokenEntropy(Ratio):
    """The mean negative log-likelihood of targets other than `ignore`, in bits, or as a perplexity.

    Outputs are logits (n, length, vocabulary), targets (n, length).
    """

    higher_is_better = False

    def __init__(self, ignore: int, *, perplexity: bool = False) -> None:
        super().__init__()
        self._ignore, self._perplexity = ignore, perplexity

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        nats = F.cross_entropy(
            outputs.float().flatten(0, -2), targets.flatten().long(), ignore_index=self._ignore, reduction="sum"
        )
        self.add(nats, (targets.long() != self._ignore).sum())

    def finish(self, ratio: Tensor) -> Tensor:
        return ratio.exp() if self._perplexity else ratio / math.log(2)


def classes(targets: Tensor) -> Tensor:
    """Return targets as int64: of 8 bits, 156 would equal -100. Raises ConfigError unless they are whole numbers."""
    if not isinstance(targets, torch.Tensor):
        raise ConfigError(
            f"the targets must be a tensor of whole numbers, got {nested.kind_of(targets)}: make one in collate"
        )
    if targets.dtype == torch.int64:
        return targets
    if targets.is_floating_point() or targets.is_complex():
        raise ConfigError(f"the targets must be whole numbers, each that of a class, got {targets.dtype}")
    return targets.long()


def _logits_and_classes(
    task: Classification | Segmentation | Tokens, outputs: Any, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits, and the targets as int64. Raises ConfigError unless there are logits for each target."""
    logits, targets = logits_of(outputs), classes(targets)
    shape, dim = tuple(logits.shape), task.class_dim % max(1, logits.dim())
    if logits.dim() < 2 or (*shape[:dim], *shape[dim + 1 :]) != targets.shape:
        raise ConfigError(
            f"{type(task).__name__} needs targets of the logits' shape without the classes, its dimension "
            f"{task.class_dim}, got targets {tuple(targets.shape)} and logits {shape}: give the model an output for "
            "each target, or reshape the targets in the data"
        )
    return logits, targets


def objective_of(task: Task) -> Objective:
    """Return the metric of `task` that decides, or its loss.

    Raises ConfigError if the task does not have that metric, or its direction, or if its metrics cannot be used.
    """
    kind = type(task).__name__
    if not hasattr(type(task), "objective") and not hasattr(task, "objective"):
        raise ConfigError(
            f"{kind} must have an objective, the name of one of its metrics or {LOSS!r}: write, for example, "
            f"objective: ClassVar[str] = {LOSS!r} in its class"
        )
    with called(f"{kind}.objective"):
        name: object = task.objective
    name = text(f"{kind}.objective", name, way_out="give the name of a metric")
    metrics = _checked_metrics(task)
    if name == LOSS:
        return Objective(LOSS, higher_is_better=False)
    if name not in metrics:
        raise ConfigError(
            f"{kind}.objective must be one of its metrics() or {LOSS!r}, got {name!r} and the metrics "
            f"{', '.join(metrics) or 'none'}"
        )
    better = flag(f"higher_is_better of metric {name!r} of {kind}", getattr(metrics[name], "higher_is_better", None))
    return Objective(name, better, is_fraction(metrics[name]))


def _checked_metrics(task: Task) -> dict[str, Metric]:
    """Return new metrics of `task` by name. Raises ConfigError unless each can be used beside the loss."""
    kind = type(task).__name__
    with called(f"{kind}.metrics()", task.metrics):
        found, others = task.metrics(), task.metrics()
    if not hasattr(found, "keys"):  # a dict, or a torchmetrics.MetricCollection
        raise ConfigError(f"{kind}.metrics() must return a dict of metrics by name, got {type(found).__name__}")
    metrics = dict(found)
    for name, metric in metrics.items():
        text(f"a metric's name in {kind}.metrics()", name)
        methods = ("to", "update", "compute")
        if isinstance(metric, type) or not all(callable(getattr(metric, method, None)) for method in methods):
            raise ConfigError(
                f"metric {name!r} of {kind} must be an object with the methods {', '.join(methods)}, as those of "
                f"torchmetrics are, got {metric!r:.100}"
            )
    if LOSS in metrics:
        raise ConfigError(
            f"no metric of {kind} may have the name {LOSS!r}, which is that of the task's own loss: give it another"
        )
    if any(metric is others[name] for name, metric in metrics.items() if name in others):
        raise ConfigError(f"{kind}.metrics() must return new metrics at each call, or they would add up all splits")
    return metrics


def divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """Return KL(teacher || student) of softmax(logits / temperature) along `dim`, for each place."""
    log_student = F.log_softmax(student.float() / temperature, dim=dim)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=dim)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim)


def _shaped_as(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `outputs` in the shape of the targets. Raises ConfigError where broadcasting would mix up samples."""
    if outputs.shape == targets.shape:
        return outputs
    if outputs.shape == (*targets.shape, 1) or targets.shape == (*outputs.shape, 1):
        return outputs.reshape(targets.shape)
    raise ConfigError(
        f"Regression needs outputs of the targets' shape {tuple(targets.shape)}, got {tuple(outputs.shape)}"
    )
