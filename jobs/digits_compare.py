"""Every retraining technique on 1,797 real handwritten digits, three seeds each, sharing what they have in common.

    python jobs/digits_compare.py                              # 342 rounds asked, fewer trained
    python jobs/digits_compare.py --smoke --storage /tmp/look  # two short rounds of every technique
    ray job submit --working-dir . -- python jobs/digits_compare.py --storage s3://bucket/digits

Of rounds with the same key one is trained: all techniques of a seed share its dense run.
"""

import sys
from dataclasses import replace

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import paper_techniques
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

BASE = Experiment(
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
    path=Geometric.down_to(0.02, remove=0.2),
    seeds=(0, 1, 2),
)
EXPERIMENTS = [
    replace(BASE, name=f"digits-{name}", technique=technique) for name, technique in paper_techniques(rewind=27).items()
]

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS))
