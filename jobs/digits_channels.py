"""Fewer channels instead of masks on 1,797 real handwritten digits: a network that is smaller, and faster, for real.

    python jobs/digits_channels.py                               # on this machine, results in ./runs; two minutes
    python jobs/digits_channels.py --smoke --storage /tmp/look   # two short rounds
    ray job submit --working-dir . -- python jobs/digits_channels.py --storage s3://bucket/digits

Needs the extra `channels`. The density of a round is the fraction of the dense network's multiplications.
"""

import sys

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Channels, Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="digits_channels",
    model="resnet8",
    model_options={"width": 16},
    data="digits",
    training=TrainingConfig(
        epochs=30,
        batch_size=64,
        schedule=StepDecay(0.1, drops=(15, 23)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    selection=Channels(unit="macs", round_to=2),
    path=Geometric.down_to(0.1, remove=0.2),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
