"""Steps of a supernet by 1, 2 and 3 workers: the same networks, and the same gradients."""

from __future__ import annotations

import dataclasses
import unittest.mock

import elastic
import pytest
import torch
import torch.distributed as dist
from together import start_together

from orchestrator.data.batches import Batch
from orchestrator.ofa.phases import Phase, Phases
from orchestrator.problem import load_problem
from orchestrator.pruning.structure import Dense
from orchestrator.training import collectives
from orchestrator.training.step import Sums, SupernetStep
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train

PHASES = {
    "teacher": Phase(1, 0.05, subnets=3),
    "sandwich": Phase(1, 0.05, subnets=4, sandwich=True, teacher="largest of the step"),
}
BATCH = 16  # is 8 + 8 or 6 + 5 + 5 samples
DEVICE = torch.device("cpu")


def trainer_and_work() -> tuple[Trainer, Train]:
    """Return a trainer, and the work of a phase that starts from the initial weights."""
    path = Phases((PHASES["teacher"],), batch_size=BATCH)
    experiment = dataclasses.replace(elastic.ELASTIC, path=path)
    problem, data = load_problem(experiment)
    trainer = Trainer(experiment, data, device=DEVICE)
    dense = trainer._initial(
        Train(
            key="k", parent=None, round=0, rounds=1, density=1.0, kept=0, prunable=0, seed=3,
            schedule=path.schedule(0, BATCH), first_epoch=0, epochs=1, start=None, structure=Dense(),
        )
    )  # fmt: skip
    supernet = problem.supernet
    work = Train(
        key="k", parent="p", round=1, rounds=1, density=1.0, kept=0, prunable=0, seed=3,
        schedule=path.schedule(0, BATCH), first_epoch=0, epochs=1, start=supernet.apply(dense, Dense()),
        structure=supernet, teacher=dense, phase=(path.phases[0], supernet.space),
    )  # fmt: skip
    return trainer, work


def gradients(name: str) -> tuple[list[str], dict[str, torch.Tensor], list[float]]:
    """Return the drawn networks of a step, this worker's averaged gradients, and its sum and count of losses.

    In evaluation mode: in training each worker normalises by its own part of the batch.
    """
    trainer, work = trainer_and_work()
    attempt = trainer._begin(work, None, None)
    module, sums = trainer.module.eval(), Sums.zero(trainer.device)
    step = SupernetStep(trainer.experiment, DEVICE, PHASES[name], work.structure.space)
    rank, world = collectives.rank(), collectives.world_size()
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(BATCH, 1, 4, 4, generator=generator), torch.arange(BATCH) % 3
    mine = slice(BATCH * rank // world, BATCH * (rank + 1) // world)
    teacher = attempt.teacher if name == "teacher" else None
    model = step.data_parallel(module)
    step.add_gradients(model, Batch(images[mine], labels[mine]), teacher, sums, seed=5)
    collectives.average_gradients(model)
    drawn = [str(architecture) for architecture in step.phase.draw(step.space, 5)]
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    return drawn, found, collectives.sum_over_workers(sums.tensor()).tolist()


def trained() -> tuple[dict[str, torch.Tensor], object, list[list[str]]]:
    """Return the weights and the history after an epoch, and the networks that each of its steps drew."""
    trainer, work = trainer_and_work()
    drawn, original = [], Phase.draw

    def draw(phase: Phase, space, seed: int):
        found = original(phase, space, seed)
        drawn.append([str(architecture) for architecture in found])
        return found

    with unittest.mock.patch.object(Phase, "draw", draw):
        answer = trainer.train(work)
    return answer.state.model, answer.history, drawn


def worker(rank: int, folder: str) -> None:
    world = int(folder.rpartition("-")[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = [gradients("teacher"), gradients("sandwich"), trained()]
    dist.destroy_process_group()
    torch.save(results, f"{folder}/{rank}")


@pytest.fixture(scope="module", params=[2, 3])
def together(request, tmp_path_factory):
    """Return what each of 2 or 3 workers has of each run."""
    folder = tmp_path_factory.mktemp("workers") / f"of-{request.param}"
    folder.mkdir()
    start_together(worker, str(folder), request.param)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(request.param)]


@pytest.mark.parametrize(("run", "name"), enumerate(PHASES))
def test_workers_draw_the_same_networks_and_their_gradient_is_that_of_one_process(run, name, together):
    drawn, alone, totals = gradients(name)
    for theirs, found, sums in (results[run] for results in together):
        assert theirs == drawn
        assert sums == pytest.approx(totals, rel=1e-6)
        for parameter, gradient in alone.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)


def test_every_step_of_a_training_draws_the_same_networks_with_any_number_of_workers(together):
    _, _, alone = trained()
    assert len(alone) == len({str(step) for step in alone}) == 3  # 48 images in batches of 16
    assert all(results[2][2] == alone for results in together)


@pytest.mark.parametrize("name", PHASES)
def test_the_gradient_is_that_of_a_step_by_hand(name):
    """With a teacher: its soft labels and the targets. In place: the targets, then the soft labels of the first."""
    _, found, _ = gradients(name)
    trainer, work = trainer_and_work()
    attempt, space = trainer._begin(work, None, None), work.structure.space
    supernet, generator = trainer.module.eval(), torch.Generator().manual_seed(1)
    images, labels = torch.randn(BATCH, 1, 4, 4, generator=generator), torch.arange(BATCH) % 3
    soft = attempt.teacher(images).softmax(1).detach() if name == "teacher" else None
    drawn, losses = PHASES[name].draw(space, 5), []
    for place, architecture in enumerate(drawn):
        outputs = supernet(images, architecture)
        hard = torch.nn.functional.cross_entropy(outputs, labels)
        if name == "sandwich" and place == 0:
            soft = outputs.softmax(1).detach()
            losses.append(hard)
        else:
            apart = (soft * (soft.log() - outputs.log_softmax(1))).sum(1).mean()
            losses.append(apart + hard if name == "teacher" else apart)
    (sum(losses) / len(drawn)).backward()
    for parameter, tensor in supernet.named_parameters():
        by_hand = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(found[parameter], by_hand, rtol=1e-4, atol=1e-6)


def test_what_no_network_used_has_a_gradient_of_zeros_with_any_number_of_workers(together):
    for _, found, _ in (results[0] for results in together):
        assert all(gradient is not None for gradient in found.values())


def test_every_worker_ends_with_the_same_bits(together):
    (first, history, _), *others = (results[2] for results in together)
    for model, theirs, _ in others:
        assert all(torch.equal(model[name], tensor) for name, tensor in first.items())
        assert theirs == history
