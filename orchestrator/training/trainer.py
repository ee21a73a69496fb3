"""Train one work: the same code in one process and on every worker of a group.

Masked training equals training of `w * mask` exactly, clipping included: the gradient is masked before it is
clipped and the weight after the step, and the momentum starts masked, so nothing brings a removed weight back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.data.batches import Batches, Split
from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError, DamagedError, DivergedError
from orchestrator.experiment import Experiment
from orchestrator.models.build import build_model
from orchestrator.models.constants import DRAWN_AGAIN, check_constants
from orchestrator.models.start_weights import load_start_weights
from orchestrator.pruning.channels.graph import Kept
from orchestrator.pruning.structure import Dense, Structure
from orchestrator.randomness import derive, seed_all
from orchestrator.storage.store import JSON_BYTES
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training import collectives
from orchestrator.training.masked import Masked
from orchestrator.training.moving_average import MovingAverage
from orchestrator.training.state import (
    check_model_tensors,
    check_state,
    model_tensors,
    put_model,
    put_state,
    take_model,
    take_state,
)
from orchestrator.work import Answer, EpochMetrics, Gradients, Progress, Snapshot, Train, Trained, Work

TakeProgress = Callable[[], Progress | None]  # a checkpoint, on the first worker; None on the others
# (work, the epoch's metrics, training images per second over all workers, a function that takes a checkpoint)
OnEpoch = Callable[[Train, EpochMetrics, float, TakeProgress], None]
OnStep = Callable[[TakeProgress], None]  # every worker must take the checkpoint, or none
OnSnapshot = Callable[[int, TrainState], None]  # (epochs of the dense run, its state after them)


class Trainer:
    """One worker's part of the training; model, data and loader processes live from round to round."""

    def __init__(
        self,
        experiment: Experiment,
        data: Data,
        *,
        device: torch.device | None = None,
        loader_workers: int = 0,
    ) -> None:
        self.training = experiment.training
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._experiment, self._data = experiment, data
        self.batches = Batches(
            data,
            batch_size=self.training.batch_size,
            rank=collectives.rank(),
            world=collectives.world_size(),
            device=self.device,
            loader_workers=loader_workers,
            channels_last=self.training.channels_last,
        )
        self._networks: dict[str, tuple[Kept, nn.Module]] = {}
        self.module = self._network("student", Dense())
        self._last_step: float | None = None  # when it ended, for `gap_seconds`
        self._first_step: float | None = None

    def do(
        self,
        work: Work,
        *,
        resume: Progress | None = None,
        on_epoch: OnEpoch | None = None,
        on_step: OnStep | None = None,
        on_snapshot: OnSnapshot | None = None,
    ) -> Answer:
        """Do `work` to its end, from `resume` if given, and return its answer.

        `on_epoch` is called on every worker after each epoch, `on_step` after each step, `on_snapshot` with each
        snapshot that the work wants kept.

        Raises DivergedError when a loss of an epoch, training or validation, is not finite, DataError on a bad sample,
        ConfigError when the work needs another number of workers.
        """
        if isinstance(work, Gradients):
            return self._gradients(work)
        if isinstance(work, Snapshot):
            _check_workers(work)
            self._run_epochs(attempt := self._begin(work.replay, resume, on_step), on_epoch, None)
            return take_state(self.module, attempt.optimizer)
        return self.train(work, resume=resume, on_epoch=on_epoch, on_step=on_step, on_snapshot=on_snapshot)

    def train(
        self,
        work: Train,
        *,
        resume: Progress | None = None,
        on_epoch: OnEpoch | None = None,
        on_step: OnStep | None = None,
        on_snapshot: OnSnapshot | None = None,
    ) -> Trained:
        """Train one round to its end, or measure it where it has no epoch; see `do`."""
        attempt = self._begin(work, resume, on_step)
        last_step, self._first_step = self._last_step, None
        self._run_epochs(attempt, on_epoch, on_snapshot)
        outcome = self._outcome(attempt)
        start_val_accuracy = None if work.epochs else self._measure(work, outcome)
        _, test_accuracy = self.evaluate(outcome, "test")
        return Trained(
            state=TrainState(take_model(outcome), take_state(self.module, attempt.optimizer).optimizer),
            history=tuple(attempt.history),
            test_accuracy=test_accuracy,
            seconds=time.perf_counter() - attempt.began,
            images_per_second=attempt.images / max(attempt.training_seconds, 1e-9),
            attempts=attempt.attempts,
            workers=collectives.world_size(),
            gap_seconds=self._first_step - last_step if last_step and self._first_step else None,
            snapshots=attempt.snapshots,
            start_val_accuracy=start_val_accuracy,
        )

    def _begin(self, work: Train, resume: Progress | None, on_step: OnStep | None) -> _Attempt:
        """Put the network where `work` starts, or where `resume` left it."""
        began = time.perf_counter() - (resume.seconds if resume else 0.0)
        attempts = resume.attempts + 1 if resume else 1
        self.module = self._network("student", work.structure)
        optimizer = self.training.optimizer.build(self.module)
        start = resume.state if resume else work.start or self._initial(work)
        with _starting_from(f"round {work.round}", work.parent):
            put_state(start, self.module, optimizer)
            teacher = self._teacher(work.teacher) if work.teacher else None
        collectives.start_alike(self.module)
        masked = work.structure.hold(self.module)
        masked.mask_weights()
        average = self._average(work, resume)
        history = list(resume.history) if resume else []
        attempt = _Attempt(work, optimizer, masked, teacher, average, history, began, attempts, on_step)
        if resume and resume.parts is not None:
            attempt.begun, attempt.loss_sum = resume.steps_done, self._put_parts(attempt, resume.parts)
        return attempt

    def _run_epochs(self, attempt: _Attempt, on_epoch: OnEpoch | None, on_snapshot: OnSnapshot | None) -> None:
        """Train the epochs that are left of an attempt."""
        work, end = attempt.work, attempt.work.first_epoch + attempt.work.epochs
        for epoch in range(work.first_epoch + len(attempt.history), end):
            if not attempt.begun:
                self._keep_snapshot(attempt, epoch, on_snapshot)
            images_per_second = self._epoch(attempt, epoch)
            if on_epoch:
                on_epoch(work, attempt.history[-1], images_per_second, lambda: self._progress(attempt))
        self._keep_snapshot(attempt, end, on_snapshot)  # of a dense round that ends before the schedule does

    def _keep_snapshot(self, attempt: _Attempt, epoch: int, on_snapshot: OnSnapshot | None) -> None:
        """Keep the state after `epoch` epochs if the work wants it."""
        if epoch in attempt.work.keep:
            attempt.snapshots[epoch] = take_state(self.module, attempt.optimizer)
            if on_snapshot:
                on_snapshot(epoch, attempt.snapshots[epoch])

    @property
    def most_bytes(self) -> int:
        """What a checkpoint of this model stays below by far: an optimizer has a few slots a weight, not ten."""
        return 16 * sum(tensor.nbytes for tensor in model_tensors(self.module).values()) + JSON_BYTES

    def check(self, work: Train, progress: Progress) -> None:
        """Raise DamagedError unless `work` can go on from `progress`: storage may hold anything."""
        self.module = self._network("student", work.structure)
        check_state(progress.state, self.module)
        if progress.origin != work.origin():
            raise DamagedError("it began from other weights or masks than the round has now")
        done, steps = len(progress.history), self.batches.steps_per_epoch
        if (progress.average is None) != (self.training.ema is None):
            raise DamagedError("it must have averaged weights where training.ema has a value, and only there")
        if progress.average is not None:
            check_model_tensors(progress.average, self.module)
        networks = 1 if progress.average is None else 2
        own = 1 + networks * sum(buffer.numel() for buffer in collectives.running_statistics(self.module))
        if [metrics.epoch - work.first_epoch for metrics in progress.history] != list(range(done)):
            raise DamagedError(f"its epochs do not begin with the round's first one, {work.first_epoch}")
        if done + (progress.steps_done > 0) > work.epochs or progress.steps_done > steps:
            raise DamagedError(
                f"{done} epochs and {progress.steps_done} steps are more than the round's {work.epochs} of {steps}"
            )
        if progress.parts is not None and progress.parts.shape[1] != own:
            raise DamagedError(f"its workers have {progress.parts.shape[1]} values of their own, the model has {own}")

    def _measure(self, work: Train, module: nn.Module) -> float:
        """Return the validation accuracy of a round that trains no epoch."""
        val_loss, val_accuracy = self.evaluate(module, "val")
        if not math.isfinite(val_loss):
            raise DivergedError(
                f"round {work.round} trains no epoch, and the weights that it starts from give a validation loss of "
                f"{val_loss}: start from other weights"
            )
        return val_accuracy

    def _epoch(self, attempt: _Attempt, epoch: int) -> float:
        """One epoch, or what is left of it, and its validation; returns training images per second."""
        work, steps = attempt.work, self.batches.steps_per_epoch - attempt.begun
        began = time.perf_counter()
        train_loss = self._train_epoch(attempt, epoch)
        self._last_step = time.perf_counter()
        val_loss, val_accuracy = self.evaluate(self._outcome(attempt), "val")
        # The training loss is measured before each step; the validation loss sees what the last one did.
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise DivergedError(
                f"round {work.round} (density {work.density:.4g}) diverged: training loss {train_loss}, "
                f"validation loss {val_loss} in epoch {epoch - work.first_epoch + 1} of {work.epochs}; "
                "lower the learning rate, add warm-up or set clip_norm"
            )
        lr = work.schedule.lr_at(epoch, self.training.epochs)
        attempt.history.append(EpochMetrics(epoch, lr, train_loss, val_loss, val_accuracy))
        seconds, images = self._last_step - began, steps * self.training.batch_size
        attempt.training_seconds += seconds
        attempt.images += images
        return images / seconds

    def _network(self, role: str, structure: Structure) -> nn.Module:
        """Return the network that is kept for `role`; it is built again only for other channels than before."""
        if role not in self._networks or self._networks[role][0] != structure.channels:
            module = self._place(self._build(derive(self._experiment.seed, "model"), structure))
            self._networks[role] = (structure.channels, module)
        return self._networks[role][1]

    def _teacher(self, state: TrainState) -> nn.Module:
        """Return the dense network with these tensors, in evaluation mode. Raises DamagedError."""
        module = self._network("teacher", Dense())
        put_model(state.model, module)
        collectives.start_alike(module)
        return module.eval()

    def _average(self, work: Train, resume: Progress | None) -> MovingAverage | None:
        """Return the moving average as it is at the start of the round or in `resume`, if the training has one."""
        if self.training.ema is None:
            return None
        average = MovingAverage(self._network("average", work.structure), self.module, self.training.ema)
        if resume and resume.average is not None:
            put_model(resume.average, average.module)
        return average

    def _outcome(self, attempt: _Attempt) -> nn.Module:
        """Return the network that is evaluated: the averaged one, where the training has one."""
        return attempt.average.module if attempt.average else self.module

    def _statistics(self, attempt: _Attempt) -> list[Tensor]:
        """Return what each worker has of its own in the middle of an epoch."""
        networks = [self.module, *([attempt.average.module] if attempt.average else [])]
        return [buffer for network in networks for buffer in collectives.running_statistics(network)]

    def _initial(self, work: Train) -> TrainState:
        """Return the dense round's initialisation, start weights included, or a random one for another round."""
        purpose = ("model",) if work.round == 0 else ("reinitialisation", work.round)
        fresh = self._build(derive(work.seed, *purpose), work.structure)
        if work.round == 0:
            load_start_weights(fresh, self._experiment, self._data.input_shape)
        if work.constants:
            again = self._build(derive(work.seed, *DRAWN_AGAIN), work.structure)
            load_start_weights(again, self._experiment, self._data.input_shape)
            check_constants(fresh, again, work.constants, self._experiment.model)
        return take_state(fresh, self.training.optimizer.build(fresh))

    @property
    def images_per_epoch(self) -> int:
        return self.batches.steps_per_epoch * self.training.batch_size

    def _train_epoch(self, attempt: _Attempt, epoch: int) -> float:
        """One pass over the training data; returns the mean loss per sample over all workers."""
        steps, work = self.batches.steps_per_epoch, attempt.work
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64) + attempt.loss_sum
        begun, attempt.begun, attempt.loss_sum = attempt.begun, 0, 0.0
        self.module.train()
        model = collectives.data_parallel(self.module)
        batches = self.batches.train(derive(work.seed, work.round, epoch), first=begun)
        for step, (images, labels) in enumerate(batches, start=begun):
            # Seeded at every step (dropout draws from it), so that no step depends on the ones before it.
            self._seed(derive(work.seed, work.round, epoch, step, collectives.rank()))
            for parameters in attempt.optimizer.param_groups:
                parameters["lr"] = work.schedule.lr_at(epoch + step / steps, self.training.epochs)
            attempt.optimizer.zero_grad(set_to_none=True)
            self._add_gradients(attempt, model, images, labels, loss_sum)
            self._step(attempt, len(attempt.history) * steps + step)
            self._first_step = self._first_step or time.perf_counter()
            if attempt.on_step:
                attempt.on_step(partial(self._progress, attempt, step + 1, loss_sum))
        collectives.average_over_workers(self._statistics(attempt))
        total = collectives.sum_over_workers(loss_sum).item()
        return total / (steps * self.training.batch_size)

    def _add_gradients(
        self, attempt: _Attempt, model: nn.Module, images: Tensor, labels: Tensor, loss_sum: Tensor
    ) -> None:
        """Add the gradients of a batch to the parameters', and its loss to `loss_sum`, part by part."""
        parts = self.training.accumulate
        # Workers average gradients; the loss is weighted so that this is the mean over the global batch,
        # whatever the workers' shares of it.
        share = collectives.world_size() / self.training.batch_size
        batch = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for part, (some_images, some_labels) in enumerate(batch, start=1):
            with collectives.averaging(model, last=part == parts):
                loss = self._loss(model, some_images, some_labels, attempt.teacher)
                (loss * share).backward()
            loss_sum += loss.detach()

    def _step(self, attempt: _Attempt, step: int) -> None:
        """Change the weights and their average by the gradients that are there. `step` is counted over the round."""
        collectives.average_gradients(self.module)
        attempt.masked.mask_gradients()
        if self.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.training.clip_norm)
        attempt.optimizer.step()
        attempt.masked.mask_weights()
        if attempt.average:
            attempt.average.update(step)

    def _progress(self, attempt: _Attempt, steps_done: int = 0, loss_sum: Tensor | None = None) -> Progress | None:
        """A checkpoint, on the first worker; in the middle of an epoch every worker must ask for it."""
        parts = None
        if loss_sum is not None:
            own = [buffer.reshape(-1).double() for buffer in self._statistics(attempt)]
            parts = collectives.gather(torch.cat([*own, loss_sum.reshape(1)])).cpu()
        if collectives.rank() != 0:
            return None
        return Progress(
            attempt.work.key,
            len(attempt.history),
            take_state(self.module, attempt.optimizer),
            tuple(attempt.history),
            time.perf_counter() - attempt.began,
            attempt.attempts,
            steps_done,
            parts,
            attempt.origin,
            take_model(attempt.average.module) if attempt.average else None,
        )

    @torch.no_grad()
    def _put_parts(self, attempt: _Attempt, parts: Tensor) -> float:
        """Take this worker's running statistics and sum of losses; their means and sum, if other workers left them."""
        if len(parts) == collectives.world_size():
            mine, loss_sum = parts[collectives.rank()], parts[collectives.rank(), -1].item()
        else:
            mine, loss_sum = parts.mean(0), parts[:, -1].sum().item() if collectives.rank() == 0 else 0.0
        collectives.put_flat(mine[:-1], self._statistics(attempt))
        return loss_sum

    def _loss(self, model: nn.Module, images: Tensor, labels: Tensor, teacher: nn.Module | None = None) -> Tensor:
        """Return the training loss, summed over the batch."""
        with self._autocast():
            logits = model(images)
            smoothing = self.training.label_smoothing
            loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
            if teacher is None or self._experiment.distillation is None:
                return loss
            with torch.no_grad():
                taught = teacher(images)
            return self._experiment.distillation.loss(loss, logits, taught)

    def _gradients(self, work: Gradients) -> Tensors:
        """Return {name: dL/dw} of the mean training loss over an epoch's batches, with running statistics fixed."""
        self.module = self._network("student", work.structure)
        with _starting_from(f"the gradients of round {work.round}", work.round_key):
            put_model(work.state.model, self.module)
        collectives.start_alike(self.module)
        work.structure.hold(self.module).mask_weights()
        self.module.eval()
        self.module.zero_grad(set_to_none=True)
        share = 1 / self.images_per_epoch
        for images, labels in self.batches.train(derive(work.seed, work.round, "gradients")):
            loss = self._loss(self.module, images, labels)
            (loss * share).backward()
        gradients = {}
        for name, parameter in self.module.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients[name] = collectives.sum_over_workers(gradient).to("cpu", copy=True).contiguous()
        self.module.zero_grad(set_to_none=True)
        return gradients

    @torch.no_grad()
    def evaluate(self, module: nn.Module, split: Split) -> tuple[float, float]:
        """Return (mean cross-entropy, accuracy as a fraction) over every sample of `split`, each counted once."""
        module.eval()
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        for images, labels in self.batches.evaluate(split):
            with self._autocast():
                logits = module(images)
            sums[0] += F.cross_entropy(logits.float(), labels, reduction="sum")
            sums[1] += (logits.argmax(dim=1) == labels).sum()
            sums[2] += len(labels)
        loss, correct, count = collectives.sum_over_workers(sums).tolist()
        return loss / count, correct / count

    def _seed(self, seed: int) -> None:
        seed_all(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _autocast(self) -> AbstractContextManager[object]:
        enabled = self.training.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _build(self, seed: int, structure: Structure) -> nn.Module:
        experiment, data = self._experiment, self._data
        model = build_model(
            experiment.model,
            experiment.model_options,
            num_classes=data.num_classes,
            input_shape=data.input_shape,
            seed=seed,
        )
        return structure.build(model)

    def _place(self, module: nn.Module) -> nn.Module:
        module = module.to(self.device)
        if self.training.channels_last:
            module = module.to(memory_format=torch.channels_last)
        if self.training.compile:
            module.compile()
        return module


@dataclass
class _Attempt:
    """One attempt at a round: what its epochs share. `begun`, `loss_sum`: steps done of the epoch to go on with."""

    work: Train
    optimizer: torch.optim.Optimizer
    masked: Masked
    teacher: nn.Module | None
    average: MovingAverage | None
    history: list[EpochMetrics]
    began: float
    attempts: int
    on_step: OnStep | None
    begun: int = 0
    loss_sum: float = 0.0
    training_seconds: float = 0.0
    images: int = 0
    snapshots: dict[int, TrainState] = field(default_factory=dict)

    @cached_property
    def origin(self) -> str:
        return self.work.origin()


@contextmanager
def _starting_from(what: str, key: str | None) -> Iterator[None]:
    """Name the round `key` in the error of a block that puts its tensors into the network."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(
            f"{what} cannot start from what rounds/{key} or the snapshots of its dense run hold: {error}"
        ) from error


def _check_workers(work: Snapshot) -> None:
    if work.workers not in (None, collectives.world_size()):
        raise ConfigError(
            f"the dense run was trained by {work.workers} worker(s) and did not keep its state after epoch "
            f"{work.epoch}; a replay by {collectives.world_size()} would give other bits: "
            f"run with --workers {work.workers}, or choose another --storage"
        )
