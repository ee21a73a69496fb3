"""Several workers against one process: same gradients, same evaluation; and the same bits from three of them again."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orchestrator.rounds import RoundRequest
from orchestrator.storage.checkpoint import pack_progress, unpack_progress
from orchestrator.training.data import load_data
from orchestrator.training.loop import Trainer

# Without batch norm, whose statistics are each worker's own; a clipped gradient would show a wrong scale.
PLAIN = tiny.with_training(dataclasses.replace(tiny.EXPERIMENT, model_options={"norm": False}), clip_norm=0.5)


NOISY = dataclasses.replace(tiny.EXPERIMENT, model_options={"dropout": 0.2})
WORLD = 3


def request_of(experiment) -> RoundRequest:
    training = experiment.training
    return RoundRequest(
        key="k", parent=None, round=0, rounds=0, density=1.0, kept=0, prunable=0, seed=3, schedule=training.schedule,
        first_epoch=0, epochs=training.epochs, start=None, masks={},
    )  # fmt: skip


def train(experiment, resume=None, on_epoch=None):
    torch.set_num_threads(1)
    data = load_data(experiment.data, experiment.data_options)
    trainer = Trainer(experiment, data, device=torch.device("cpu"))
    return trainer.train(request_of(experiment), resume=resume, on_epoch=on_epoch)


def worker(rank: int, folder: str) -> None:
    """Be one of three: train both experiments, then, as a group that starts anew, the second from its middle."""
    kept: list[bytes] = []

    def keep(request, metrics, images_per_second, take_progress):
        if metrics.epoch == 1:
            kept.append(pack_progress(take_progress()))

    results = []
    for run, (experiment, resumed) in enumerate([(PLAIN, False), (NOISY, False), (NOISY, True)]):
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{run}", rank=rank, world_size=WORLD)
        resume = unpack_progress(kept[-1], "progress") if resumed else None
        result = train(experiment, resume, keep)
        results.append((result.state.model, result.history, result.test_accuracy))
        dist.destroy_process_group()
    torch.save(results, f"{folder}/{rank}")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """For each worker its (model, history, test accuracy) of the three runs."""
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(WORLD)]


def test_gradients_and_counts_are_those_of_one_process(together):
    """Batch 16 on 3 workers is 6 + 5 + 5 samples; 30 validation and 31 test samples do not divide either."""
    single = train(PLAIN)
    for model, history, test_accuracy in (runs[0] for runs in together):
        for name, tensor in single.state.model.items():
            torch.testing.assert_close(model[name], tensor, rtol=1e-4, atol=1e-6)
        assert test_accuracy == single.test_accuracy
        for one, all_of_them in zip(single.history, history, strict=True):
            assert all_of_them.train_loss == pytest.approx(one.train_loss, rel=1e-5)
            assert all_of_them.val_loss == pytest.approx(one.val_loss, rel=1e-5)
            assert all_of_them.val_accuracy == one.val_accuracy


def test_every_worker_ends_with_the_same_bits_and_a_resumed_group_too(together):
    """With three workers the order of summation depends on the gradient buckets, so it must be pinned."""
    first = together[0][1]
    for run in (1, 2):
        for model, history, test_accuracy in (runs[run] for runs in together):
            assert all(torch.equal(model[name], tensor) for name, tensor in first[0].items())
            assert (history, test_accuracy) == first[1:]
