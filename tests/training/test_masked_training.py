"""Masked training is training of `w * mask`: against a plain PyTorch loop that differentiates the product."""

import copy
import dataclasses

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.optim.optimizer import register_optimizer_step_pre_hook

from orchestrator.data.load import load_data
from orchestrator.errors import DamagedError, DivergedError
from orchestrator.pruning import prunable_weights
from orchestrator.pruning.structure import Dense, Masks
from orchestrator.randomness import derive
from orchestrator.schedules import Constant
from orchestrator.train_state import TrainState
from orchestrator.training.optimizer import SGD, AdamW
from orchestrator.training.state import put_state, take_state
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train

OPTIMIZERS = {
    "plain": SGD(momentum=0.0),
    "momentum and decay": SGD(momentum=0.9, weight_decay=0.05),
    "nesterov": SGD(momentum=0.9, nesterov=True, weight_decay=0.05),
    "no decay on norms": SGD(momentum=0.9, weight_decay=0.05, decay_normalisation=False),
    "adamw": AdamW(weight_decay=0.05),
}
REFERENCES = {
    "plain": lambda p: torch.optim.SGD(p),
    "momentum and decay": lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, weight_decay=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.05),
}


def begin(experiment):
    """A trainer, and a request of round 3 at density 0.4 that starts from the initialisation."""
    data = load_data(experiment.data, experiment.data_options)
    trainer = Trainer(experiment, data, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: torch.rand(weight.shape, generator=generator) < 0.4
        for name, weight in prunable_weights(trainer.module).items()
    }
    state = take_state(trainer.module, experiment.training.optimizer.build(trainer.module))
    for name, mask in masks.items():
        state.model[name] *= mask
    training = experiment.training
    request = Train(
        key="k", parent="p", round=3, rounds=3, density=0.4, kept=0, prunable=0, seed=7, schedule=training.schedule,
        first_epoch=0, epochs=training.epochs, start=state, structure=Masks(masks),
    )  # fmt: skip
    return trainer, request


def reference(trainer: Trainer, request: Train, optimizer, clip_norm) -> dict[str, torch.Tensor]:
    """Train `module(w * mask)` by autograd through the product, no masking anywhere else."""
    module = trainer.module
    module.load_state_dict(request.start.model)
    parameters = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    masks = {n: m.float() for n, m in request.structure.tensors().items()}
    optimizer = optimizer(list(parameters.values()))
    module.train()
    steps = trainer.batches.steps_per_epoch
    for epoch in range(request.epochs):
        for step, (images, labels) in enumerate(trainer.batches.train(derive(request.seed, request.round, epoch))):
            optimizer.param_groups[0]["lr"] = request.schedule.lr_at(epoch + step / steps, request.epochs)
            product = {n: p * masks[n] if n in masks else p for n, p in parameters.items()}
            optimizer.zero_grad()
            F.cross_entropy(functional_call(module, product, images), labels).backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(parameters.values(), clip_norm)
            optimizer.step()
    return {n: (p * masks[n] if n in masks else p).detach() for n, p in parameters.items()}


@pytest.mark.parametrize("clip_norm", [None, 0.5], ids=["no clipping", "clipping"])
@pytest.mark.parametrize("optimizer", list(REFERENCES))
def test_masked_training_is_training_of_the_product(optimizer, clip_norm):
    # No batch norm: before one, a bias has a gradient of pure rounding noise, which Adam scales to full steps.
    plain = dataclasses.replace(tiny.EXPERIMENT, model_options={"norm": False})
    trainer, request = begin(tiny.with_training(plain, optimizer=OPTIMIZERS[optimizer], clip_norm=clip_norm))
    result = trainer.train(request)
    expected = reference(trainer, request, REFERENCES[optimizer], clip_norm)
    for name, weight in expected.items():
        torch.testing.assert_close(result.state.model[name], weight, rtol=1e-4, atol=1e-6)
    moved = max((result.state.model[n] - request.start.model[n]).abs().max() for n in request.structure.tensors())
    assert moved > 0.01, "the comparison means nothing if training changes nothing"


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_no_removed_weight_and_no_slot_of_it_comes_back(optimizer):
    trainer, request = begin(tiny.with_training(optimizer=OPTIMIZERS[optimizer]))
    state = trainer.train(request).state
    for name, mask in request.structure.tensors().items():
        assert not state.model[name][~mask].any()
        assert state.model[name][mask].all()
        for path, value in state.optimizer.items():
            if path.startswith(f"{name}/") and value.shape == mask.shape:
                assert not value[~mask].any(), path


def test_momentum_that_comes_with_the_parent_goes_on():
    """Two epochs, state taken and put back, two more: the bits of four epochs in one go."""
    trainer, request = begin(tiny.EXPERIMENT)
    whole = trainer.train(request)
    first = trainer.train(dataclasses.replace(request, epochs=2)).state
    assert set(first.optimizer) == {f"{n}/momentum_buffer" for n, _ in trainer.module.named_parameters()}
    rest = trainer.train(dataclasses.replace(request, first_epoch=2, epochs=2, start=first)).state
    fresh = dataclasses.replace(request, first_epoch=2, epochs=2, start=TrainState(first.model))
    without = trainer.train(fresh).state
    assert all(torch.equal(rest.model[n], whole.state.model[n]) for n in whole.state.model)
    assert not all(torch.equal(without.model[n], whole.state.model[n]) for n in whole.state.model)


