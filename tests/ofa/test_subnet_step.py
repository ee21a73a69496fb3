"""A step of several sub-networks has the mean of their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from supernets import SMALL, digits, random_supernet

from orchestrator.ofa.extract import extract
from orchestrator.ofa.networks import build_network
from orchestrator.ofa.phases import PROGRESSIVE, SINGLE_STAGE
from orchestrator.ofa.subnet_step import add_gradients, resized, soft_cross_entropy
from orchestrator.task import Classification

IMAGES, LABELS = digits(6).double(), torch.arange(6)


def supernet():
    """Return a supernet in evaluation mode, in which no forward pass changes it."""
    return random_supernet().double()


def teacher():
    torch.manual_seed(4)
    return build_network(SMALL.largest(), num_classes=10, channels=1).double()


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def separately(net, architecture, loss):
    net.zero_grad(set_to_none=True)
    loss(net(IMAGES, architecture)).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def mean_of(parts):
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("with_teacher", [False, True])
def test_the_gradient_of_a_step_is_the_mean_of_separate_ones(with_teacher):
    net, taught = supernet(), teacher() if with_teacher else None
    architectures = PROGRESSIVE[-1].draw(SMALL, 5)
    value = add_gradients(net, architectures, IMAGES, LABELS, F.cross_entropy, teacher=taught)
    found, losses = gradients(net), []

    def loss(outputs):
        total = F.cross_entropy(outputs, LABELS)
        if taught is not None:
            soft = taught.eval()(IMAGES).detach().softmax(1)
            total = total - (soft * outputs.log_softmax(1)).sum(1).mean()
        losses.append(float(total.detach()))
        return total

    check_equal(found, mean_of([separately(net, each, loss) for each in architectures]))
    assert float(value) == pytest.approx(sum(losses) / 4)


def test_in_place_the_others_learn_only_from_the_first():
    net, architectures = supernet(), SINGLE_STAGE[0].draw(SMALL, 6)
    add_gradients(net, architectures, IMAGES, LABELS, F.cross_entropy, in_place=True)
    found = gradients(net)
    soft = net(IMAGES).detach().softmax(1)
    first = separately(net, architectures[0], lambda outputs: F.cross_entropy(outputs, LABELS))
    others = [
        separately(net, each, lambda outputs: -(soft * outputs.log_softmax(1)).sum(1).mean())
        for each in architectures[1:]
    ]
    check_equal(found, mean_of([first, *others]))


def test_what_no_network_used_has_a_gradient_of_zeros():
    net = supernet()
    add_gradients(net, [SMALL.smallest()], IMAGES, LABELS, F.cross_entropy)
    skipped = dict(net.network.stages[0][1].named_parameters())
    assert len(skipped) == 9
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in skipped.values())


def test_gradients_are_added_to_those_that_are_there():
    net = supernet()
    add_gradients(net, [SMALL.largest()], IMAGES, LABELS, F.cross_entropy)
    once = {name: gradient.clone() for name, gradient in gradients(net).items()}
    add_gradients(net, [SMALL.largest()], IMAGES, LABELS, F.cross_entropy)
    check_equal(gradients(net), {name: 2 * gradient for name, gradient in once.items()})


def test_the_teacher_stays_as_it_was():
    net, taught = supernet().train(), teacher().train()
    before = {name: tensor.clone() for name, tensor in taught.state_dict().items()}
    add_gradients(net, [SMALL.smallest()] * 2, IMAGES, LABELS, F.cross_entropy, teacher=taught)
    assert all(torch.equal(tensor, before[name]) for name, tensor in taught.state_dict().items())
    assert all(parameter.grad is None for parameter in taught.parameters())
    assert not torch.equal(before["stem.0.norm.running_mean"], net.network.stem[0].norm.running_mean)


def test_a_step_of_the_largest_network_without_a_teacher_is_a_plain_step_to_the_bit():
    net = random_supernet().train()
    plain = extract(net, SMALL.largest())
    torch.manual_seed(7)  # of the dropout
    add_gradients(net, [SMALL.largest()], IMAGES.float(), LABELS, F.cross_entropy)
    torch.manual_seed(7)
    F.cross_entropy(plain(IMAGES.float()), LABELS).backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(net.network.get_parameter(name).grad, parameter.grad)


def test_the_soft_cross_entropy_has_the_gradient_of_distillation_at_temperature_one():
    outputs, soft = torch.randn(2, 5, 7, dtype=torch.float64)
    outputs.requires_grad_()
    (mine,) = torch.autograd.grad(soft_cross_entropy(outputs, soft), outputs)
    kl = Classification().divergence(outputs, soft, torch.zeros(5), temperature=1.0) / 5
    (other,) = torch.autograd.grad(kl, outputs)
    assert torch.allclose(mine, other, atol=1e-6)  # the task computes in float32


def test_images_get_the_resolution_of_the_network():
    images = digits(2, 16)
    assert resized(images, None) is resized(images, 16) is images
    assert torch.allclose(resized(images, 8).mean(), images.mean(), atol=0.05)
    assert resized(torch.full((1, 1, 16, 16), 3.0), 8).tolist() == torch.full((1, 1, 8, 8), 3.0).tolist()


def test_a_step_has_one_teacher():
    with pytest.raises(ValueError, match="one teacher"):
        add_gradients(supernet(), [], IMAGES, LABELS, F.cross_entropy, teacher=teacher(), in_place=True)
