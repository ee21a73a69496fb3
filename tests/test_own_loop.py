"""`prune` and `hold` in a training loop of one's own: what is removed stays at exactly zero."""

from __future__ import annotations

import copy
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adagrad, AdamW, Muon, Optimizer, RMSprop

from orchestrator import hold, own_loop, prune, rewind
from orchestrator.errors import ConfigError
from orchestrator.layer_masks import Factor
from orchestrator.pruning import count_kept, prunable_weights, prune_globally

Build = Callable[[list[nn.Parameter]], Optimizer]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(16, 1, 4, 4, generator=generator)
        yield images, (images.mean((1, 2, 3)) * 9).long().clamp(0, 2)


def train(module: nn.Module, *optimizers: Optimizer, steps: int = 5, clip_norm: float | None = None) -> None:
    for images, labels in batches(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        for optimizer in optimizers:
            optimizer.step()


def removed(module: nn.Module) -> dict[str, Tensor]:
    """Return where each prunable weight is exactly zero."""
    return {name: weight.detach() == 0 for name, weight in prunable_weights(module).items()}


def kept(module: nn.Module) -> int:
    return count_kept({name: ~zeros for name, zeros in removed(module).items()})


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestPrune:
    def test_the_weights_that_stay_are_those_of_global_magnitude_pruning(self) -> None:
        module = network()
        dense = copy.deepcopy(module)
        masks = prune_globally(prunable_weights(dense), 0.3)
        assert prune(module, 0.3) is module
        for name, tensor in module.state_dict().items():
            expected = dense.state_dict()[name]
            assert torch.equal(tensor, expected * masks[name] if name in masks else expected)
        assert list(module.state_dict()) == list(dense.state_dict())
        assert all(isinstance(weight, nn.Parameter) for weight in prunable_weights(module).values())

    def test_what_an_earlier_call_removed_stays_removed(self) -> None:
        """Whatever the criterion, and also where training without `hold` has moved it."""
        module = prune(network(), 0.5)
        before = removed(module)
        train(module, SGD(module.parameters(), lr=0.1))
        assert kept(module) > 0.9 * sum(zeros.numel() for zeros in before.values())
        prune(module, 0.25, criterion="random")
        after = removed(module)
        assert all((after[name] >= zeros).all() for name, zeros in before.items())
        assert kept(module) == round(0.25 * sum(zeros.numel() for zeros in before.values()))
        with pytest.raises(ConfigError, match="the masks given leave only"):
            prune(module, 0.5)
        assert same(removed(module), after), "a call that is refused changes nothing"

    def test_a_copy_and_a_file_go_on(self) -> None:
        module = prune(network(), 0.4)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        loaded = network(1)
        loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
        for other in (copy.deepcopy(module), prune(loaded, 0.4)):
            optimizer = SGD(other.parameters(), lr=0.1, momentum=0.9)
            assert hold(other, optimizer).density == pytest.approx(0.4, abs=0.01)
            train(other, optimizer)
            assert same(removed(other), removed(module))

    def test_which_weights(self) -> None:
        module = network()
        whole = copy.deepcopy(module)
        prune(module, 0.5, kinds=["linear"], exclude=["6"])
        assert torch.equal(module[0].weight, whole[0].weight)
        assert torch.equal(module[6].weight, whole[6].weight)
        assert int(module[4].weight.count_nonzero()) == 64
        prune(module, 0.5, exclude=["4"])  # keeps what the other call removed there
        assert int(module[4].weight.count_nonzero()) == 64
        assert hold(module, SGD(module.parameters())).density == pytest.approx((64 + 30) / (128 + 60))

    def test_the_gradients_of_a_backward_pass_score(self) -> None:
        module = network()
        with pytest.raises(ConfigError, match=r"call loss.backward\(\) before prune"):
            prune(module, 0.5, criterion="gradient_magnitude")
        module[6].weight.data *= 1e-3
        module[4].weight.data *= 1e-3
        module[4].weight.grad = torch.full((8, 16), 1e9)  # the others have none, which counts as zeros
        with pytest.warns(UserWarning, match=r"nothing is left of 0.weight, 6.weight"):
            prune(module, 128 / (36 + 128 + 24), criterion="gradient_magnitude")
        assert module[4].weight.all()
        assert kept(module) == 128

    def test_a_function_of_the_users_own_scores(self) -> None:
        module = prune(nn.Linear(4, 1), 0.5, criterion=lambda weight, gradient: torch.arange(4.0)[None])
        assert removed(module)["weight"].tolist() == [[True, True, False, False]]

    def test_a_layer_without_any_weight_is_a_warning(self) -> None:
        module = network()
        module[6].weight.data *= 1e-6
        with pytest.warns(UserWarning, match="nothing is left of 6.weight: min_kept_per_layer=1") as caught:
            prune(copy.deepcopy(module), 0.5)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            prune(module, 0.5, min_kept_per_layer=2)
        assert int(module[6].weight.count_nonzero()) == 2

    def test_a_compiled_module_is_pruned_by_the_names_of_the_module_inside(self) -> None:
        module = network()
        compiled = torch.compile(module, backend="eager")
        assert prune(compiled, 0.5, exclude=["0"]) is compiled
        assert not removed(module)["0.weight"].any()
        assert kept(module) == 36 + 76

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"module": [1]}, "module must be a torch.nn.Module, got list"),
            ({"module": nn.ReLU()}, "module must have trainable weights in layers of convolution, .*, but ReLU has"),
            ({"density": 0}, r"density must be a number in \(0, 1\], got 0"),
            ({"kinds": ["conv"]}, "kinds must be one of convolution, linear, .*, got 'conv'"),
            ({"kinds": "linear"}, r"kinds must be a tuple, got 'linear': write \['linear'\]"),
            ({"exclude": ["head"]}, "exclude must match a prunable weight or its module, got 'head'"),
            ({"criterion": "size"}, "criterion must be one of gradient_magnitude, magnitude, random"),
        ],
    )
    def test_bad_input_is_one_sentence(self, changes: dict[str, object], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            prune(**{"module": network(), "density": 0.5} | changes)

    @pytest.mark.parametrize("use", [hold, lambda module: prune(module, 0.5)])
    @pytest.mark.parametrize(
        ("module", "sentence"),
        [
            (nn.Sequential(nn.LazyLinear(2)), "must have a shape, but 0.weight has none yet: call the module once"),
            (nn.Linear(3, 2, device="meta"), 'must have values, but weight is on the device "meta": move'),
        ],
    )
    def test_weights_without_values_are_one_sentence(
        self, use: Callable[[nn.Module], object], module: nn.Module, sentence: str
    ) -> None:
        with pytest.raises(ConfigError, match=sentence):
            use(module)


OPTIMIZERS: dict[str, Build] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum and decay": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov, for each": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05, foreach=True),
    "fused": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05, fused=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.05),
    "adamw, for each": lambda p: AdamW(p, lr=0.01, weight_decay=0.05, foreach=True),
    "adamw, fused": lambda p: AdamW(p, lr=0.01, weight_decay=0.05, amsgrad=True, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
}


