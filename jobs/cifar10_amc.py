"""AMC on CIFAR-10: ResNet-56 at half the multiplications, with the channels of each layer found by a search.

python jobs/cifar10_amc.py --data /data/cifar10                    # the folder that holds cifar-10-batches-py
python jobs/cifar10_amc.py --data /data/cifar10 --workers 4 --storage s3://bucket/cifar10
ray job submit --working-dir . -- python jobs/cifar10_amc.py --data /data/cifar10 --storage s3://bucket/cifar10
python jobs/cifar10_amc.py --data /data/cifar10 --smoke            # a few candidates, two short rounds

Needs the extra `channels`. The workers score the candidates of a generation side by side. The paper (He et al., ECCV
2018) reports 91.9 % for this network at half the FLOPs, after 92.8 %.
"""

import sys
from functools import partial

from orchestrator.amc.agents import Cem
from orchestrator.amc.amc_selection import Amc
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import OneShot
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="cifar10_amc",
    model="resnet56",
    data="cifar10",
    training=TrainingConfig(
        epochs=182,
        batch_size=128,
        schedule=StepDecay(0.1, drops=(91, 136)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=OneShot(0.5),
    selection=Amc(unit="macs", agent=Cem(), evaluations=128, generation=16, round_to=1),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, shorten=partial(Experiment.shortened, data_options={"samples": 5000})))
