"""Learning-rate rewinding of a network that spells out how English words are spoken: encoder, decoder, attention.

    python jobs/g2p_lr.py                              # on this machine, results in ./runs
    python jobs/g2p_lr.py --smoke --storage /tmp/look  # two short rounds on a few words
    ray job submit --working-dir . -- python jobs/g2p_lr.py --storage s3://bucket/g2p

Needs the extra `text`. The words are those of CMUdict, without stress, and no word is in two splits. Training knows the
phones before the one that it asks for. The objective, the phone error rate, is measured on what the network decodes by
itself; sequence_error_rate is the share of words with any error.
"""

import sys
from functools import partial

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import Cosine
from orchestrator.techniques import LearningRateRewinding
from orchestrator.text_task import Transcription
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW

EXPERIMENT = Experiment(
    name="g2p_lr",
    model="g2p_gru",
    model_options={"width": 96},
    data="cmudict",
    data_options={"words": 40_000},
    task=Transcription(unit="phone"),
    training=TrainingConfig(
        epochs=10,
        batch_size=128,
        schedule=Cosine(5e-3, warmup_epochs=1),
        optimizer=AdamW(weight_decay=0.01),
        clip_norm=1.0,
    ),
    path=Geometric.down_to(0.05, remove=0.4),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, shorten=partial(Experiment.shortened, data_options={"words": 2_000})))
