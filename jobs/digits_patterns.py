"""What patterns of zeros cost in accuracy on digits: blocks, 2:4 and no pattern at equal density, three seeds.

    python jobs/digits_patterns.py                              # tables here, page in ./report; 13 busy minutes
    python jobs/digits_patterns.py --smoke --storage /tmp/look  # two short rounds of each
    ray job submit --working-dir . -- python jobs/digits_patterns.py --storage s3://bucket/digits

All patterns of a seed share its dense run, so the page pairs them by seed. `orchestrator targets` measures what each of
them gains.
"""

import sys
from dataclasses import replace

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import AtMost, Blocks, Explicit, Global
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

BASE = Experiment(
    name="digits_patterns",
    model="resnet8",
    model_options={"width": 16},
    data="digits",
    training=TrainingConfig(
        epochs=30,
        batch_size=64,
        schedule=StepDecay(0.1, drops=(15, 23)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=Explicit((0.5, 0.25, 0.1, 0.05)),
    technique=LearningRateRewinding(),
    seeds=(0, 1, 2),
)
SELECTIONS = {"masks": Global(), "blocks": Global(Blocks(4)), "2-of-4": Global(AtMost(2, of=4))}
EXPERIMENTS = [
    replace(BASE, name=f"digits_patterns-{name}", selection=selection) for name, selection in SELECTIONS.items()
]

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS))
