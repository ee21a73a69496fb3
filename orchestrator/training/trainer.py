"""Train one work: the same code in one process and on every worker of a group.

Masked training equals training of `w * mask` exactly, clipping included: the gradient is masked before it is
clipped and the weight after the step, and the momentum starts masked, so nothing brings a removed weight back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from orchestrator.data.batches import Batch, Batches, Split
from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment
from orchestrator.processor import processor
from orchestrator.pruning.structure import Dense, Structure
from orchestrator.randomness import derive, seed_all
from orchestrator.storage.store import JSON_BYTES
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training import collectives
from orchestrator.training.attempt import Attempt, OnStep, TakeProgress, check_progress
from orchestrator.training.calibration import measured_again
from orchestrator.training.divergence import check_epoch, check_start, check_step, check_test
from orchestrator.training.evaluate import evaluate_structure
from orchestrator.training.int8_training import (
    RANGE_BATCHES,
    fake_quantised,
    follow_ranges,
    measure_ranges,
    share_ranges,
)
from orchestrator.training.int8_weights import quantised, restored
from orchestrator.training.kept_networks import Networks
from orchestrator.training.mean_gradients import mean_gradients
from orchestrator.training.moving_average import MovingAverage
from orchestrator.training.scoring import OnScore, Scorer
from orchestrator.training.state import model_tensors, put_model, put_state, take_model, take_state
from orchestrator.training.step import Step, Sums, SupernetStep
from orchestrator.work import Answer, EpochMetrics, Evaluate, Gradients, Progress, Snapshot, Train, Trained, Work

# (work, the epoch's metrics, training samples per second over all workers, a function that takes a checkpoint)
OnEpoch = Callable[[Train, EpochMetrics, float, TakeProgress], None]
OnSnapshot = Callable[[int, TrainState], None]  # (epochs of the dense run, its state after them)


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
        self._experiment = experiment
        self._step = Step(experiment, self.device)
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
        self._scorer = Scorer(experiment, partial(self._alone, experiment, data, loader_workers))

    def _alone(self, experiment: Experiment, data: Data, loader_workers: int) -> Trainer:
        """Return a trainer that trains whole batches by itself: this one, if there are no other workers."""
        if not collectives.in_group():
            return self
        with collectives.alone():
            return Trainer(experiment, data, device=self.device, loader_workers=loader_workers)

    def do(
        self,
        work: Work,
        *,
        resume: Progress | None = None,
        on_epoch: OnEpoch | None = None,
        on_step: OnStep | None = None,
        on_snapshot: OnSnapshot | None = None,
        on_score: OnScore | None = None,
    ) -> Answer:
        """Do `work` to its end, from `resume` if given, and return its answer.

        `on_epoch` is called on every worker after each epoch, `on_step` after each step, `on_snapshot` with each
        snapshot that the work wants kept, `on_score` on a worker after each candidate that it has scored.

        Raises DivergedError when a training loss or a validation metric is not finite, DataError on a bad sample,
        ConfigError when the work needs another number of workers.
        """
        if isinstance(work, Evaluate):
            return self._scorer.score(work, on_score)
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
        self._run_epochs(attempt, on_epoch, on_snapshot)
        int8 = self._train_int8(attempt) if work.quantise else None
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

    def _train_int8(self, attempt: Attempt) -> dict[str, float]:
        """Train the quantisation-aware epochs that end a round; return the record's `int8`.

        They are the last tenth of the schedule once more. A job that is killed here trains them from their beginning.
        """
        work, epochs = attempt.work, self.training.epochs
        batches = [batch for _, batch in zip(range(RANGE_BATCHES), self.batches.train(work.seed), strict=False)]
        network = fake_quantised(self.module, batches[0].inputs)
        measure_ranges(network, [batch.inputs for batch in batches])
        found = self._objectives(work, "before", network)
        for epoch in range(epochs - max(1, epochs // 10), epochs):
            follow_ranges(network, True)
            loss = self._train_epoch(attempt, epoch, network)
            share_ranges(network)
            val = self.evaluate(work.structure, self.module, "val")
            check_epoch(work, epoch, loss, val)
            attempt.history.append(EpochMetrics(epoch, work.schedule.lr_at(epoch, epochs), loss, val))
        found |= self._objectives(work, "after", network)
        exact = take_model(self.module)
        put_model(restored(quantised(exact), "the network"), self.module)
        found |= self._objectives(work, "file", self.module)
        put_model(exact, self.module)
        return found

    def _objectives(self, work: Train, when: str, network: nn.Module) -> dict[str, float]:
        """Return the objective of `network` on validation and test data, as a record's `int8` names them."""
        splits: tuple[Split, ...] = ("val", "test")
        objective = self._experiment.task.objective
        return {f"{split}_{when}": self.evaluate(work.structure, network, split)[objective] for split in splits}

    def _processor(self) -> str:
        """Return the name of the processor that trains."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor()

    def validated(self, work: Train) -> Mapping[str, float]:
        """Train the epochs of `work`, if it has any, and return the validation metrics. No test data are read.

        Raises DivergedError, DataError as `do` does.
        """
        attempt = self._begin(work, None, None)
        self._run_epochs(attempt, None, None)
        return attempt.history[-1].val if work.epochs else self._measure(work, attempt.outcome)

    def evaluate(self, structure: Structure, module: nn.Module, split: Split) -> dict[str, float]:
        """Return the task's metrics and the mean loss over every sample of `split`, each counted once.

        `module` has the `structure`, which says by which networks it is measured.
        """
        self._seed(derive("evaluate", split, collectives.rank()))  # for a `prepare` that draws random numbers itself
        seed = derive(self._experiment.seed, "statistics")
        return evaluate_structure(structure, module, self.batches, split, self._step, seed)

    @property
    def max_progress_bytes(self) -> int:
        """Return a size that no checkpoint of this model reaches: an optimizer has a few slots a weight, not ten."""
        return 16 * sum(tensor.nbytes for tensor in model_tensors(self.module).values()) + JSON_BYTES

    def check(self, work: Train, progress: Progress) -> None:
        """Raise DamagedError unless `work` can resume from `progress`."""
        self.module = self.networks.network("student", work.structure)
        check_progress(progress, work, self.module, self.training, self.batches.steps_per_epoch)

    def _begin(self, work: Train, resume: Progress | None, on_step: OnStep | None) -> Attempt:
        """Put the network where `work` starts, or where `resume` left it."""
        began = time.perf_counter() - (resume.seconds if resume else 0.0)
        self.module = self.networks.network("student", work.structure)
        optimizer = self.training.optimizer.build(self.module)
        start = resume.state if resume else work.start or self._initial(work)
        with _starting_from(f"round {work.round}", work.parent):
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
            step=SupernetStep(self._experiment, self.device, *work.phase) if work.phase else self._step,
            average=self._average(work, resume),
            sums=Sums.zero(self.device),
            began=began,
            on_step=on_step,
        )
        if resume:
            attempt.resume_from(resume)
        return attempt

    def _run_epochs(self, attempt: Attempt, on_epoch: OnEpoch | None, on_snapshot: OnSnapshot | None) -> None:
        """Train the epochs that are left of an attempt."""
        work, end = attempt.work, attempt.work.first_epoch + attempt.work.epochs
        for epoch in range(work.first_epoch + len(attempt.history), end):
            if not attempt.begun:
                self._keep_snapshot(attempt, epoch, on_snapshot)
            samples_per_second = self._epoch(attempt, epoch)
            if on_epoch:
                on_epoch(work, attempt.history[-1], samples_per_second, attempt.take_progress)
        self._keep_snapshot(attempt, end, on_snapshot)  # of a dense round that ends before the schedule does

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
        train_loss = self._train_epoch(attempt, epoch)
        seconds, samples = time.perf_counter() - began, steps * self.training.batch_size
        val = self.evaluate(work.structure, attempt.outcome, "val")
        check_epoch(work, epoch, train_loss, val)
        attempt.history.append(EpochMetrics(epoch, work.schedule.lr_at(epoch, self.training.epochs), train_loss, val))
        attempt.training_seconds += seconds
        attempt.samples += samples
        return samples / seconds

    def _train_epoch(self, attempt: Attempt, epoch: int, rounded: nn.Module | None = None) -> float:
        """Make one pass over the training data; return the mean loss over all workers.

        `rounded`: what computes in the place of the network, with the network's own weights. No checkpoint is taken.
        """
        steps, work = self.batches.steps_per_epoch, attempt.work
        begun, attempt.begun = attempt.begun, 0
        network = self.module if rounded is None else rounded
        network.train()
        model = attempt.step.data_parallel(network)
        for step, batch in self._seeded_batches((work.seed, work.round, epoch), first=begun):
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

    def _seeded_batches(self, epoch: tuple[int | str, ...], first: int = 0) -> Iterator[tuple[int, Batch]]:
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

    def _gradients(self, work: Gradients) -> Tensors:
        """Return {name: dL/dw} of the mean training loss over an epoch's batches, with running statistics fixed."""
        self.module = self.networks.network("student", work.structure)
        with _starting_from(f"the gradients of round {work.round}", work.round_key):
            put_model(work.state.model, self.module)
        collectives.start_alike(self.module)
        work.structure.hold(self.module).mask_weights()
        batches = self._seeded_batches((work.seed, work.round, "gradients"))
        return mean_gradients(self.module, (batch for _, batch in batches), self._step, self.training.accumulate)

    def _seed(self, seed: int) -> None:
        seed_all(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)


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
