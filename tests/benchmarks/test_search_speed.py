"""Candidates scored a second, against a bare loop that cuts, trains and measures the same networks."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from searching import AMC, SEARCHED, begun, works

from orchestrator.data.load import load_data
from orchestrator.models.build import build_model
from orchestrator.pruning import OneShot
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.randomness import one_thread

pytestmark = pytest.mark.bench
EXPERIMENT = dataclasses.replace(
    SEARCHED,
    model="resnet14",
    model_options={"width": 8},
    data="digits",
    path=OneShot(0.1),
    selection=dataclasses.replace(AMC, evaluations=8, generation=8),
)


def test_scores_a_second(tmp_path: Path) -> None:
    works(EXPERIMENT, tmp_path, 1)
    driver, trainer, data = begun(EXPERIMENT, tmp_path)
    work = driver.next_work()
    dense = build_model(EXPERIMENT.model, EXPERIMENT.model_options, load_data("digits", {}).model_arguments, seed=0)
    (images, labels), (val_images, val_labels) = data.train.tensors, data.val.tensors
    batch = EXPERIMENT.training.batch_size

    def bare() -> None:
        for candidate in work.generation.candidates:
            network = shrink(copy.deepcopy(dense), candidate.structure.channels)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True)
            for places in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
                optimizer.zero_grad()
                F.cross_entropy(network(images[places]), labels[places]).backward()
                optimizer.step()
            with torch.no_grad():
                (network.eval()(val_images).argmax(1) == val_labels).double().mean()

    seconds: tuple[list[float], list[float]] = ([], [])
    with one_thread():
        for repeat in range(8):
            began = time.perf_counter()
            trainer.do(work) if repeat % 2 else bare()
            seconds[repeat % 2].append(time.perf_counter() - began)
    ratio = statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:])
    print(f"\ncandidates a second / those of a bare loop: {ratio:.2f} (target 0.9)")
    assert ratio > 0.8
