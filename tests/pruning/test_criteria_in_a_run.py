"""Criteria through the whole flow: their gradients, by hand and from two workers, and their randomness."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.nn.functional as F
from together import start_together
from torch import Tensor, nn

from orchestrator.driver import Driver
from orchestrator.experiment import Experiment
from orchestrator.problem import load_problem
from orchestrator.pruning import Explicit, Filters, Geometric, Layerwise, NofM, Selection, count_kept, kept_count
from orchestrator.pruning.structure import Masks
from orchestrator.randomness import derive
from orchestrator.record import Record
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import Classification
from orchestrator.train_state import TrainState
from orchestrator.training.trainer import Trainer
from orchestrator.work.gradients import GRADIENTS, Gradients

Tensors = dict[str, Tensor]

TINY = dataclasses.replace(tiny.EXPERIMENT, path=Geometric(remove=0.3, rounds=2))
BY_GRADIENT = dataclasses.replace(TINY, criterion="gradient_magnitude")


def ledger_of(folder: Path) -> Ledger:
    return Ledger(open_store(str(folder)))


def gradients_by_hand(model: nn.Module, state: TrainState, smoothing: float = 0.0) -> Tensors:
    """dL/dw, L the mean cross-entropy of all training samples at once, in double precision."""
    images, labels = tiny.data().train.tensors
    model.load_state_dict(state.model, strict=False)  # batch norm counts its batches in a buffer of integers
    model.double().eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = F.cross_entropy(model(images.double()), labels, label_smoothing=smoothing)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_magnitude_prunes_by_the_gradient_of_the_mean_training_loss(tmp_path: Path, smoothing: float) -> None:
    experiment = dataclasses.replace(BY_GRADIENT, task=Classification(label_smoothing=smoothing))
    records = run(experiment, str(tmp_path))
    ledger = ledger_of(tmp_path)
    states = [ledger.load(record) for record in records]
    total = records[0].prunable
    for r in (1, 2):
        parent, earlier = states[r - 1]
        by_hand = gradients_by_hand(tiny.model(3, (1, 6, 6)), parent, smoothing)
        recorded = ledger.snapshot(records[r - 1].key, GRADIENTS).model
        assert recorded.keys() == by_hand.keys()
        for name, gradient in by_hand.items():
            torch.testing.assert_close(recorded[name].double(), gradient, rtol=1e-4, atol=1e-6)
        names = ["0.weight", "6.weight"]
        scores = torch.cat([(parent.model[n].double() * by_hand[n]).abs().flatten() for n in names])
        if earlier:
            scores[~torch.cat([earlier[n].flatten() for n in names])] = -1
        wanted = torch.zeros(total, dtype=torch.bool)
        wanted[scores.argsort(descending=True)[: kept_count(0.7**r, total)]] = True
        assert torch.equal(torch.cat([states[r][1][n].flatten() for n in names]), wanted), f"round {r}"
    assert blobs(records) != blobs(run(TINY, str(tmp_path))), "magnitude keeps others"


class Tied(nn.Module):
    """One weight used twice, and one that is frozen, so not prunable, and takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.again.weight = self.first.weight
        self.spare = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.again(self.first(images.flatten(1)).relu()).relu())


def tied(num_classes: int) -> nn.Module:
    return Tied()


def test_a_shared_weight_has_the_gradient_of_all_its_uses_and_a_frozen_one_none(tmp_path: Path) -> None:
    experiment = dataclasses.replace(BY_GRADIENT, model=f"{__name__}:tied")
    records = run(experiment, str(tmp_path))
    ledger = ledger_of(tmp_path)
    assert records[0].layers.keys() == {"first.weight", "head.weight"}
    assert records[0].prunable == 36 * 36 + 3 * 36
    recorded = ledger.snapshot(records[0].key, GRADIENTS).model
    state, _ = ledger.load(records[0])
    by_hand_model = Tied()
    by_hand_model.load_state_dict({**state.model, "again.weight": state.model["first.weight"]})
    images, labels = tiny.data().train.tensors
    F.cross_entropy(by_hand_model(images), labels).backward()
    for name, parameter in by_hand_model.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(recorded[name], wanted, rtol=1e-4, atol=1e-6)
    assert not recorded["spare.weight"].any()
    assert all(record.unpruned == {"spare.weight": [4, 4]} for record in records)


# The gradients of a group of workers.


def gradients_work(seed: int) -> Gradients:
    problem, _ = load_problem(BY_GRADIENT)
    generator = torch.Generator().manual_seed(seed)
    model = tiny.model(3, (1, 6, 6))
    state = {n: torch.rand(t.shape, generator=generator).to(t.dtype) - 0.3 for n, t in model.state_dict().items()}
    state["1.running_var"] += 1
    masks = {n: torch.rand(shape, generator=generator) < 0.6 for n, shape in problem.prunable.items()}
    return Gradients(round_key="k", round=1, seed=3, state=TrainState(state), structure=Masks(masks))