class TestHold:
    def test_a_plain_loop_as_a_closed_form(self) -> None:
        """The loss |w - t|^2 / 2 takes a kept weight to t + (1 - lr)^n (w - t)."""
        layer = nn.Linear(4, 1, bias=False)
        layer.weight.data = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
        target = torch.tensor([[5.0, 5.0, -5.0, 5.0]])
        optimizer = SGD(prune(layer, 0.5).parameters(), lr=0.1)
        assert hold(layer, optimizer).density == 0.5
        for _ in range(7):
            optimizer.zero_grad()
            ((layer(torch.eye(4)).T - target).square().sum() / 2).backward()
            optimizer.step()
        expected = torch.tensor([[5 + 0.9**7 * (3 - 5), 0, -5 + 0.9**7 * (2 + 5), 0]])
        torch.testing.assert_close(layer.weight.data, expected)
        assert layer.weight[0, 1] == layer.weight[0, 3] == 0

    @pytest.mark.parametrize("warm", [False, True], ids=["fresh optimizer", "optimizer of the dense training"])
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_no_removed_weight_and_no_slot_of_it_comes_back(self, optimizer: str, warm: bool) -> None:
        module = network()
        built = OPTIMIZERS[optimizer](list(module.parameters()))
        if warm:
            train(module, built)
        prune(module, 0.4)
        gone, before = removed(module), copy.deepcopy(module.state_dict())
        hold(module, built)
        train(module, built)
        for name, weight in prunable_weights(module).items():
            assert torch.equal(weight == 0, gone[name])
            assert (weight - before[name])[~gone[name]].any()
            for slot in built.state[weight].values():
                assert slot.shape != weight.shape or not slot[gone[name]].any()

    @pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["no clipping", "clipping"])
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_held_training_is_training_of_the_product(self, optimizer: str, clip_norm: float | None) -> None:
        """Against autograd through w * mask. No batch norm: before one, a bias has a gradient of rounding noise."""
        module = prune(nn.Sequential(*(layer for layer in network() if not isinstance(layer, nn.BatchNorm2d))), 0.4)
        masks = {name: (~zeros).float() for name, zeros in removed(module).items()}
        parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        built = OPTIMIZERS[optimizer](list(module.parameters()))
        hold(module, built)
        train(module, built, clip_norm=clip_norm)

        reference = OPTIMIZERS[optimizer](list(parameters.values()))
        for images, labels in batches(5):
            product = {name: p * masks[name] if name in masks else p for name, p in parameters.items()}
            reference.zero_grad()
            F.cross_entropy(functional_call(module, product, images), labels).backward()
            if clip_norm is not None:
                assert nn.utils.clip_grad_norm_(parameters.values(), clip_norm) > 2 * clip_norm
            reference.step()
        for name, weight in module.named_parameters():
            expected = parameters[name] * masks[name] if name in masks else parameters[name]
            torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)

    def test_an_update_that_mixes_weights_is_masked(self) -> None:
        """Muon makes the whole matrix orthogonal, so that every element of the update has a value."""
        module = prune(network(), 0.4)
        gone = removed(module)
        muon, adamw = Muon([module[4].weight, module[6].weight]), AdamW([*module[0].parameters(), module[4].bias])
        hold(module, muon, adamw)
        train(module, muon, adamw)
        assert same(removed(module), gone)

    def test_a_step_with_a_closure(self) -> None:
        """LBFGS calls it many times in a step, as Lightning calls it once."""
        module = prune(network(), 0.4)
        gone, before = removed(module), module[4].weight.detach().clone()
        optimizer = torch.optim.LBFGS(module.parameters(), line_search_fn="strong_wolfe")
        hold(module, optimizer)
        (images, labels), *_ = batches(1)
        losses: list[float] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels)
            loss.backward()
            losses.append(loss.item())
            assert same(removed(module), gone)
            return loss

        optimizer.step(closure)
        assert len(losses) > 2
        assert losses[-1] < losses[0]
        assert not torch.equal(module[4].weight, before)

    @pytest.mark.parametrize("first", ["hold", "compile"])
    def test_a_compiled_module(self, first: str) -> None:
        plain, module = prune(network(), 0.4), prune(network(), 0.4)
        build = OPTIMIZERS["momentum and decay"]
        expected, built = build(list(plain.parameters())), build(list(module.parameters()))
        hold(plain, expected)
        train(plain, expected, clip_norm=0.1)
        compiled = torch.compile(module, backend="eager")
        hold(module if first == "hold" else compiled, built)
        train(compiled, built, clip_norm=0.1)
        assert same(dict(module.named_parameters()), dict(plain.named_parameters()))

    def test_gradients_that_add_up_over_backward_passes(self) -> None:
        module = prune(network(), 0.4)
        hold(module, SGD(module.parameters()))
        for images, labels in batches(3):
            F.cross_entropy(module(images), labels).backward()
        for name, weight in prunable_weights(module).items():
            assert not weight.grad[removed(module)[name]].any()
            assert weight.grad.any()

    def test_a_scaler_that_skips_a_step(self) -> None:
        module = prune(network(), 0.4)
        gone = removed(module)
        optimizer = OPTIMIZERS["momentum and decay"](list(module.parameters()))
        hold(module, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for number, (images, labels) in enumerate(batches(4)):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(module(images), labels)).backward()
            if number == 1:
                module[4].weight.grad.fill_(torch.inf)
            before = module[4].weight.detach().clone()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(module[4].weight, before) == (number == 1)
            assert same(removed(module), gone)

    def test_a_removed_weight_whose_gradient_is_not_a_number_stays_zero(self) -> None:
        layer = prune(nn.Linear(4, 1), 0.5)
        gone = removed(layer)["weight"]
        optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
        hold(layer, optimizer)
        layer.weight.grad = torch.where(gone, torch.nan, 1.0)
        optimizer.step()
        assert torch.equal(layer.weight == 0, gone)
        assert optimizer.state[layer.weight]["momentum_buffer"].isfinite().all()

    def test_the_end(self) -> None:
        module = prune(network(), 0.4)
        optimizer = SGD(module.parameters(), lr=0.1)
        held = hold(module, optimizer)
        held.remove()
        held.remove()
        train(module, optimizer)
        assert kept(module) == 188

    def test_a_later_prune_is_held_too(self) -> None:
        """From the first backward pass on, so that clipping sees what the new masks leave; other weights as well."""
        module = prune(network(), 0.8, exclude=["0"])
        optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
        held = hold(module, optimizer)
        train(module, optimizer)
        prune(module, 0.4)
        gone = removed(module)
        assert held.density == pytest.approx(0.4, abs=0.005)
        train(module, optimizer)
        assert same(removed(module), gone)
        assert not module[4].weight.grad[gone["4.weight"]].any()

    def test_weights_that_are_loaded_are_masked(self) -> None:
        """This is weight rewinding: the masks of the trained network, the weights of the beginning."""
        module = network()
        start = copy.deepcopy(module.state_dict())
        optimizer = SGD(module.parameters(), lr=0.1)
        train(module, optimizer)
        prune(module, 0.4)
        gone = removed(module)
        module.load_state_dict(start)
        hold(module, optimizer)
        for name, weight in prunable_weights(module).items():
            assert torch.equal(weight, start[name] * ~gone[name])

    def test_weights_that_are_loaded_while_they_are_held_leave_nothing_in_the_optimizer(self) -> None:
        """Weight decay would carry them into its momentum."""
        module = network()
        dense = copy.deepcopy(module.state_dict())
        optimizer = OPTIMIZERS["momentum and decay"](list(module.parameters()))
        hold(prune(module, 0.4), optimizer)
        gone = removed(module)
        train(module, optimizer)
        module.load_state_dict(dense)
        train(module, optimizer, steps=1)
        for name, weight in prunable_weights(module).items():
            assert torch.equal(weight == 0, gone[name])
            assert not optimizer.state[weight]["momentum_buffer"][gone[name]].any()

    @pytest.mark.parametrize("change", ["dtype", "replaced"])
    def test_a_weight_that_changes_while_it_is_held(self, change: str) -> None:
        module = prune(network(), 0.4)
        gone = removed(module)
        optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
        hold(module, optimizer)
        if change == "dtype":
            module.double()
        else:
            for layer in (module[0], module[4], module[6]):
                layer.weight = nn.Parameter(torch.ones_like(layer.weight))
            optimizer.param_groups[0]["params"] = list(module.parameters())
            optimizer.step()
            assert same(removed(module), gone)
        for images, labels in batches(3):
            optimizer.zero_grad()
            F.cross_entropy(module(images.to(module[0].weight.dtype)), labels).backward()
            assert not module[4].weight.grad[gone["4.weight"]].any()
            optimizer.step()
            assert same(removed(module), gone)

    def test_masks_follow_their_weight_to_another_device(self) -> None:
        module = prune(network(), 0.4).to("meta")
        optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
        hold(module, optimizer)
        module(torch.empty(2, 1, 4, 4, device="meta")).sum().backward()
        optimizer.step()
        assert optimizer.state[module[4].weight]["momentum_buffer"].is_meta

    def test_a_weight_of_another_shape_is_refused(self) -> None:
        module = prune(network(), 0.4)
        module[6].weight = nn.Parameter(torch.ones(5, 8))
        sentence = (
            r"6.weight must still be a parameter of the shape \(3, 8\) that it was pruned in, got \(5, 8\): put a"
        )
        for call in (lambda: hold(module, SGD(module.parameters())), lambda: prune(module, 0.2)):
            with pytest.raises(ConfigError, match=sentence):
                call()

    def test_a_shared_weight_is_one(self) -> None:
        module = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False))
        module[2].weight = module[0].weight
        prune(module, 0.5)
        gone = module[0].weight.detach() == 0
        optimizer = AdamW(module.parameters(), lr=0.1)
        assert hold(module, optimizer).density == 0.5
        prune(module[2], 0.25)  # the masks of both layers count
        gone |= module[2].weight.detach() == 0
        for _ in range(3):
            optimizer.zero_grad()
            module(torch.arange(6)).square().sum().backward()
            optimizer.step()
        assert torch.equal(module[0].weight == 0, gone)
        assert module[2].weight is module[0].weight

    def test_a_gradient_that_is_sparse(self) -> None:
        layer = prune(nn.Embedding(6, 4, sparse=True), 0.5, kinds=["embedding"])
        gone = layer.weight.detach() == 0
        optimizer = torch.optim.SparseAdam(layer.parameters())
        hold(layer, optimizer)
        layer(torch.tensor([1, 3])).sum().backward()
        optimizer.step()
        assert torch.equal(layer.weight == 0, gone)

    def test_a_module_without_masks_is_held_where_it_is_zero(self) -> None:
        module = network()
        module.load_state_dict(prune(network(), 0.4).state_dict())
        gone = removed(module)
        optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
        assert hold(module, optimizer).density == pytest.approx(0.4, abs=0.005)
        train(module, optimizer)
        assert same(removed(module), gone)

    def test_a_layer_that_begins_at_zero_is_trained(self) -> None:
        module = network()
        nn.init.zeros_(module[6].weight)
        prune(module, 0.4, exclude=["6"])
        optimizer = SGD(module.parameters(), lr=0.1)
        hold(module, optimizer)
        train(module, optimizer)
        assert module[6].weight.all()

    def test_a_module_that_was_not_pruned_is_refused(self) -> None:
        module = network()
        with pytest.raises(ConfigError, match=r"but Sequential has no removed weight: call orchestrator.prune\(module"):
            hold(module, SGD(module.parameters()))

    def test_a_weight_that_no_optimizer_trains_is_refused(self) -> None:
        module = prune(network(), 0.4)
        head = SGD(module[6].parameters(), lr=0.1)
        with pytest.raises(ConfigError, match=r"but 0.weight is in none of the 1 given: give all optimizers"):
            hold(module, head)
        with pytest.raises(ConfigError, match="in none of the 0 given"):
            hold(module)
        with pytest.raises(ConfigError, match=r"optimizers must be of torch.optim, got list"):
            hold(module, [head])
        module[0].requires_grad_(False)
        module[4].requires_grad_(False)
        hold(module, head)

    def test_a_step_masks_gradients_and_weights_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Masking is what `hold` costs. The state of the optimizer is masked once; clipped gradients once more."""
        module = prune(network(), 0.4)
        optimizer = AdamW(module.parameters(), lr=0.01)
        multiply, masked = own_loop.multiply, Counter[str]()

        def counting(parts: list[tuple[Factor, str, Tensor]]) -> None:
            masked.update(role for _, role, _ in parts)
            multiply(parts)

        hold(module, optimizer)
        monkeypatch.setattr(own_loop, "multiply", counting)
        train(module, optimizer, steps=5)
        assert masked == {"gradient": 5 * 3, "weight": 5 * 3, "exp_avg": 3, "exp_avg_sq": 3}
        train(module, optimizer, steps=5, clip_norm=0.1)
        assert masked == {"gradient": 15 * 3, "weight": 10 * 3, "exp_avg": 3, "exp_avg_sq": 3}

    def test_a_module_that_is_held_can_be_copied_and_saved(self) -> None:
        module = prune(network(), 0.4)
        hold(module, SGD(module.parameters()))
        torch.save(module, io.BytesIO())
        assert same(removed(copy.deepcopy(module)), removed(module))


class Labelled(nn.Module):
    """A network as Hugging Face's Trainer wants it: labels come in, and the loss goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.slow
