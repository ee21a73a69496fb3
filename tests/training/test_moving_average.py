"""The moving average of weights: its formula, what it is used for, and that removed weights stay at zero in it."""

import dataclasses

import pytest
import tiny
import torch
import torch.nn.functional as F
from test_masked_training import begin

from orchestrator.driver import Driver
from orchestrator.errors import DamagedError
from orchestrator.problem import load_problem
from orchestrator.pruning import OneShot, prune_globally
from orchestrator.pruning.channels.removal import Channels
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.distillation import Distillation
from orchestrator.training.moving_average import decay_at
from orchestrator.training.optimizer import AdamW
from orchestrator.training.trainer import Trainer
from orchestrator.work.snapshot import Snapshot

AVERAGED = tiny.with_training(dataclasses.replace(tiny.EXPERIMENT, model_options={"dropout": 0.2}), ema=0.6)


@pytest.mark.parametrize(
    ("step", "decay"), [(0, 0.1), (1, 2 / 11), (8, 0.5), (90, 0.91), (8990, 0.999), (10**6, 0.999)]
)
def test_the_decay_begins_low_so_that_the_start_is_forgotten(step, decay):
    assert decay_at(step, 0.999) == pytest.approx(decay)
    assert decay_at(step, 0.5) == pytest.approx(min(decay, 0.5))


def test_the_average_follows_the_training_which_does_not_depend_on_it():
    """By its formula from step to step over two epochs, running statistics included, integers copied."""
    trainer, request = begin(AVERAGED)
    places = []
    request = dataclasses.replace(request, epochs=2)
    result = trainer.do(request, on_step=lambda take: places.append(take()))
    plain, _ = begin(tiny.with_training(AVERAGED, ema=None))
    trained = []
    plain.do(request, on_step=lambda take: trained.append(take().state))
    average = {name: tensor.clone() for name, tensor in request.start.model.items()}
    for n, (progress, alone) in enumerate(zip(places, trained, strict=True)):
        assert all(torch.equal(tensor, alone.model[name]) for name, tensor in progress.state.model.items())
        assert all(torch.equal(tensor, alone.optimizer[name]) for name, tensor in progress.state.optimizer.items())
        decay = min(0.6, (1 + n) / (10 + n))
        for name, tensor in alone.model.items():
            whole = not tensor.is_floating_point()
            average[name] = tensor if whole else decay * average[name] + (1 - decay) * tensor
            torch.testing.assert_close(progress.average[name], average[name], rtol=1e-5, atol=1e-7)
    assert all(torch.equal(tensor, places[-1].average[name]) for name, tensor in result.state.model.items())
    assert result.state.optimizer.keys() == trained[-1].optimizer.keys()
    assert not torch.equal(result.state.model["6.weight"], trained[-1].model["6.weight"])


def test_the_averaged_network_is_the_one_that_is_evaluated():
    trainer, request = begin(AVERAGED)
    result = trainer.train(request)
    module = tiny.model(3, (1, 6, 6)).eval()
    module.load_state_dict(result.state.model)
    batches = list(trainer.batches.evaluate("val"))
    images, labels = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
    with torch.no_grad():
        logits = module(images)
    assert result.history[-1].val["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.history[-1].val["accuracy"] == (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("changes", [{}, {"optimizer": AdamW(weight_decay=0.05)}], ids=["sgd", "adamw"])
def test_removed_weights_are_exactly_zero_in_the_average_too(changes):
    trainer, request = begin(tiny.with_training(AVERAGED, **changes))
    progress = []
    result = trainer.do(request, on_step=lambda take: progress.append(take()))
    for model in (result.state.model, *(place.average for place in progress)):
        for name, mask in request.structure.tensors().items():
            assert not model[name][~mask].any()
            assert model[name][mask].all()


def test_the_next_round_is_pruned_and_starts_from_the_averaged_weights(tmp_path):
    problem, data = load_problem(AVERAGED)
    driver, trainer = Driver(AVERAGED, Ledger(open_store(str(tmp_path))), problem), Trainer(AVERAGED, data)
    work = driver.next_work()
    dense = trainer.train(work)
    driver.finish(work, dense)
    request = driver.next_work()
    weights = {name: dense.state.model[name] for name in request.structure.tensors()}
    masks = prune_globally(weights, request.density)
    for name, tensor in request.start.model.items():
        mask = masks.get(name)
        assert torch.equal(tensor, dense.state.model[name] if mask is None else dense.state.model[name] * mask)


def test_a_snapshot_is_of_the_trained_weights_whether_kept_or_replayed():
    """Weight rewinding goes back into the training, with the optimizer's state of that moment."""
    trainer, request = begin(AVERAGED)
    trained = []
    kept = trainer.do(
        dataclasses.replace(request, keep=(2,)), on_epoch=lambda request, m, speed, take: trained.append(take())
    ).snapshots[2]
    replayed = trainer.do(Snapshot.of(request, 2, 1))
    for state in (kept, replayed):
        assert all(torch.equal(state.model[name], tensor) for name, tensor in trained[1].state.model.items())
        assert all(torch.equal(state.optimizer[name], tensor) for name, tensor in trained[1].state.optimizer.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda average: None, "must have averaged weights where training.ema has a value"),
        (lambda average: {**average, "evil": torch.ones(1)}, "not those of the model: 'evil'"),
        (lambda average: {**average, "6.bias": torch.ones(4)}, "6.bias: the model has"),
    ],
)
def test_a_checkpoint_without_the_averaged_weights_is_refused(change, words):
    trainer, request = begin(AVERAGED)
    places = []
    trainer.do(dataclasses.replace(request, epochs=1), on_step=lambda take: places.append(take()))
    trainer.check(request, places[2])
    with pytest.raises(DamagedError, match=words):
        trainer.check(request, dataclasses.replace(places[2], average=change(places[2].average)))


def test_a_whole_path_with_fewer_channels_a_teacher_parts_and_an_average(tmp_path):
    """All of it together, and again from the ledger with the same bits."""
    experiment = dataclasses.replace(
        tiny.with_training(AVERAGED, accumulate=2, optimizer=AdamW()),
        selection=Channels(round_to=1),
        path=OneShot(0.5),
        distillation=Distillation(),
    )
    records = [run(experiment, str(tmp_path / folder)) for folder in ("one", "other")]
    assert [record.round for record in records[0]] == [0, 1]
    assert [record.blobs for record in records[0]] == [record.blobs for record in records[1]]
