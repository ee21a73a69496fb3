"""A supernet runs each of its networks as the plain network would run that is taken out of it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
import torch.nn.functional as F
from supernets import SMALL, TINY_RESNET, digits, each_stage_once, random_supernet
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.models.ofa_networks import ImageArguments, StagedNetwork, build_alone, build_network
from orchestrator.ofa.costs import CostModel
from orchestrator.ofa.elastic import KernelMatrices, Supernet
from orchestrator.ofa.extract import extract
from orchestrator.ofa.spaces import SPACES, find_space
from orchestrator.pruning.macs import count_macs
from orchestrator.training.optimizer import SGD


@torch.no_grad()
def runs_alike(supernet, architecture, images):
    return torch.equal(supernet(images, architecture), extract(supernet, architecture)(images))


def test_every_choice_of_every_stage_taken_out_gives_the_same_bits():
    supernet, images = random_supernet(), digits()
    for architecture in each_stage_once():
        assert runs_alike(supernet, architecture, images), architecture


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("space", [SMALL, TINY_RESNET], ids=["small", "resnet"])
def test_so_does_one_under_autocast_and_in_another_layout_in_memory(space, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    supernet = random_supernet(space, channels=3).to(memory_format=layout)
    images = digits(4, 32, 3).to(memory_format=layout)
    assert runs_alike(supernet, space.smallest(), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for architecture in (space.smallest(), *(space.sample(Random(seed)) for seed in range(6))):
            assert runs_alike(supernet, architecture, images), architecture


def test_kernels_are_made_in_float32_under_autocast():
    matrices = random_supernet().kernels
    weight, kernels = torch.randn(4, 1, 5, 5), next(iter(matrices.values()))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = kernels(weight, 3)
    assert torch.equal(found, kernels(weight, 3))


@pytest.mark.slow
def test_every_network_of_the_small_space_taken_out_gives_the_same_bits():
    supernet, images = random_supernet(), digits()
    assert all(runs_alike(supernet, architecture, images) for architecture in SMALL.enumerate())


@pytest.mark.parametrize("space", [find_space("mobilenetv3"), TINY_RESNET], ids=["mobilenetv3", "resnet"])
def test_the_same_holds_in_other_spaces(space):
    supernet, images, rng = random_supernet(space, channels=3), digits(2, 64, 3), Random(0)
    for architecture in (space.smallest(), space.sample(rng), space.sample(rng)):
        assert runs_alike(supernet, architecture, images)


def test_networks_make_larger_images_as_small_as_their_resolution_and_enlarge_none():
    space = replace(TINY_RESNET, resolutions=(16, 24))
    supernet, images = random_supernet(space, channels=3), digits(2, 32, 3)
    small, large = (replace(space.largest(), resolution=size) for size in space.resolutions)
    assert runs_alike(supernet, small, images)
    with torch.no_grad():
        assert not torch.equal(supernet(images, small), supernet(images, large))
        tiny = digits(2, 12, 3)
        assert torch.equal(supernet(tiny, small), supernet(tiny, large))
    sizes = [count_macs(extract(supernet, each), images).dense for each in (small, large)]
    assert sizes == [CostModel(ImageArguments(10, (3, 32, 32)))(each).macs for each in (small, large)]
    assert sizes[0] < sizes[1]


def test_networks_of_different_architectures_differ():
    supernet, images = random_supernet(), digits()
    with torch.no_grad():
        outputs = [supernet(images, architecture) for architecture in dict.fromkeys(each_stage_once())]
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == len(outputs) == 42 + 42 - 1


def test_a_network_taken_out_is_plain_and_has_memory_of_its_own():
    supernet, images, architecture = random_supernet(), digits(), SMALL.smallest()
    network = extract(supernet, architecture)
    alone = build_network(architecture, ImageArguments(10, (1, 8, 8)))
    assert isinstance(network, StagedNetwork)
    assert [(n, t.shape) for n, t in network.state_dict().items()] == [
        (n, t.shape) for n, t in alone.state_dict().items()
    ]
    with torch.no_grad():
        before = supernet(images, architecture)
        for tensor in network.state_dict().values():
            tensor.zero_()
        assert torch.equal(supernet(images, architecture), before)
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in network.parameters())


def test_a_small_kernel_is_at_first_the_centre_of_the_large_one():
    weight = torch.randn(6, 2, 7, 7)
    matrices = KernelMatrices((3, 5, 7))
    assert torch.equal(matrices(weight, 7), weight)
    assert torch.equal(matrices(weight, 5), weight[:, :, 1:6, 1:6])
    assert torch.equal(matrices(weight, 3), weight[:, :, 2:5, 2:5])


def test_a_small_kernel_is_the_centre_of_the_next_larger_one_times_a_matrix():
    weight = torch.randn(6, 2, 7, 7, dtype=torch.float64)
    matrices = KernelMatrices((3, 5, 7)).double()
    with torch.no_grad():
        for parameter in matrices.parameters():
            parameter.normal_()
    to_5 = (matrices.to_5 + torch.eye(25)).view(5, 5, 5, 5)
    to_3 = (matrices.to_3 + torch.eye(9)).view(3, 3, 3, 3)
    five = torch.einsum("abij,ocij->ocab", to_5, weight[:, :, 1:6, 1:6])
    three = torch.einsum("abij,ocij->ocab", to_3, five[:, :, 1:4, 1:4])
    assert torch.allclose(matrices(weight, 5), five)
    assert torch.allclose(matrices(weight, 3), three)


def test_only_layers_with_a_choice_of_kernels_have_matrices():
    counts = {name: len(Supernet(space, ImageArguments(2, (3, 8, 8))).kernels) for name, space in SPACES.items()}
    assert counts == {"mobilenetv3": 20, "compofa": 0, "resnet50d": 0, "small": 4}


def test_kernel_matrices_are_not_decayed_and_a_decay_would_pull_them_to_the_identity():
    supernet = random_supernet()
    for decay_normalisation in (False, True):
        optimizer = SGD(momentum=0, weight_decay=0.5, decay_normalisation=decay_normalisation).build(supernet)
        spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
        matrices = {id(parameter) for parameter in supernet.kernels.parameters()}
        assert spared == matrices if decay_normalisation else spared > matrices
    matrices = next(iter(supernet.kernels.values()))
    weight = torch.randn(4, 1, 5, 5)
    decayed = torch.optim.SGD(matrices.parameters(), lr=1.0, weight_decay=0.5)
    for parameter in matrices.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(40):
        decayed.step()
    assert torch.allclose(matrices(weight, 3), weight[:, :, 1:4, 1:4], atol=1e-5)


def test_a_gradient_reaches_the_first_channels_and_is_zero_elsewhere():
    supernet, images = random_supernet().train(), digits()
    architecture = SMALL.smallest()
    network = extract(supernet, architecture)
    for module, options in [(supernet, (architecture,)), (network, ())]:
        torch.manual_seed(3)  # of the dropout
        module(images, *options).square().sum().backward()
    for name, parameter in network.named_parameters():
        shared = supernet.network.get_parameter(name)
        if "depthwise" in name and "stages" in name and "conv" in name:
            continue  # the matrix lies between
        inside = tuple(slice(size) for size in parameter.shape)
        assert torch.equal(shared.grad[inside], parameter.grad), name
        rest = shared.grad.clone()
        rest[inside] = 0
        assert not rest.any()
    assert supernet.network.stages[0][1].project.conv.weight.grad is None


def test_training_moves_the_statistics_of_the_channels_that_ran():
    supernet, architecture = random_supernet().train(), SMALL.smallest()
    norm = supernet.network.stages[1][0].depthwise.norm
    before, network = norm.running_mean.clone(), extract(supernet, architecture)
    supernet(digits(), architecture)
    network(digits())
    own = network.stages[1][0].depthwise.norm.running_mean
    assert 0 < len(own) < len(before)
    assert torch.equal(norm.running_mean[: len(own)], own)
    assert not torch.equal(own, before[: len(own)])
    assert torch.equal(norm.running_mean[len(own) :], before[len(own) :])


def test_training_the_largest_network_in_a_supernet_is_plain_training_to_the_bit():
    arguments = ImageArguments(10, (1, 8, 8))
    plain, supernet = build_network(SMALL.largest(), arguments), Supernet(SMALL, arguments)
    supernet.network.load_state_dict(plain.state_dict())
    labels = torch.arange(4)
    for module in (plain, supernet):
        torch.manual_seed(3)  # of the dropout
        optimizer = torch.optim.SGD(
            [p for n, p in module.named_parameters() if "kernels" not in n], lr=0.1, momentum=0.9
        )
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(module(digits()), labels).backward()
            optimizer.step()
    trained = supernet.network.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in plain.state_dict().items())


def test_a_network_can_be_built_alone_by_the_name_of_its_space():
    shape = (3, 16, 16)
    architecture = SMALL.sample(Random(5))
    alone = build_alone("small", num_classes=7, input_shape=shape, architecture=architecture.to_json())
    assert alone(digits(2, 16, 3)).shape == (2, 7)
    largest = build_alone("small", num_classes=7, input_shape=shape)
    assert sum(p.numel() for p in largest.parameters()) > sum(p.numel() for p in alone.parameters())
    assert all(
        isinstance(layer, nn.Module) and "ofa.elastic" not in type(layer).__module__ for layer in alone.modules()
    )


def test_a_supernet_without_memory_draws_no_weights(monkeypatch):
    """For tensors without memory torch would load its compiler to draw them."""
    whole = random_supernet()
    for name in ("normal_", "kaiming_normal_"):
        monkeypatch.setattr(nn.init, name, lambda *args, **options: pytest.fail("a weight was drawn"))
    with torch.device("meta"):
        empty = Supernet(SMALL, ImageArguments(10, (1, 8, 8)))
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == {
        name: tensor.shape for name, tensor in whole.state_dict().items()
    }


def test_an_architecture_of_another_space_is_refused():
    other = find_space("compofa").largest()
    with pytest.raises(ConfigError, match="must be one of the space 'small'"):
        build_alone("small", num_classes=7, input_shape=(3, 8, 8), architecture=other.to_json())
    supernet = random_supernet()
    for refused in (other, replace(SMALL.largest(), resolution=8)):
        with pytest.raises(ConfigError, match="must be one of the space 'small'"):
            extract(supernet, refused)
        with pytest.raises(ConfigError, match="must be one of the space 'small'"):
            supernet(digits(), refused)
