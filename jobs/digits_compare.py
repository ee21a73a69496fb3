"""Every retraining technique on 1,797 real handwritten digits, three seeds each, sharing what they have in common.

    python jobs/digits_compare.py                              # 342 rounds asked, fewer trained
    python jobs/digits_compare.py --smoke --storage /tmp/look  # two short rounds of every technique
    ray job submit --working-dir . -- python jobs/digits_compare.py --storage s3://bucket/digits

Of rounds with the same key one is trained: all techniques of a seed share its dense run.
"""

import sys
from dataclasses import replace

from digits_lr import EXPERIMENT, SMOKE

from orchestrator.distributed.sweep_job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.techniques import (
    FineTuning,
    LearningRateRewinding,
    LowRateWeightRewinding,
    RandomReinitialisation,
    WeightRewinding,
)


def compare(base: Experiment, rewind: int, seeds: tuple[int, ...]) -> list[Experiment]:
    """`base` with every technique; `rewind` is t, the epochs that weight rewinding retrains."""
    techniques = {
        "learning-rate-rewinding": LearningRateRewinding(),
        "fine-tuning": FineTuning(),
        "weight-rewinding": WeightRewinding(rewind),
        "lottery-ticket": WeightRewinding(),
        "low-rate-weight-rewinding": LowRateWeightRewinding(rewind),
        "random-reinitialisation": RandomReinitialisation(),
    }
    return [
        replace(base, name=f"{base.name}-{name}", technique=technique, seeds=seeds)
        for name, technique in techniques.items()
    ]


LONGER = replace(EXPERIMENT, name="digits", path=Geometric.down_to(0.02, remove=0.2))
SHORT = replace(SMOKE, name="digits-smoke")

if __name__ == "__main__":
    sys.exit(main(compare(LONGER, 27, (0, 1, 2)), smoke=compare(SHORT, 1, (0,)), doc=__doc__))