def test_the_trainer_of_hugging_face(tmp_path: Path) -> None:
    """Two rounds; it clips gradients by itself, and the second one begins at the first learning rate again."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    module = Labelled()
    optimizer = AdamW(module.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=8)
    samples = [{"images": i, "labels": n} for images, labels in batches(4) for i, n in zip(images, labels, strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=16, max_grad_norm=0.1, logging_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    rates = []
    for density in (0.5, 0.25):
        held = hold(prune(module, density), optimizer)
        gone, before = removed(module), module.network[4].weight.detach().clone()
        trainer = transformers.Trainer(module, arguments, train_dataset=samples, optimizers=(optimizer, scheduler))
        trainer.train()
        assert same(removed(module), gone)
        assert not torch.equal(module.network[4].weight, before)
        rates.append([line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line])
        held.remove()
        rewind(scheduler)
    assert len(rates[0]) == 8
    assert rates[0] == rates[1]


@pytest.mark.slow
def test_the_trainer_of_lightning() -> None:
    """It hands the optimizer a closure that computes and clips the gradients; the outcome is that of a plain loop."""
    lightning = pytest.importorskip("lightning")

    class Lit(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = prune(network(), 0.4)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Optimizer:
            optimizer = AdamW(self.parameters(), lr=0.01)
            hold(self, optimizer)
            return optimizer

    module, plain = Lit(), prune(network(), 0.4)
    gone = removed(module)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", gradient_clip_val=0.1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(list(batches(4)), batch_size=None))
    assert same(removed(module), gone)

    optimizer = AdamW(plain.parameters(), lr=0.01)
    hold(plain, optimizer)
    for _ in range(2):
        train(plain, optimizer, steps=4, clip_norm=0.1)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(module.network.get_parameter(name), weight)