def gradients(experiment: Experiment) -> Tensors:
    trainer = Trainer(experiment, load_problem(experiment)[1], device=torch.device("cpu"))
    return trainer.do(gradients_work(0))


UNEVEN = tiny.with_training(BY_GRADIENT, batch_size=15)  # 8 and 7 samples a step; 6 of the 96 are left over


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(gradients(UNEVEN), f"{folder}/{rank}")
    dist.destroy_process_group()


def test_two_workers_give_the_gradients_of_one(tmp_path: Path) -> None:
    start_together(worker, str(tmp_path), 2)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    single = gradients(UNEVEN)
    assert single.keys() == first.keys()
    for name, gradient in single.items():
        assert gradient.any(), name
        torch.testing.assert_close(first[name], gradient, rtol=1e-5, atol=1e-7)
        assert torch.equal(first[name], second[name]), "workers must not differ by a bit"


def test_gradients_are_those_of_the_masked_network_and_leave_the_trainer_as_it_was() -> None:
    trainer = Trainer(BY_GRADIENT, load_problem(BY_GRADIENT)[1])
    work = gradients_work(0)
    masked = TrainState({n: t * work.structure.tensors().get(n, 1) for n, t in work.state.model.items()})
    gradients = trainer.do(work)
    by_hand = gradients_by_hand(tiny.model(3, (1, 6, 6)), masked)
    for name, gradient in by_hand.items():
        torch.testing.assert_close(gradients[name].double(), gradient, rtol=1e-4, atol=1e-6)
    statistics = dict(trainer.module.named_buffers())
    assert torch.equal(statistics["1.running_mean"], work.state.model["1.running_mean"])
    assert all(parameter.grad is None for parameter in trainer.module.parameters())


# The same bits on a second run, and on one that goes on where another stopped.


def blobs(records: list[Record]) -> list[str]:
    return [record.blobs["model.safetensors"].sha256 for record in records]


def stopped_after(experiment: Experiment, storage: str, requests: int) -> None:
    """Do so many works, and be gone."""
    problem, data = load_problem(experiment)
    driver, trainer = Driver(experiment, Ledger(open_store(storage)), problem), Trainer(experiment, data)
    for _ in range(requests):
        if (request := driver.next_work()) is not None:
            driver.finish(request, trainer.do(request))


@pytest.mark.parametrize("criterion", ["random", "gradient_magnitude"])
@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_run_that_goes_on_has_the_bits_of_one_that_did_not_stop(
    criterion: str, requests: int, tmp_path: Path
) -> None:
    experiment = dataclasses.replace(TINY, criterion=criterion)
    whole = run(experiment, str(tmp_path / "whole"))
    stopped_after(experiment, str(tmp_path / "stopped"), requests)
    torch.rand(7)  # whatever else draws in the process
    assert blobs(run(experiment, str(tmp_path / "stopped"))) == blobs(whole)
    assert blobs(run(experiment, str(tmp_path / "whole"))) == blobs(whole)


def test_random_masks_differ_between_rounds_and_seeds_and_nest(tmp_path: Path) -> None:
    def masks_of(seed: int) -> list[Tensors]:
        experiment = dataclasses.replace(TINY, criterion="random", path=Explicit([0.6, 0.36]), seed=seed)
        ledger = ledger_of(tmp_path)
        return [ledger.load(record)[1] for record in run(experiment, str(tmp_path))[1:]]

    first, second = masks_of(0)
    (other, _) = masks_of(1)
    name = "6.weight"
    assert not torch.equal(first[name], other[name])
    assert not (second[name] & ~first[name]).any()
    with_first_draw = torch.Generator().manual_seed(derive(0, "criterion", 1))
    scores = torch.cat([torch.rand(first[n].shape, generator=with_first_draw).flatten() for n in first])
    kept = torch.cat([first[n].flatten() for n in first])
    assert scores[kept].min() >= scores[~kept].max(), "the draws of round 1 follow from the seed and the round"
    twice = torch.cat([second[n].flatten() for n in second])
    assert scores[kept & ~twice].max() > scores[twice].min(), "and round 2 draws others"


@pytest.mark.parametrize(
    ("selection", "path"),
    [
        (Layerwise(), Explicit([0.5, 0.25])),
        (NofM(8), Explicit([0.5, 0.25])),
        (Filters(), Explicit([0.9, 0.8])),
    ],
    ids=repr,
)
@pytest.mark.parametrize("criterion", ["magnitude", "random", "gradient_magnitude"])
def test_every_selection_runs_with_every_criterion(
    selection: Selection, path: Explicit, criterion: str, tmp_path: Path
) -> None:
    experiment = dataclasses.replace(TINY, selection=selection, criterion=criterion, path=path)
    records = run(experiment, str(tmp_path))
    ledger = ledger_of(tmp_path)
    dense, one, two = (ledger.load(record)[1] for record in records)
    assert dense == {}
    for record, masks in zip(records[1:], (one, two), strict=True):
        assert record.kept == count_kept(masks)
        assert record.kept < records[record.round - 1].kept
    assert not any((two[name] & ~one[name]).any() for name in one)
