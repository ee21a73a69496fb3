"""Every task goes the same way: it is trained, pruned, stopped in mid-epoch and goes on to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import any_task
import pytest
import torch
import torch.distributed as dist
from test_workers_together import request_of
from together import start_together

from orchestrator.data.load import load_data
from orchestrator.driver import Driver
from orchestrator.experiment import Experiment
from orchestrator.problem import load_problem
from orchestrator.pruning import OneShot
from orchestrator.runner import run
from orchestrator.storage.checkpoint import pack_progress, unpack_progress
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Progress, Train, Trained

SEQUENCES = any_task.EXPERIMENTS["sequences"]


class KilledError(Exception):
    pass


@pytest.fixture(params=any_task.EXPERIMENTS)
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return any_task.EXPERIMENTS[request.param]


def test_a_path_is_trained_and_its_objective_is_recorded(experiment: Experiment, tmp_path: Path) -> None:
    records = run(experiment, str(tmp_path))
    assert [record.round for record in records] == [0, 1, 2, 3]
    for record in records:
        assert record.objective.name == experiment.task.objective
        assert record.val == record.history[-1][f"val_{record.objective.name}"]
        assert {name.removeprefix("val_") for name in record.metrics if name.startswith("val_")} == {
            "loss",
            *experiment.task.metrics(),
        }
    assert records[0].history[-1]["train_loss"] < records[0].history[0]["train_loss"], "it learns"


def killed_and_resumed(experiment: Experiment, folder: Path, place: tuple[int, int]) -> tuple[Trained, Trained]:
    """Return the second round of a path, trained without a stop, and stopped at `place` and gone on from a file."""
    experiment = dataclasses.replace(experiment, path=OneShot(0.5))
    run(dataclasses.replace(experiment, path=OneShot(0.6)), str(folder))  # for the dense round
    problem, data = load_problem(experiment)
    work = Driver(experiment, Ledger(open_store(str(folder))), problem).next_work()
    assert isinstance(work, Train)
    assert work.round == 1
    whole = Trainer(experiment, data, device=torch.device("cpu")).train(work)
    kept: list[bytes] = []

    def stop(take_progress: object) -> None:
        progress = take_progress()  # type: ignore[operator]
        if isinstance(progress, Progress) and progress.place == place:
            kept.append(pack_progress(progress))
            raise KilledError

    with pytest.raises(KilledError):
        Trainer(experiment, data, device=torch.device("cpu")).do(work, on_step=stop)
    trainer = Trainer(experiment, load_data(experiment.data, experiment.data_options), device=torch.device("cpu"))
    progress = unpack_progress(kept[0], "file")
    torch.manual_seed(7)  # another process has other random numbers
    trainer.check(work, progress)
    return whole, trainer.do(work, resume=progress)


def test_a_round_that_is_killed_in_mid_epoch_ends_with_the_same_bits(experiment: Experiment, tmp_path: Path) -> None:
    whole, resumed = killed_and_resumed(experiment, tmp_path, (1, 2))
    assert whole.state.model.keys() == resumed.state.model.keys()
    assert all(torch.equal(whole.state.model[name], resumed.state.model[name]) for name in whole.state.model)
    assert whole.history == resumed.history
    assert whole.test == resumed.test


@pytest.mark.parametrize("place", [(1, 2), (1, 5)], ids=["mid-epoch", "before the validation"])
def test_a_prepare_that_draws_random_numbers_itself_gives_the_same_bits_again(
    tmp_path: Path, place: tuple[int, int]
) -> None:
    noisy = dataclasses.replace(any_task.EXPERIMENTS["regression"], data="any_task:noisy_table")
    whole, resumed = killed_and_resumed(noisy, tmp_path, place)
    assert all(torch.equal(whole.state.model[name], resumed.state.model[name]) for name in whole.state.model)
    assert (whole.history, whole.test) == (resumed.history, resumed.test)


# Padded sequences, shared by workers whose shares have different numbers of tokens.

PARTS = dataclasses.replace(SEQUENCES, training=dataclasses.replace(SEQUENCES.training, accumulate=3))
OWN_TASK = any_task.EXPERIMENTS["own task"]
# Without batch norm, whose statistics are each worker's own.
SEGMENTATION = dataclasses.replace(any_task.EXPERIMENTS["segmentation"], model_options={"norm": False})
SPARE = dataclasses.replace(any_task.EXPERIMENTS["images"], model="tiny:unused")  # one layer takes no part, and decays
EXPERIMENTS = {
    "tokens": SEQUENCES,
    "tokens in parts": PARTS,
    "own task": OWN_TASK,
    "segmentation": SEGMENTATION,
    "spare layer": SPARE,
}
# Each in a group of so many workers; the last ones begin where a checkpoint of the first ones was taken.
RUNS = [
    *((name, workers, False) for name in EXPERIMENTS for workers in (2, 3)),
    ("tokens", 2, True),
    ("tokens", 3, True),
]


def train(experiment: Experiment, resume: Progress | None = None, on_step: object = None) -> Trained:
    data = load_data(experiment.data, experiment.data_options)
    trainer = Trainer(experiment, data, device=torch.device("cpu"))
    return trainer.do(request_of(experiment), resume=resume, on_step=on_step)  # type: ignore[arg-type]


def worker(rank: int, folder: str) -> None:
    """Be one of three, of which two make the smaller groups."""
    results = {}
    for name, workers, resumed in RUNS:
        kept = Path(folder, f"progress of {workers}")

        def keep(take_progress: object, kept: Path = kept) -> None:
            progress = take_progress()  # type: ignore[operator]
            if progress is not None and progress.place == (1, 2) and not kept.exists():
                kept.write_bytes(pack_progress(progress))

        if rank >= workers:
            continue
        meet = f"file://{folder}/{name}{workers}{resumed}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=workers)
        resume = unpack_progress(kept.read_bytes(), "") if resumed else None
        result = train(EXPERIMENTS[name], resume, keep)
        results[name, workers, resumed] = (result.state.model, result.history, result.test)
        dist.destroy_process_group()
    torch.save(results, f"{folder}/{rank}")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """For each worker its (model, history, test metrics) of each run that it took part in."""
    folder = tmp_path_factory.mktemp("workers")
    start_together(worker, str(folder), 3)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(3)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    """What one process gets."""
    found = {name: train(EXPERIMENTS[name]) for name in ("tokens", "own task", "segmentation", "spare layer")}
    return {**found, "tokens in parts": found["tokens"]}


def test_a_layer_that_takes_no_part_is_named_and_trained_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    """Its gradient is zero, for any number of workers: the runs below decay it alike."""
    load_problem(SPARE)
    assert "take no part in the loss of the example, so their gradient is zero: spare.weight, spare.bias" in caplog.text


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_several_workers_train_as_one_does(
    together: list[dict], alone: dict[str, Trained], name: str, workers: int
) -> None:
    """Gradients are means over the global count of tokens; a user's metric of torchmetrics is that of all workers."""
    single = alone[name]
    for model, history, test in (runs[name, workers, False] for runs in together[:workers]):
        for tensor_name, tensor in single.state.model.items():
            torch.testing.assert_close(model[tensor_name], tensor, rtol=1e-4, atol=1e-6)
        for one, all_of_them in zip(single.history, history, strict=True):
            assert all_of_them.train_loss == pytest.approx(one.train_loss, rel=1e-5)
            assert all_of_them.val == pytest.approx(one.val, rel=1e-4)
        assert test == pytest.approx(single.test, rel=1e-4)


@pytest.mark.parametrize("workers", [2, 3])
def test_padded_sequences_go_on_in_mid_epoch_to_the_same_bits(together: list[dict], workers: int) -> None:
    for runs in together[:workers]:
        (model, *whole), (again, *resumed) = runs["tokens", workers, False], runs["tokens", workers, True]
        assert all(torch.equal(model[name], again[name]) for name in model)
        assert whole == resumed
