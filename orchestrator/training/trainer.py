"""Train one work: the same code in one process and on every worker of a group.

Masked training equals training of `w * mask` exactly, clipping included: the gradient is masked before it is
clipped and the weight after the step, and the momentum starts masked, so nothing brings a removed weight back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Protocol, TypeVar

import torch
from torch import nn

from orchestrator.data.batches import Batch, Batches, Split
from orchestrator.data.dataset import Data
from orchestrator.experiment import Experiment
from orchestrator.objective import Objective
from orchestrator.processor import processor
from orchestrator.pruning.structure import Dense, Structure
from orchestrator.randomness import derive, seed_all
from orchestrator.schedules import RateRange
from orchestrator.storage.store import JSON_BYTES
from orchestrator.task import objective_of
from orchestrator.train_state import TrainState
from orchestrator.training import collectives
from orchestrator.training.attempt import Attempt, check_progress, starting_from
from orchestrator.training.calibration import Calibration, measured_again
from orchestrator.training.divergence import check_epoch, check_start, check_step, check_test
from orchestrator.training.evaluate import evaluate_structure
from orchestrator.training.int8_epochs import train_int8
from orchestrator.training.kept_networks import Networks
from orchestrator.training.moving_average import MovingAverage
from orchestrator.training.state import model_tensors, put_model, put_state, take_model, take_state
from orchestrator.training.step import Step, Sums, SupernetStep
from orchestrator.work.train import Calls, EpochMetrics, OnEpoch, OnScore, OnSnapshot, OnStep, Progress, Train, Trained

A = TypeVar("A", covariant=True)
NO_CALLS = Calls()


class Doable(Protocol[A]):
    """A work, as far as a trainer needs to know it: each kind calls the trainer's public methods."""

    def do(self, trainer: Trainer, calls: Calls) -> A: ...


