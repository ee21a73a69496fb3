"""Learning-rate rewinding on CIFAR-10: ResNet-20 with the settings of Renda, Frankle and Carbin (ICLR 2020).

python jobs/cifar10_lr.py --data /data/cifar10                    # the folder that holds cifar-10-batches-py
python jobs/cifar10_lr.py --data /data/cifar10 --workers 4 --storage s3://bucket/cifar10
ray job submit --working-dir . -- python jobs/cifar10_lr.py --data /data/cifar10 --storage s3://bucket/cifar10
python jobs/cifar10_lr.py --data /data/cifar10 --smoke            # two short rounds on a ninth of the images
"""

import sys
from functools import partial

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="cifar10_lr",
    model="resnet20",
    data="cifar10",
    training=TrainingConfig(
        epochs=182,
        batch_size=128,
        schedule=StepDecay(0.1, drops=(91, 136)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=Geometric.down_to(0.05, remove=0.2),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, shorten=partial(Experiment.shortened, data_options={"samples": 5000})))
