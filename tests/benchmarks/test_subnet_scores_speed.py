"""Networks of a supernet scored a second, against a bare loop that takes out, calibrates and measures the same ones."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

import pytest
import torch
from elastic import ALL, ELASTIC, begun, works

from orchestrator.amc.recalibrate import recalibrated
from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.elastic import Supernet
from orchestrator.ofa.extract import extract
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import Phases
from orchestrator.ofa.spaces import find_space
from orchestrator.randomness import one_thread

pytestmark = pytest.mark.bench
SEARCH = FrontSearch(macs=(0.7,), evaluations=16, first=16)
EXPERIMENT = dataclasses.replace(
    ELASTIC,
    data="digits",
    dense_epochs=0,
    path=Phases((dataclasses.replace(ALL[2], teacher="none"),), 16, SEARCH),
    training=dataclasses.replace(ELASTIC.training, batch_size=64),
)


def test_scores_a_second(tmp_path: Path) -> None:
    works(EXPERIMENT, tmp_path, 2)
    driver, trainer = begun(EXPERIMENT, tmp_path)
    work = driver.next_work()
    supernet = Supernet(find_space("small"), ImageArguments(10, (1, 8, 8)))
    supernet.load_state_dict(driver._rounds[1].state().model)
    supernet.eval()
    (images, _), (val_images, val_labels) = (trainer.batches._data.split(name).tensors for name in ("train", "val"))

    def bare() -> None:
        for candidate in work.generation.candidates:
            network = extract(supernet, candidate.structure.architecture)
            network = recalibrated(network, images[torch.randperm(len(images))[:2000]].split(64))
            with torch.no_grad():
                (network(val_images).argmax(1) == val_labels).double().mean()

    seconds: tuple[list[float], list[float]] = ([], [])
    with one_thread():
        for repeat in range(6):
            began = time.process_time()
            trainer.do(work) if repeat % 2 else bare()
            seconds[repeat % 2].append(time.process_time() - began)
    count = len(work.generation.candidates)
    ratio = statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:])
    print(
        f"\n{count / statistics.median(seconds[1]):.1f} networks scored a second of the processor; "
        f"as a part of a bare loop's: {ratio:.2f} (target 0.9)"
    )
    assert ratio > 0.9
