"""A step of several sub-networks has the mean of their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from supernets import SMALL, digits, random_supernet

from orchestrator.models.ofa_networks import ImageArguments, build_network, resized
from orchestrator.ofa.extract import extract
from orchestrator.ofa.phases import PROGRESSIVE, SINGLE_STAGE
from orchestrator.ofa.subnet_step import add_gradients
from orchestrator.task import Classification

IMAGES, LABELS = digits(6).double(), torch.arange(6)


def supernet():
    """Return a supernet in evaluation mode, in which no forward pass changes it."""
    return random_supernet().double()


def teacher():
    torch.manual_seed(4)
    return build_network(SMALL.largest(), ImageArguments(10, (1, 8, 8))).double()


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def separately(net, architecture, loss):
    net.zero_grad(set_to_none=True)
    loss(net(IMAGES, architecture)).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def mean_of(parts):
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def used(found):
    """Return gradients with zeros for what no network used, as workers average them."""
    return {name: torch.zeros(()) if gradient is None else gradient for name, gradient in found.items()}


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-7), name  # the divergence is in float32


def loss(outputs):
    return F.cross_entropy(outputs, LABELS, reduction="sum")


def divergence(outputs, taught):
    return Classification().divergence(outputs, taught, LABELS, temperature=1.0)


def step(net, architectures, images=IMAGES, **options):
    """Add gradients as a step of one worker does, whose batch is all images."""
    return add_gradients(net, architectures, images, loss, divergence, share=1 / len(images), **options)


@pytest.mark.parametrize("with_teacher", [False, True])
def test_the_gradient_of_a_step_is_the_mean_of_separate_ones(with_teacher):
    net, taught = supernet(), teacher() if with_teacher else None
    architectures = PROGRESSIVE[-1].draw(SMALL, 5)
    value = step(net, architectures, teacher=taught)
    found, losses = used(gradients(net)), []

    def mean_loss(outputs):
        total = F.cross_entropy(outputs, LABELS)
        if taught is not None:
            soft = taught.eval()(IMAGES).detach().softmax(1)
            total = total + (soft * (soft.log() - outputs.log_softmax(1))).sum(1).mean()
        losses.append(float(total.detach()))
        return total

    check_equal(found, mean_of([separately(net, each, mean_loss) for each in architectures]))
    assert float(value) / len(IMAGES) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_the_shares_of_workers_add_up_to_the_gradient_of_the_whole_batch():
    """Six images are 3 + 2 + 1; each worker's losses are divided by the number of all images."""
    net, architectures = supernet(), PROGRESSIVE[-1].draw(SMALL, 5)
    step(net, architectures, teacher=teacher())
    whole = used(gradients(net))
    net.zero_grad()
    for part in (slice(0, 3), slice(3, 5), slice(5, 6)):
        labels = LABELS[part]
        add_gradients(
            net,
            architectures,
            IMAGES[part],
            lambda outputs, labels=labels: F.cross_entropy(outputs, labels, reduction="sum"),
            divergence,
            share=1 / 6,
            teacher=teacher(),
        )
    check_equal(used(gradients(net)), whole)


def test_in_place_the_others_learn_only_from_the_first():
    net, architectures = supernet(), SINGLE_STAGE[0].draw(SMALL, 6)
    step(net, architectures, in_place=True)
    found = used(gradients(net))
    soft = net(IMAGES).detach().softmax(1)
    first = separately(net, architectures[0], lambda outputs: F.cross_entropy(outputs, LABELS))
    others = [
        separately(net, each, lambda outputs: -(soft * outputs.log_softmax(1)).sum(1).mean())
        for each in architectures[1:]
    ]
    check_equal(found, mean_of([first, *others]))


def test_gradients_are_added_to_those_that_are_there():
    net = supernet()
    step(net, [SMALL.largest()])
    once = {name: gradient.clone() for name, gradient in used(gradients(net)).items()}
    step(net, [SMALL.largest()])
    check_equal(used(gradients(net)), {name: 2 * gradient for name, gradient in once.items()})


def test_the_teacher_stays_as_it_was():
    net, taught = supernet().train(), teacher().train()
    before = {name: tensor.clone() for name, tensor in taught.state_dict().items()}
    step(net, [SMALL.smallest()] * 2, teacher=taught)
    assert all(torch.equal(tensor, before[name]) for name, tensor in taught.state_dict().items())
    assert all(parameter.grad is None for parameter in taught.parameters())
    assert not torch.equal(before["stem.0.norm.running_mean"], net.network.stem[0].norm.running_mean)


def test_a_step_of_the_largest_network_without_a_teacher_is_a_plain_step_to_the_bit():
    net = random_supernet().train()
    plain = extract(net, SMALL.largest())
    torch.manual_seed(7)  # of the dropout
    step(net, [SMALL.largest()], IMAGES.float())
    torch.manual_seed(7)
    (loss(plain(IMAGES.float())) * (1 / 6)).backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(net.network.get_parameter(name).grad, parameter.grad)


def test_images_get_the_resolution_of_the_network():
    images = digits(2, 16)
    assert resized(images, None) is resized(images, 16) is images
    assert resized(images, 20) is images  # no image is enlarged
    assert torch.allclose(resized(images, 8).mean(), images.mean(), atol=0.05)
    assert resized(torch.full((1, 1, 16, 16), 3.0), 8).tolist() == torch.full((1, 1, 8, 8), 3.0).tolist()


def test_a_step_has_one_teacher():
    with pytest.raises(ValueError, match="one teacher"):
        step(supernet(), [], teacher=teacher(), in_place=True)
