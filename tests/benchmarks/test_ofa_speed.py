"""What Once-for-All costs: a step beside bare steps, taking a network out, and searching on a predictor."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch
import torch.nn.functional as F

from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.costs import CostModel
from orchestrator.ofa.elastic import Supernet
from orchestrator.ofa.evolution import Limit, SubnetEvolution
from orchestrator.ofa.extract import extract
from orchestrator.ofa.phases import PROGRESSIVE
from orchestrator.ofa.predictor import OneHot, fit
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet_step import add_gradients
from orchestrator.task import Classification

pytestmark = pytest.mark.bench

STEP_RATIO = 1.1
EXTRACT_SECONDS = 0.05  # on two quiet cores
SEARCH_SECONDS = 10.0  # of the processor, for 50,000 candidates


@pytest.mark.parametrize(
    ("name", "shape", "batch", "repeats"), [("small", (1, 8, 8), 64, 30), ("mobilenetv3", (3, 128, 128), 16, 5)]
)
def test_a_step_beside_bare_steps_of_the_same_networks(name, shape, batch, repeats):
    space = find_space(name)
    supernet = Supernet(space, ImageArguments(10, shape)).train()
    images, labels = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    loss = partial(F.cross_entropy, target=labels, reduction="sum")
    divergence = partial(Classification().divergence, targets=labels, temperature=1.0)
    optimizer, ratios = torch.optim.SGD(supernet.parameters(), lr=0.01, momentum=0.9), []
    for seed in range(repeats + 1):
        resolution = space.smallest().resolution
        drawn = [replace(each, resolution=resolution) for each in PROGRESSIVE[-1].draw(space, seed)]
        networks = [extract(supernet, architecture) for architecture in drawn]
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9) for network in networks]
        start = time.process_time()
        optimizer.zero_grad()
        add_gradients(supernet, drawn, images, loss, divergence, share=1 / batch)
        optimizer.step()
        middle = time.process_time()
        for network, own in zip(networks, optimizers, strict=True):
            own.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            own.step()
        ratios.append((middle - start) / (time.process_time() - middle))
    ratio = statistics.median(ratios[1:])  # the first one builds what later ones share
    print(f"{name}: a step of {len(drawn)} sub-networks takes {ratio:.3f} of bare steps")
    assert ratio < STEP_RATIO


@pytest.mark.parametrize("largest", [False, True], ids=["any", "largest"])
@pytest.mark.parametrize("name", ["mobilenetv3", "resnet50d"])
def test_taking_a_network_out(name, largest):
    """In processor time, without the time for copying, which has the speed of the memory: up to 193 MB."""
    space = find_space(name)
    supernet, rng, taken, copied = Supernet(space, ImageArguments(1000, (3, 224, 224))), Random(0), [], []
    for _ in range(12):
        architecture = space.largest() if largest else space.sample(rng)
        start = time.process_time()
        network = extract(supernet, architecture)
        taken.append(time.process_time() - start)
        start = time.process_time()
        copies = [tensor.clone() for tensor in network.state_dict().values()]
        copied.append(time.process_time() - start)
        del copies
    rest = [max(0.0, whole - copy) for whole, copy in zip(taken, copied, strict=True)]
    print(f"{name}: extraction {1000 * statistics.median(taken):.1f} ms, of which not copying "
          f"{1000 * statistics.median(rest):.1f} ms")  # fmt: skip
    assert statistics.median(rest) < EXTRACT_SECONDS


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_evolution_on_a_predictor(kind):
    space, rng = find_space("mobilenetv3"), Random(0)
    known = [space.sample(rng) for _ in range(64)]
    predict = fit(kind, OneHot(space), known, [rng.random() for _ in known])
    budget = Limit("macs", 230e6, CostModel(ImageArguments(1000, (3, 224, 224))))
    evolution = SubnetEvolution(generations=660)  # 75 children each
    start = time.process_time()
    found = evolution.run(space, budget, predict, rng)
    taken = time.process_time() - start
    print(f"{kind}: 49,600 candidates, {len(found):,} of them distinct, in {taken:.1f} s")
    assert taken < SEARCH_SECONDS
