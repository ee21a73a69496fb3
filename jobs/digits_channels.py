"""Fewer channels instead of masks on 1,797 real handwritten digits: a network that is smaller, and faster, for real.

    python jobs/digits_channels.py                               # on this machine, results in ./runs; two minutes
    python jobs/digits_channels.py --smoke --storage /tmp/look   # two short rounds
    ray job submit --working-dir . -- python jobs/digits_channels.py --storage s3://bucket/digits

Needs the extra `channels`. The density of a round is the fraction of the dense network's multiplications.
"""

import dataclasses
import sys

import digits_lr

from orchestrator.distributed.job import main
from orchestrator.pruning import Channels, Geometric

EXPERIMENT = dataclasses.replace(
    digits_lr.EXPERIMENT,
    name="digits_channels",
    model_options={"width": 16},
    selection=Channels(unit="macs", round_to=2),
    path=Geometric.down_to(0.1, remove=0.2),
)

SMOKE = dataclasses.replace(
    digits_lr.SMOKE,
    name="digits_channels_smoke",
    model_options=EXPERIMENT.model_options,
    selection=EXPERIMENT.selection,
    path=Geometric(remove=0.4, rounds=2),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, smoke=SMOKE, doc=__doc__))