@pytest.fixture
def gradients():
    """The gradients of every step of an optimizer, as it reads them."""
    seen = []

    def keep(optimizer, *_):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        seen.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))

    hook = register_optimizer_step_pre_hook(keep)
    yield seen
    hook.remove()


@pytest.mark.parametrize("parts", [2, 3, 4, 16])
@pytest.mark.parametrize("clip_norm", [None, 0.5], ids=["no clipping", "clipping"])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, clip_norm, gradients):
    """In equal parts and in others; the optimizer makes as many steps as without."""
    plain = tiny.with_training(
        dataclasses.replace(tiny.EXPERIMENT, model_options={"norm": False}), epochs=2, clip_norm=clip_norm
    )
    histories = []
    for experiment in (plain, tiny.with_training(plain, accumulate=parts)):
        trainer, request = begin(experiment)
        histories.append(trainer.train(dataclasses.replace(request, epochs=2)).history)
    assert len(gradients) == 2 * 2 * trainer.batches.steps_per_epoch
    whole, accumulated = gradients[: len(gradients) // 2], gradients[len(gradients) // 2 :]
    for one, other in zip(whole, accumulated, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in whole) > 0.1
    for one, other in zip(*histories, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-5)


def test_batch_normalisation_sees_one_part_at_a_time():
    trainer, request = begin(tiny.with_training(epochs=1, accumulate=4, schedule=Constant(1e-30)))
    state = trainer.train(dataclasses.replace(request, epochs=1)).state.model
    assert state["1.num_batches_tracked"] == 4 * trainer.batches.steps_per_epoch
    mean = torch.zeros(8)
    trainer.module.load_state_dict(request.start.model)
    trainer.module.eval()
    for images, _ in trainer.batches.train(derive(request.seed, request.round, 0)):
        for part in images.split(4):
            mean = 0.9 * mean + 0.1 * trainer.module[0](part).detach().mean((0, 2, 3))
    torch.testing.assert_close(state["1.running_mean"], mean)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW()])
def test_every_slot_lies_where_its_parameter_lies(optimizer):
    """On the GPU a fused optimizer wants its step counter there too; the meta device shows it without one."""
    trainer, request = begin(tiny.with_training(optimizer=optimizer))
    state = trainer.train(dataclasses.replace(request, epochs=1)).state
    module = copy.deepcopy(trainer.module).to("meta")
    built = torch.optim.AdamW(module.parameters())
    put_state(state, module, built)
    slots = [value for slots in built.state.values() for value in slots.values()]
    assert slots
    assert {value.device.type for value in slots} == {"meta"}


def test_a_last_step_that_explodes_is_divergence():
    """The training loss, measured before the step, is finite; what the step left behind is not."""
    trainer, request = begin(tiny.with_training(epochs=1, batch_size=96, schedule=Constant(1e30)))
    assert trainer.batches.steps_per_epoch == 1
    with pytest.raises(
        DivergedError, match=r"round 3 \(density 0.4\) diverged: training loss [01]\.\d+, validation loss"
    ):
        trainer.train(dataclasses.replace(request, structure=Dense()))


@pytest.mark.slow
def test_compiled_training_is_training():
    """`compile=True` changes rounding at most."""
    trainer, request = begin(tiny.EXPERIMENT)
    plain = trainer.train(request)
    compiled, request = begin(tiny.with_training(compile=True))
    result = compiled.train(request)
    for name, tensor in plain.state.model.items():
        torch.testing.assert_close(result.state.model[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 3}, {"optimizer": AdamW()}, {"ema": 0.9}], ids=str)
def test_every_place_of_a_round_is_a_checkpoint_that_gives_the_same_bits(changes):
    """The last step of an epoch too, after which nothing of it is left to train."""
    noisy = dataclasses.replace(tiny.EXPERIMENT, model_options={"dropout": 0.2})
    trainer, request = begin(tiny.with_training(noisy, epochs=3, **changes))
    places = []
    whole = trainer.do(request, on_step=lambda take: places.append(take()))
    assert [progress.place for progress in places] == [(e, s) for e in range(3) for s in range(1, 7)]
    for progress in places:
        trainer.check(request, progress)
        again = trainer.do(request, resume=progress)
        assert all(torch.equal(again.state.model[name], tensor) for name, tensor in whole.state.model.items())
        assert again.history == whole.history, progress.place


def test_a_checkpoint_of_another_start_is_refused():
    """A parent that was lost and trained again elsewhere may have other bits under the same key."""
    trainer, request = begin(tiny.EXPERIMENT)
    places = []
    trainer.do(dataclasses.replace(request, epochs=1), on_step=lambda take: places.append(take()))
    trainer.check(request, places[0])
    masks = {name: ~mask for name, mask in request.structure.tensors().items()}
    start = TrainState({name: tensor + 1 for name, tensor in request.start.model.items()})
    for other in (dataclasses.replace(request, structure=Masks(masks)), dataclasses.replace(request, start=start)):
        with pytest.raises(DamagedError, match="began from other weights or masks"):
            trainer.check(other, places[0])


def test_snapshots_are_told_when_they_are_taken():
    trainer, request = begin(tiny.EXPERIMENT)
    told = {}
    result = trainer.do(dataclasses.replace(request, keep=(1, 3)), on_snapshot=told.__setitem__)
    assert told.keys() == result.snapshots.keys() == {1, 3}
