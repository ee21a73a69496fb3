"""Several workers against one process: same gradients, same evaluation; and the same bits from three of them again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from together import start_together

from orchestrator.data.load import load_data
from orchestrator.pruning.structure import Dense
from orchestrator.storage.checkpoint import pack_progress, unpack_progress
from orchestrator.train_state import TrainState
from orchestrator.training.distillation import Distillation
from orchestrator.training.state import model_tensors
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train

DEEPER = tiny.with_training(dataclasses.replace(tiny.EXPERIMENT, model="tiny:deeper"), channels_last=True)
# Without batch norm, whose statistics are each worker's own; a clipped gradient would show a wrong scale.
PLAIN = tiny.with_training(dataclasses.replace(DEEPER, model_options={"norm": False}), clip_norm=0.5)
TAUGHT = dataclasses.replace(PLAIN, distillation=Distillation())
PARTS = tiny.with_training(TAUGHT, accumulate=4)
NOISY = dataclasses.replace(DEEPER, model_options={"dropout": 0.2})
AVERAGED = tiny.with_training(NOISY, ema=0.9)
WORLD = 3


def request_of(experiment) -> Train:
    training = experiment.training
    return Train(
        key="k", parent=None, round=0, rounds=0, density=1.0, kept=0, prunable=0, seed=3, schedule=training.schedule,
        first_epoch=0, epochs=training.epochs, start=None, structure=Dense(), teacher=teacher_of(experiment),
    )  # fmt: skip


def teacher_of(experiment) -> TrainState | None:
    """Any other network of the same kind."""
    if experiment.distillation is None:
        return None
    other = Trainer(dataclasses.replace(experiment, seed=9), load_data(experiment.data, experiment.data_options))
    return TrainState({name: tensor.detach() for name, tensor in model_tensors(other.module).items()})


def train(experiment, resume=None, on_epoch=None, on_step=None):
    data = load_data(experiment.data, experiment.data_options)
    trainer = Trainer(experiment, data, device=torch.device("cpu"))
    return trainer.do(request_of(experiment), resume=resume, on_epoch=on_epoch, on_step=on_step)


def worker(rank: int, folder: str) -> None:
    """Be one of three: train each experiment and, as groups that start anew, one of them from two places within."""
    steps = 0

    def write(name, progress):
        assert (progress is None) == (rank > 0)
        if progress:
            Path(folder, name).write_bytes(pack_progress(progress))

    def keep(request, metrics, samples_per_second, take_progress):
        if metrics.epoch == 1:
            write("after an epoch", take_progress())

    def keep_step(take_progress):
        nonlocal steps
        steps += 1
        progress = take_progress()
        if not progress or progress.place == (1, 2):
            write("in an epoch", progress)

    results = []
    runs = [
        (PLAIN, None),
        (NOISY, None),
        (NOISY, "after an epoch"),
        (NOISY, "in an epoch"),
        (TAUGHT, None),
        (PARTS, None),
        (AVERAGED, None),
        (AVERAGED, "after an epoch"),
        (AVERAGED, "in an epoch"),
    ]
    for run, (experiment, resumed) in enumerate(runs):
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{run}", rank=rank, world_size=WORLD)
        resume, steps = unpack_progress(Path(folder, resumed).read_bytes(), "") if resumed else None, 0
        result = train(experiment, resume, keep, keep_step)
        results.append((result.state.model, result.history, result.test["accuracy"], steps))
        dist.destroy_process_group()
    torch.save(results, f"{folder}/{rank}")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """For each worker its (model, history, test accuracy, steps) of each run."""
    folder = tmp_path_factory.mktemp("workers")
    start_together(worker, str(folder), WORLD)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize(("run", "experiment"), [(0, PLAIN), (4, TAUGHT), (5, PARTS)], ids=["plain", "taught", "parts"])
def test_gradients_and_counts_are_those_of_one_process(run, experiment, together):
    """Batch 16 on 3 workers is 6 + 5 + 5 samples; 30 validation and 31 test samples do not divide either."""
    single = train(tiny.with_training(experiment, accumulate=1))
    for model, history, test_accuracy, _ in (runs[run] for runs in together):
        for name, tensor in single.state.model.items():
            torch.testing.assert_close(model[name], tensor, rtol=1e-4, atol=1e-6)
        assert test_accuracy == single.test["accuracy"]
        for one, all_of_them in zip(single.history, history, strict=True):
            assert all_of_them.train_loss == pytest.approx(one.train_loss, rel=1e-5)
            assert all_of_them.val["loss"] == pytest.approx(one.val["loss"], rel=1e-5)
            assert all_of_them.val["accuracy"] == one.val["accuracy"]


@pytest.mark.parametrize("first", [1, 6], ids=["plain", "averaged"])
def test_every_worker_ends_with_the_same_bits_and_a_resumed_group_too(first, together):
    """With three workers the order of summation depends on how gradients are laid out, so it must be pinned.

    In the middle of an epoch each worker has running statistics and a sum of losses of its own.
    """
    model, *rest, steps = together[0][first]
    per_epoch = steps // NOISY.training.epochs
    assert per_epoch > 2
    for later, left in ((0, steps), (1, steps - 2 * per_epoch), (2, steps - per_epoch - 2)):
        for again, *others, taken in (runs[first + later] for runs in together):
            assert all(torch.equal(again[name], tensor) for name, tensor in model.items())
            assert others == rest
            assert taken == left


def test_another_number_of_workers_goes_on_in_the_middle_of_an_epoch(together):
    """One process takes over from three: the mean of their statistics, the sum of their losses."""
    kept = {}

    def keep(take_progress):
        progress = take_progress()
        kept[progress.place] = progress

    train(PLAIN, on_step=keep)
    whole = train(PLAIN)
    progress = kept[1, 2]
    thirds = dataclasses.replace(progress, parts=torch.tensor([[0.5], [0.25], [0.25]]).double() * progress.parts)
    resumed = train(PLAIN, thirds)
    assert all(torch.equal(resumed.state.model[name], tensor) for name, tensor in whole.state.model.items())
    assert resumed.history == whole.history
