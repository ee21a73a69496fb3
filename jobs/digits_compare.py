"""Every retraining technique on 1,797 real handwritten digits, three seeds each, sharing what they have in common.

    python jobs/digits_compare.py                              # 354 rounds asked, fewer trained
    python jobs/digits_compare.py --smoke --storage /tmp/look  # two short rounds of every technique
    ray job submit --working-dir . -- python jobs/digits_compare.py --storage s3://bucket/digits

Of rounds with the same key one is trained: all techniques of a seed share its dense run. AMC stands beside
learning-rate rewinding at a density of its path: in one step, a search finds the density of each layer. The same step
without a search, over all layers together, tells what the search does and what the single step.
"""

import sys
from dataclasses import replace

from orchestrator.amc.amc_selection import Amc
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric, OneShot
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding, paper_techniques
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
ONE_STEP = replace(BASE, path=OneShot(BASE.densities()[10]), technique=LearningRateRewinding())  # to 10.7 %
AMC = Amc(unit="weights", mode="weights", evaluations=32, generation=8, finalists=2)
EXPERIMENTS += [
    replace(ONE_STEP, name="digits-one-step"),
    replace(ONE_STEP, name="digits-one-step-amc", selection=AMC),
]

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS))
