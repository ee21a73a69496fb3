"""A supernet that trains in a second: an experiment, and its works counted and stopped."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data
from orchestrator.driver import Driver
from orchestrator.experiment import Experiment
from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import Phase, Phases
from orchestrator.ofa.stage import Largest
from orchestrator.problem import load_problem
from orchestrator.schedules import Cosine
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD
from orchestrator.training.trainer import Trainer
from orchestrator.work.preparation import Work


def data() -> Data:
    """Three classes of 4x4 images, told apart by where they are bright; noisy, so that no accuracy is 0 or 1."""
    generator = torch.Generator().manual_seed(5)

    def split(count: int) -> TensorDataset:
        labels = torch.arange(count) % 3
        images = torch.randn((count, 1, 4, 4), generator=generator)
        images[torch.arange(count), 0, labels, labels] += 2.5
        return TensorDataset(images, labels)

    return image_data(train=split(48), val=split(30), test=split(31), num_classes=3, input_shape=(1, 4, 4))


ALL = (
    Phase(1, 0.05, 0, 1, Largest(depths=1, expands=1)),
    Phase(2, 0.05, 0.5, 2, Largest(expands=1)),
    Phase(1, 0.05, 0, 2),
)
SEARCH = FrontSearch(
    macs=(0.4, 0.7), evaluations=6, first=4, batch=2, calibration=32, evolution=SubnetEvolution(8, generations=4)
)
ELASTIC = Experiment(
    name="elastic",
    model="ofa:small",
    data="elastic:data",
    training=TrainingConfig(
        epochs=1, batch_size=16, schedule=Cosine(0.05), optimizer=SGD(weight_decay=1e-4, decay_normalisation=False)
    ),
    path=Phases(ALL, batch_size=16, search=SEARCH),
)


def begun(experiment: Experiment, folder: Path) -> tuple[Driver, Trainer]:
    """Return what a new process that runs `experiment` has."""
    problem, loaded = load_problem(experiment)
    return Driver(experiment, Ledger(open_store(str(folder))), problem), Trainer(experiment, loaded)


def works(experiment: Experiment, folder: Path, count: int | None = None) -> list[Work]:
    """Do the next `count` works, or all, and be gone. Return them."""
    driver, trainer = begun(experiment, folder)
    done: list[Work] = []
    while (count is None or len(done) < count) and (work := driver.next_work()) is not None:
        driver.finish(work, trainer.do(work))
        done.append(work)
    return done
