"""The comparison of Renda, Frankle and Carbin (ICLR 2020) on CIFAR-10: ResNet-20, every technique, three seeds.

    ray job submit --working-dir . -- python jobs/cifar10_compare.py --data /data/cifar10 --storage s3://bucket/cifar10
    python jobs/cifar10_compare.py --data /data/cifar10 --max-concurrent 4    # on one machine with 4 GPUs
    python jobs/cifar10_compare.py --data /data/cifar10 --smoke               # short rounds on a ninth of the images

--data holds cifar-10-batches-py, at the same place on every node. The report draws the published medians beside ours.
"""

import sys
from dataclasses import replace
from functools import partial

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import paper_techniques
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

BASE = Experiment(
    name="cifar10",
    model="resnet20",
    data="cifar10",
    training=TrainingConfig(
        epochs=182,
        batch_size=128,
        schedule=StepDecay(0.1, drops=(91, 136)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=Geometric.down_to(0.05, remove=0.2),
    seeds=(0, 1, 2),
)
# 90 % of the 182 epochs, which the paper recommends for weight rewinding where nothing is known.
EXPERIMENTS = [
    replace(BASE, name=f"cifar10-{name}", technique=technique)
    for name, technique in paper_techniques(rewind=164).items()
]

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS, shorten=partial(Experiment.shortened, data_options={"samples": 5000})))
