"""Distillation: its loss by closed forms, and a taught round against a plain PyTorch loop."""

import dataclasses
import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from test_masked_training import begin

from orchestrator.data.load import load_data
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.problem import load_problem
from orchestrator.pruning import OneShot
from orchestrator.pruning.channels.removal import Channels
from orchestrator.pruning.structure import Dense
from orchestrator.randomness import derive
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.task import Classification, Regression, Tokens
from orchestrator.train_state import TrainState
from orchestrator.training.distillation import Distillation
from orchestrator.training.trainer import Trainer

CLASSIFICATION = Classification()


def logits(*probabilities):
    return torch.tensor(probabilities).log() + 3.0  # a shift of all logits changes nothing


@pytest.mark.parametrize(
    ("distillation", "expected"),
    [
        # KL((1/2, 1/2) || (1/4, 3/4)) = log 2 - log(3) / 2, for each of two samples.
        (Distillation(weight=1.0, temperature=1.0), 2 * (math.log(2) - math.log(3) / 2)),
        (Distillation(weight=0.25, temperature=1.0), 0.75 * 10 + 0.25 * 2 * (math.log(2) - math.log(3) / 2)),
        # At temperature 2 the student's odds are 1 to sqrt(3).
        (Distillation(), 0.5 * 10 + 0.5 * 4 * 2 * (math.log((1 + 3**0.5) / 2) - math.log(3) / 4)),
    ],
)
def test_the_loss_by_closed_forms(distillation, expected):
    student, teacher = logits([0.25, 0.75], [0.75, 0.25]), logits([0.5, 0.5], [0.5, 0.5])
    loss = mixed(distillation, torch.tensor(10.0), student, teacher)
    assert loss.item() == pytest.approx(expected)
    assert mixed(distillation, torch.tensor(0.0), teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def mixed(distillation, loss, student, teacher, task=CLASSIFICATION, targets=None):
    apart = task.divergence(student, teacher, targets, distillation.temperature)
    return distillation.mixed(loss, apart)


def test_the_loss_sums_over_the_tokens_that_count_as_over_samples():
    """Of a network with outputs (n, length, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn((2, 2, 6, 5), generator=generator)
    targets = torch.zeros(2, 6, dtype=torch.int64)
    targets[0, 4:] = -100
    flat = [part[targets != -100] for part in (student, teacher)]
    zero, distillation = torch.zeros(()), Distillation()
    of_tokens = mixed(distillation, zero, student, teacher, Tokens(), targets)
    torch.testing.assert_close(of_tokens, mixed(distillation, zero, *flat))


def test_a_regression_is_taught_by_the_squared_distance():
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert mixed(Distillation(weight=0.5), torch.tensor(10.0), student, teacher, Regression()) == 0.5 * 10 + 0.5 * 5


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Distillation(weight=0), r"Distillation.weight must be a number in \(0, 1\], got 0"),
        (lambda: Distillation(weight=1.5), "got 1.5"),
        (lambda: Distillation(weight=True), "got True"),
        (lambda: Distillation(temperature=0), "Distillation.temperature must be a finite number above 0, got 0"),
        (lambda: Distillation(temperature="2"), "got '2'"),
    ],
)
def test_invalid(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


NOISY = dataclasses.replace(
    tiny.EXPERIMENT, model_options={"dropout": 0.3}, distillation=Distillation(weight=0.75, temperature=3.0)
)


def taught(experiment):
    """A trainer, and a request whose teacher has other weights than its start."""
    trainer, request = begin(experiment)
    generator = torch.Generator().manual_seed(2)
    teacher = {
        name: tensor + torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in request.start.model.items()
    }
    return trainer, dataclasses.replace(request, teacher=TrainState(teacher))


def test_a_taught_epoch_is_that_of_a_plain_loop():
    """The teacher is in evaluation mode: no dropout, and its running statistics neither used up nor changed."""
    trainer, request = taught(NOISY)
    result = trainer.train(dataclasses.replace(request, epochs=2, structure=Dense()))
    data = load_data(NOISY.data, NOISY.data_options)
    student, teacher = (tiny.model(**data.model_arguments, dropout=0.3) for _ in range(2))
    student.load_state_dict(request.start.model)
    teacher.load_state_dict(request.teacher.model)
    teacher.eval()
    optimizer = NOISY.training.optimizer.build(student)
    losses = []
    for epoch in range(2):
        for step, (images, labels) in enumerate(trainer.batches.train(derive(request.seed, request.round, epoch))):
            torch.manual_seed(derive(request.seed, request.round, epoch, step, 0))
            optimizer.param_groups[0]["lr"] = request.schedule.lr_at(epoch + step / 6, 4)
            outputs = student(images)
            soft = F.softmax(teacher(images).detach() / 3, dim=1)
            divergence = (soft * (soft.log() - F.log_softmax(outputs / 3, dim=1))).sum(1).mean()
            loss = 0.25 * F.cross_entropy(outputs, labels) + 0.75 * 9 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(result.state.model[name], tensor, rtol=1e-4, atol=1e-6)
    trained = [metrics.train_loss for metrics in result.history]
    assert trained == pytest.approx([sum(losses[:6]) / 6, sum(losses[6:]) / 6], rel=1e-5)


def test_a_taught_round_that_goes_on_from_any_place_has_the_same_bits():
    trainer, request = taught(NOISY)
    request = dataclasses.replace(request, epochs=2)
    places = []
    whole = trainer.do(request, on_step=lambda take: places.append(take()))
    for progress in places[::5]:
        trainer.check(request, progress)
        again = trainer.do(request, resume=progress)
        assert all(torch.equal(again.state.model[name], tensor) for name, tensor in whole.state.model.items())
        assert again.history == whole.history
    untaught = trainer.train(dataclasses.replace(request, teacher=None))
    assert not all(torch.equal(untaught.state.model[name], tensor) for name, tensor in whole.state.model.items())


def test_a_teacher_of_another_network_is_an_error_that_names_the_round():
    trainer, request = taught(NOISY)
    del request.teacher.model["0.weight"]
    with pytest.raises(DamagedError, match=r"round 3 cannot start .* not those of the model: '0.weight'"):
        trainer.train(request)


def test_the_teacher_of_a_network_with_fewer_channels_is_the_dense_one(tmp_path):
    experiment = dataclasses.replace(
        tiny.EXPERIMENT, selection=Channels(round_to=1), path=OneShot(0.5), distillation=Distillation(weight=1.0)
    )
    problem, data = load_problem(experiment)
    driver, trainer = Driver(experiment, Ledger(open_store(str(tmp_path))), problem), Trainer(experiment, data)
    work = driver.next_work()
    dense = trainer.train(work)
    driver.finish(work, dense)
    request = driver.next_work()
    assert request.teacher.model["0.weight"].shape == (8, 1, 3, 3)
    assert request.start.model["0.weight"].shape[0] < 8
    result = trainer.train(request)
    # A student that learns from the teacher alone comes closer to it: the loss is their divergence.
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert driver.finish(request, result) is not None
