"""Five retraining techniques on a character language model, three seeds each: what each costs, and what it leaves.

    python jobs/chars_compare.py                              # on this machine, results in ./runs and ./report
    python jobs/chars_compare.py --smoke --storage /tmp/look  # two short rounds of each technique on less text
    ray job submit --working-dir . -- python jobs/chars_compare.py --storage s3://bucket/chars

The objective is bits per character, and less is better. All techniques of a seed share its dense run, which is that of
jobs/chars_lr.py. `LinearRestart` (LLR) retrains for a tenth of the epochs of the others, which is its point.
"""

import sys
from dataclasses import replace
from functools import partial

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import Cosine
from orchestrator.task import Tokens
from orchestrator.techniques import FineTuning, LearningRateRewinding, LinearRestart, WeightRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW

BASE = Experiment(
    name="chars",
    model="char_gru",
    model_options={"width": 128},
    data="chars",
    data_options={"length": 64},
    task=Tokens(unit="character"),
    training=TrainingConfig(
        epochs=10,
        batch_size=32,
        schedule=Cosine(1e-2, warmup_epochs=1),
        optimizer=AdamW(weight_decay=0.01),
        clip_norm=1.0,
    ),
    path=Geometric(remove=0.5, rounds=5),
    seeds=(0, 1, 2),
)
TECHNIQUES = {
    "learning-rate-rewinding": LearningRateRewinding(),
    "fine-tuning": FineTuning(),
    "weight-rewinding": WeightRewinding(9),
    "lottery-ticket": WeightRewinding(),
    "linear-restart": LinearRestart(1),
}
EXPERIMENTS = [replace(BASE, name=f"chars-{name}", technique=technique) for name, technique in TECHNIQUES.items()]

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS, shorten=partial(Experiment.shortened, data_options={"characters": 20_000})))
