"""Learning-rate rewinding on 1,797 real handwritten digits: a dense network and 14 rounds in about 80 seconds.

python jobs/digits_lr.py                             # on this machine, results in ./runs
python jobs/digits_lr.py --smoke --storage /tmp/look # two short rounds
python jobs/digits_lr.py --storage s3://bucket/digits --workers 4
ray job submit --working-dir . -- python jobs/digits_lr.py --storage s3://bucket/digits
"""

import sys

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="digits_lr",
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
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
