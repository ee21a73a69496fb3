"""Define the experiments that `orchestrator run NAME` knows: small ones, on data of a required package."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.experiment import Experiment
from orchestrator.pruning.path import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

DIGITS = Experiment(
    name="digits",
    model="resnet8",
    model_options={"width": 8},
    data="digits",
    training=TrainingConfig(
        epochs=30,
        batch_size=64,
        schedule=StepDecay(0.1, drops=(15, 23)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=Geometric.down_to(0.05, remove=0.2),
)
EXAMPLES: Mapping[str, Experiment] = {"digits": DIGITS}
