"""Learning-rate rewinding of a character language model, on the manual of Python or on any other text.

python jobs/chars_lr.py                              # on this machine, results in ./runs
python jobs/chars_lr.py --data ~/shakespeare.txt     # another text, in UTF-8
python jobs/chars_lr.py --smoke --storage /tmp/look  # two short rounds on less text
ray job submit --working-dir . -- python jobs/chars_lr.py --storage s3://bucket/chars

The objective is bits per character, and less is better. A network that knows only how frequent each character is needs
4.7 for the manual. On several nodes, the text lies at the same place on each of them.
"""

import sys
from functools import partial

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import Cosine
from orchestrator.task import Tokens
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW

# The other network: MODEL, OPTIONS, RATE = "char_transformer", {"width": 128, "depth": 2, "heads": 4}, 3e-3
MODEL, OPTIONS, RATE = "char_gru", {"width": 128}, 1e-2

EXPERIMENT = Experiment(
    name="chars_lr",
    model=MODEL,
    model_options=OPTIONS,
    data="chars",
    data_options={"length": 64},
    task=Tokens(unit="character"),
    training=TrainingConfig(
        epochs=10,
        batch_size=32,
        schedule=Cosine(RATE, warmup_epochs=1),
        optimizer=AdamW(weight_decay=0.01),
        clip_norm=1.0,
    ),
    path=Geometric(remove=0.5, rounds=5),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, shorten=partial(Experiment.shortened, data_options={"characters": 20_000})))