class Trainer:
    """Do one worker's part of the training; keep model, data and loader processes from round to round."""

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
        self.experiment, self._data = experiment, data
        self.step = Step(experiment, self.device)
        # A GPU would wait at each step. One of several workers must not stop while the others wait for its gradients.
        self._looks_at_steps = self.device.type == "cpu" and collectives.world_size() == 1
        self.batches = Batches(
            data,
            batch_size=self.training.batch_size,
            rank=collectives.rank(),
            world=collectives.world_size(),
            device=self.device,
            loader_workers=loader_workers,
            channels_last=self.training.channels_last,
        )
        self.networks = Networks(experiment, data, self.device)
        self.module = self.networks.network("student", Dense())
        self._loader_workers = loader_workers

    @cached_property
    def alone(self) -> Trainer:
        """Return a trainer that trains whole batches by itself: this one, without other workers."""
        if not collectives.in_group():
            return self
        with collectives.alone():
            return Trainer(self.experiment, self._data, device=self.device, loader_workers=self._loader_workers)

    @cached_property
    def calibration(self) -> Calibration:
        """Return what makes the weights that candidates start from; it keeps what those of one round share."""
        return Calibration(self.networks, self.batches)

    @cached_property
    def objective(self) -> Objective:
        return objective_of(self.experiment.task)

    @cached_property
    def highest_rate(self) -> float:
        """Return the highest learning rate of the experiment's schedule."""
        return RateRange.of(self.training.schedule, self.training.epochs).highest

    def do(
        self,
        work: Doable[A],
        *,
        resume: Progress | None = None,
        on_epoch: OnEpoch | None = None,
        on_step: OnStep | None = None,
        on_snapshot: OnSnapshot | None = None,
        on_score: OnScore | None = None,
    ) -> A:
        """Do `work` to its end, from `resume` if given, and return its answer. The functions are those of `Calls`.

        Raises DivergedError when a training loss or a validation metric is not finite, DataError on a bad sample,
        ConfigError when the work needs another number of workers.
        """
        return work.do(self, Calls(resume, on_epoch, on_step, on_snapshot, on_score))

    def train(self, work: Train, calls: Calls = NO_CALLS) -> Trained:
        """Train one round to its end, or measure it where it has no epoch; see `do`."""
        attempt = self.attempt(work, calls)
        int8 = train_int8(self, attempt) if work.quantise else None
        start_val = None if attempt.history else self._measure(work, attempt.outcome)
        test = self.evaluate(work.structure, attempt.outcome, "test")
        check_test(work, test)
        return Trained(
            state=TrainState(take_model(attempt.outcome), take_state(self.module, attempt.optimizer).optimizer),
            history=tuple(attempt.history),
            test=test,
            seconds=time.perf_counter() - attempt.began,
            samples_per_second=attempt.samples / max(attempt.training_seconds, 1e-9),
            attempts=attempt.attempts,
            workers=collectives.world_size(),
            processor=self._processor(),
            snapshots=attempt.snapshots,
            start_val=start_val,
            int8=int8,
        )

    def attempt(self, work: Train, calls: Calls) -> Attempt:
        """Train the epochs of `work` that are left, and return the attempt as it is then."""
        attempt = self._begin(work, calls.resume, calls.on_step)
        end = work.first_epoch + work.epochs
        for epoch in range(work.first_epoch + len(attempt.history), end):
            if not attempt.begun:
                self._keep_snapshot(attempt, epoch, calls.on_snapshot)
            samples_per_second = self._epoch(attempt, epoch)
            if calls.on_epoch:
                calls.on_epoch(work, attempt.history[-1], samples_per_second, attempt.take_progress)
        self._keep_snapshot(attempt, end, calls.on_snapshot)  # of a dense round that ends before the schedule does
        return attempt

    def _processor(self) -> str:
        """Return the name of the processor that trains."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor()

    def validated(self, work: Train) -> Mapping[str, float]:
        """Train the epochs of `work`, if it has any, and return the validation metrics. No test data are read.

        Raises DivergedError, DataError as `do` does.
        """
        attempt = self.attempt(work, NO_CALLS)
        return attempt.history[-1].val if work.epochs else self._measure(work, attempt.outcome)

    def network(self, structure: Structure) -> nn.Module:
        """Return the network that is trained, built anew only if `structure` leaves another one than before."""
        self.module = self.networks.network("student", structure)
        return self.module

    def evaluate(self, structure: Structure, module: nn.Module, split: Split) -> dict[str, float]:
        """Return the task's metrics and the mean loss over every sample of `split`, each counted once.

        `module` has the `structure`, which says by which networks it is measured.
        """
        self._seed(derive("evaluate", split, collectives.rank()))  # for a `prepare` that draws random numbers itself
        seed = derive(self.experiment.seed, "statistics")
        return evaluate_structure(structure, module, self.batches, split, self.step, seed)

    @property
    def max_progress_bytes(self) -> int:
        """Return a size that no checkpoint of this model reaches: an optimizer has a few slots a weight, not ten."""
        return 16 * sum(tensor.nbytes for tensor in model_tensors(self.module).values()) + JSON_BYTES

    def check(self, work: Train, progress: Progress) -> None:
        """Raise DamagedError unless `work` can resume from `progress`."""
        check_progress(progress, work, self.network(work.structure), self.training, self.batches.steps_per_epoch)

    def _begin(self, work: Train, resume: Progress | None, on_step: OnStep | None) -> Attempt:
        """Put the network where `work` starts, or where `resume` left it."""
        began = time.perf_counter() - (resume.seconds if resume else 0.0)
        self.network(work.structure)
        optimizer = self.training.optimizer.build(self.module)
        start = resume.state if resume else work.start or self._initial(work)
        with starting_from(f"round {work.round}", work.parent):
            put_state(start, self.module, optimizer)
            if work.calibration and not resume:
                key, samples = work.calibration
                put_model(measured_again(self.module, self.batches, key, samples), self.module)
            teacher = self._teacher(work.teacher) if work.teacher else None
        collectives.start_alike(self.module)
        masked = work.structure.hold(self.module)
        masked.mask_weights()
        attempt = Attempt(
            work=work,
            module=self.module,
            optimizer=optimizer,
            masked=masked,
            teacher=teacher,
            step=SupernetStep(self.experiment, self.device, *work.phase) if work.phase else self.step,
            average=self._average(work, resume),
            sums=Sums.zero(self.device),
            began=began,
            on_step=on_step,
        )
        if resume:
            attempt.resume_from(resume)
        return attempt

    def _keep_snapshot(self, attempt: Attempt, epoch: int, on_snapshot: OnSnapshot | None) -> None:
        """Keep the state after `epoch` epochs if the work wants it."""
        if epoch in attempt.work.keep:
            attempt.snapshots[epoch] = take_state(self.module, attempt.optimizer)
            if on_snapshot:
                on_snapshot(epoch, attempt.snapshots[epoch])

    def _measure(self, work: Train, module: nn.Module) -> dict[str, float]:
        """Return the validation metrics of a round that trains no epoch."""
        val = self.evaluate(work.structure, module, "val")
        check_start(work, val)
        return val

    def _epoch(self, attempt: Attempt, epoch: int) -> float:
        """Train one epoch, or what is left of it, and validate; return the training samples per second."""
        work, steps = attempt.work, self.batches.steps_per_epoch - attempt.begun
        began = time.perf_counter()
        train_loss = self.train_epoch(attempt, epoch)
        seconds, samples = time.perf_counter() - began, steps * self.training.batch_size
        val = self.evaluate(work.structure, attempt.outcome, "val")
        check_epoch(work, epoch, train_loss, val)
        attempt.history.append(EpochMetrics(epoch, work.schedule.lr_at(epoch, self.training.epochs), train_loss, val))
        attempt.training_seconds += seconds
        attempt.samples += samples
        return samples / seconds

    def train_epoch(self, attempt: Attempt, epoch: int, rounded: nn.Module | None = None) -> float:
        """Make one pass over the training data; return the mean loss over all workers.

        `rounded`: what computes in the place of the network, with the network's own weights. No checkpoint is taken.
        """
        steps, work = self.batches.steps_per_epoch, attempt.work
        begun, attempt.begun = attempt.begun, 0
        network = self.module if rounded is None else rounded
        network.train()
        model = attempt.step.data_parallel(network)
        for step, batch in self.seeded_batches((work.seed, work.round, epoch), first=begun):
            seed = derive(work.seed, work.round, epoch, step, "networks")
            for parameters in attempt.optimizer.param_groups:
                parameters["lr"] = work.schedule.lr_at(epoch + step / steps, self.training.epochs)
            self._train_step(attempt, model, batch, len(attempt.history) * steps + step, seed)
            if self._looks_at_steps:
                check_step(work, epoch, step, steps, float(attempt.sums.loss), batch)
            if attempt.on_step and rounded is None:
                attempt.on_step(partial(attempt.take_progress, step + 1))
        collectives.average_over_workers(attempt.statistics())
        loss, count = collectives.sum_over_workers(attempt.sums.tensor()).tolist()
        attempt.sums = Sums.zero(self.device)
        return loss / count if count else math.nan

    def seeded_batches(self, epoch: tuple[int | str, ...], first: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield each step of an epoch, from step `first`, with its batch.

        The generators are seeded before the batch is prepared, so that neither the random numbers of a `prepare` nor
        those of dropout depend on the steps before.
        """
        batches = self.batches.train(derive(*epoch), first=first)
        for step in range(first, self.batches.steps_per_epoch):
            self._seed(derive(*epoch, step, collectives.rank()))
            yield step, next(batches)

    def _train_step(self, attempt: Attempt, model: nn.Module, batch: Batch, number: int, seed: int) -> None:
        """Change the weights, and their average, by the gradients of a batch. `number` is counted over the round."""
        attempt.optimizer.zero_grad(set_to_none=True)
        attempt.step.add_gradients(model, batch, attempt.teacher, attempt.sums, seed)
        collectives.average_gradients(model)
        attempt.masked.mask_gradients()
        if self.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.training.clip_norm)
        attempt.optimizer.step()
        attempt.masked.mask_weights()
        if attempt.average:
            attempt.average.update(number)

    def _teacher(self, state: TrainState) -> nn.Module:
        """Return the dense network with these tensors, in evaluation mode. Raises DamagedError."""
        module = self.networks.network("teacher", Dense())
        put_model(state.model, module)
        collectives.start_alike(module)
        return module.eval()

    def _average(self, work: Train, resume: Progress | None) -> MovingAverage | None:
        """Return the moving average as it is at the start of the round or in `resume`, if the training has one."""
        if self.training.ema is None:
            return None
        network = self.networks.network("average", work.structure)
        average = MovingAverage(network, self.module, self.training.ema)
        if resume and resume.average is not None:
            put_model(resume.average, average.module)
        return average

    def _initial(self, work: Train) -> TrainState:
        """Return the state of a round that starts from no other: its initial weights, and no optimizer state yet."""
        module = self.networks.initial(work.seed, work.round, work.structure, work.constants)
        return take_state(module, self.training.optimizer.build(module))

    def _seed(self, seed: int) -> None:
        seed_all(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
