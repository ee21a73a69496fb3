"""Fewer channels instead of masks on ImageNet: a ResNet-50 of fewer multiplications, fast on any runtime.

    ray job submit -- python jobs/imagenet_channels.py --data /data/imagenet --workers 8 --storage s3://bucket/imagenet
    python jobs/imagenet_channels.py --smoke              # tiny JPEG folder, same loader, model and code; 2 minutes

Needs the extra `channels`. The dense run is that of jobs/imagenet_lr.py: in the same storage it is trained once.
"""

import dataclasses
import sys

import imagenet_lr

from orchestrator.distributed.job import main
from orchestrator.pruning import Channels, Explicit, Geometric

EXPERIMENT = dataclasses.replace(
    imagenet_lr.EXPERIMENT,
    name="imagenet_channels",
    selection=Channels(unit="macs", round_to=8),
    path=Geometric.down_to(0.25, remove=0.3),
)

SMOKE = dataclasses.replace(
    imagenet_lr.SMOKE, name="imagenet_channels_smoke", selection=EXPERIMENT.selection, path=Explicit([0.5])
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, smoke=SMOKE, doc=__doc__, make_smoke_data=imagenet_lr.make_smoke_data))
