"""Train one work: the same code in one process and on every worker of a group.

Masked training equals training of `w * mask` exactly, clipping included: the gradient is masked before it is
clipped and the weight after the step, and the momentum starts masked, so nothing brings a removed weight back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
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
from orchestrator.models.constants import check_constants
from orchestrator.pruning.channels.graph import Kept
from orchestrator.randomness import derive, seed_all
from orchestrator.storage.store import JSON_BYTES
from orchestrator.training import collectives
from orchestrator.training.masked import Masked
from orchestrator.training.state import check_state, model_tensors, put_state, take_state
from orchestrator.work import (
    Answer,
    EpochMetrics,
    Gradients,
    Progress,
    Snapshot,
    Tensors,
    Train,
    Trained,
    TrainState,
    Work,
)

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
        self._channels: Kept = {}
        self.module = self._place(self._build(derive(experiment.seed, "model"), {}))
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
        """Train one round to its end; see `do`."""
        attempt = self._begin(work, resume, on_step)
        last_step, self._first_step = self._last_step, None
        self._run_epochs(attempt, on_epoch, on_snapshot)
        _, test_accuracy = self.evaluate("test")
        return Trained(
            state=take_state(self.module, attempt.optimizer),
            history=tuple(attempt.history),
            test_accuracy=test_accuracy,
            seconds=time.perf_counter() - attempt.began,
            images_per_second=attempt.images / max(attempt.training_seconds, 1e-9),
            attempts=attempt.attempts,
            workers=collectives.world_size(),
            gap_seconds=self._first_step - last_step if last_step and self._first_step else None,
            snapshots=attempt.snapshots,
        )

    def _begin(self, work: Train, resume: Progress | None, on_step: OnStep | None) -> _Attempt:
        """Put the network where `work` starts, or where `resume` left it."""
        began = time.perf_counter() - (resume.seconds if resume else 0.0)
        attempts = resume.attempts + 1 if resume else 1
        self._take_shape(work.channels)
        optimizer = self.training.optimizer.build(self.module)
        start = resume.state if resume else work.start or self._initial(work)
        self._put(start, optimizer, f"round {work.round}", work.parent)
        collectives.start_alike(self.module)
        masked = Masked(self.module, work.masks)
        masked.mask_weights()
        attempt = _Attempt(work, optimizer, masked, list(resume.history) if resume else [], began, attempts, on_step)
        if resume and resume.parts is not None:
            attempt.begun, attempt.loss_sum = resume.steps_done, self._put_parts(resume.parts)
        return attempt

    def _put(self, state: TrainState, optimizer: torch.optim.Optimizer, what: str, parent: str | None) -> None:
        try:
            put_state(state, self.module, optimizer)
        except DamagedError as error:
            raise DamagedError(
                f"{what} cannot start from what rounds/{parent} or the snapshots of its dense run hold: {error}"
            ) from error

    def _run_epochs(self, attempt: _Attempt, on_epoch: OnEpoch | None, on_snapshot: OnSnapshot | None) -> None:
        """Train the epochs that are left of an attempt."""
        work = attempt.work
        for epoch in range(work.first_epoch + len(attempt.history), work.first_epoch + work.epochs):
            if epoch in work.keep and not attempt.begun:
                attempt.snapshots[epoch] = take_state(self.module, attempt.optimizer)
                if on_snapshot:
                    on_snapshot(epoch, attempt.snapshots[epoch])
            images_per_second = self._epoch(attempt, epoch)
            if on_epoch:
                on_epoch(work, attempt.history[-1], images_per_second, lambda: self._progress(attempt))

    @property
    def most_bytes(self) -> int:
        """What a checkpoint of this model stays below by far: an optimizer has a few slots a weight, not ten."""
        return 16 * sum(tensor.nbytes for tensor in model_tensors(self.module).values()) + JSON_BYTES

    def check(self, work: Train, progress: Progress) -> None:
        """Raise DamagedError unless `work` can go on from `progress`: storage may hold anything."""
        self._take_shape(work.channels)
        check_state(progress.state, self.module)
        if progress.origin != work.origin():
            raise DamagedError("it began from other weights or masks than the round has now")
        done, steps = len(progress.history), self.batches.steps_per_epoch
        own = 1 + sum(buffer.numel() for buffer in collectives.running_statistics(self.module))
        if [metrics.epoch - work.first_epoch for metrics in progress.history] != list(range(done)):
            raise DamagedError(f"its epochs do not begin with the round's first one, {work.first_epoch}")
        if done + (progress.steps_done > 0) > work.epochs or progress.steps_done > steps:
            raise DamagedError(
                f"{done} epochs and {progress.steps_done} steps are more than the round's {work.epochs} of {steps}"
            )
        if progress.parts is not None and progress.parts.shape[1] != own:
            raise DamagedError(f"its workers have {progress.parts.shape[1]} values of their own, the model has {own}")

    def _epoch(self, attempt: _Attempt, epoch: int) -> float:
        """One epoch, or what is left of it, and its validation; returns training images per second."""
        work, steps = attempt.work, self.batches.steps_per_epoch - attempt.begun
        began = time.perf_counter()
        train_loss = self._train_epoch(attempt, epoch)
        self._last_step = time.perf_counter()
        val_loss, val_accuracy = self.evaluate("val")
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

    def _take_shape(self, channels: Kept) -> None:
        """Become the network that has these channels."""
        if channels != self._channels:
            self.module = self._place(self._build(derive(self._experiment.seed, "model"), channels))
            self._channels = channels

    def _initial(self, work: Train) -> TrainState:
        """The initialisation that follows from the seed; another one in every round, for those who start anew."""
        purpose = ("model",) if work.round == 0 else ("reinitialisation", work.round)
        fresh = self._build(derive(work.seed, *purpose), work.channels)
        check_constants(fresh, work.constants, self._experiment.model)
        return take_state(fresh, self.training.optimizer.build(fresh))

    @property
    def images_per_epoch(self) -> int:
        return self.batches.steps_per_epoch * self.training.batch_size

    def _train_epoch(self, attempt: _Attempt, epoch: int) -> float:
        """One pass over the training data; returns the mean loss per sample over all workers."""
        training, steps, work = self.training, self.batches.steps_per_epoch, attempt.work
        optimizer, masked = attempt.optimizer, attempt.masked
        share = collectives.world_size() / training.batch_size
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64) + attempt.loss_sum
        begun, attempt.begun, attempt.loss_sum = attempt.begun, 0, 0.0
        self.module.train()
        model = collectives.data_parallel(self.module)
        batches = self.batches.train(derive(work.seed, work.round, epoch), first=begun)
        for step, (images, labels) in enumerate(batches, start=begun):
            # Seeded at every step (dropout draws from it), so that no step depends on the ones before it.
            self._seed(derive(work.seed, work.round, epoch, step, collectives.rank()))
            for parameters in optimizer.param_groups:
                parameters["lr"] = work.schedule.lr_at(epoch + step / steps, training.epochs)
            with self._autocast():
                loss = self._loss(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            # Workers average gradients; the loss is weighted so that this is the mean over the global batch,
            # whatever the workers' shares of it.
            (loss * share).backward()
            collectives.average_gradients(self.module)
            masked.mask_gradients()
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.module.parameters(), training.clip_norm)
            optimizer.step()
            masked.mask_weights()
            loss_sum += loss.detach()
            self._first_step = self._first_step or time.perf_counter()
            if attempt.on_step:
                attempt.on_step(partial(self._progress, attempt, step + 1, loss_sum))
        collectives.average_buffers(self.module)
        total = collectives.sum_over_workers(loss_sum).item()
        return total / (steps * training.batch_size)

    def _progress(self, attempt: _Attempt, steps_done: int = 0, loss_sum: Tensor | None = None) -> Progress | None:
        """A checkpoint, on the first worker; in the middle of an epoch every worker must ask for it."""
        parts = None
        if loss_sum is not None:
            own = [buffer.reshape(-1).double() for buffer in collectives.running_statistics(self.module)]
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
        )

    @torch.no_grad()
    def _put_parts(self, parts: Tensor) -> float:
        """Take this worker's running statistics and sum of losses; their means and sum, if other workers left them."""
        if len(parts) == collectives.world_size():
            mine, loss_sum = parts[collectives.rank()], parts[collectives.rank(), -1].item()
        else:
            mine, loss_sum = parts.mean(0), parts[:, -1].sum().item() if collectives.rank() == 0 else 0.0
        collectives.put_flat(mine[:-1], collectives.running_statistics(self.module))
        return loss_sum

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The training loss, summed over the batch."""
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.training.label_smoothing)

    def _gradients(self, work: Gradients) -> Tensors:
        """Return {name: dL/dw} of the mean training loss over an epoch's batches, with running statistics fixed."""
        self._take_shape(work.channels)
        optimizer = self.training.optimizer.build(self.module)
        self._put(work.state, optimizer, f"the gradients of round {work.round}", work.round_key)
        collectives.start_alike(self.module)
        Masked(self.module, work.masks).mask_weights()
        self.module.eval()
        self.module.zero_grad(set_to_none=True)
        share = 1 / self.images_per_epoch
        for images, labels in self.batches.train(derive(work.seed, work.round, "gradients")):
            with self._autocast():
                loss = self._loss(self.module(images), labels)
            (loss * share).backward()
        gradients = {}
        for name, parameter in self.module.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients[name] = collectives.sum_over_workers(gradient).to("cpu", copy=True).contiguous()
        self.module.zero_grad(set_to_none=True)
        return gradients

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[float, float]:
        """(mean cross-entropy, accuracy as a fraction) over every sample of `split`, each counted once."""
        self.module.eval()
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        for images, labels in self.batches.evaluate(split):
            with self._autocast():
                logits = self.module(images)
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

    def _build(self, seed: int, channels: Kept) -> nn.Module:
        experiment, data = self._experiment, self._data
        return build_model(
            experiment.model,
            experiment.model_options,
            num_classes=data.num_classes,
            input_shape=data.input_shape,
            seed=seed,
            kept=channels,
        )

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


def _check_workers(work: Snapshot) -> None:
    if work.workers not in (None, collectives.world_size()):
        raise ConfigError(
            f"the dense run was trained by {work.workers} worker(s) and did not keep its state after epoch "
            f"{work.epoch}; a replay by {collectives.world_size()} would give other bits: "
            f"run with --workers {work.workers}, or choose another --storage"
        )
