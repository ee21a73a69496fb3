"""Fewer channels instead of masks on ImageNet: a ResNet-50 of fewer multiplications, fast on any runtime.

    ray job submit -- python jobs/imagenet_channels.py --data /data/imagenet --workers 8 --storage s3://bucket/imagenet
    python jobs/imagenet_channels.py --smoke              # tiny JPEG folder, same loader, model and code; 2 minutes

Needs the extra `channels`. The dense run is that of jobs/imagenet_lr.py: in the same storage it is trained once.
"""

import sys
from functools import partial

from orchestrator.data.small_images import SMALL_IMAGES, write_small_images
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Channels, Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="imagenet_channels",
    model="torchvision:resnet50",
    data="imagefolder",
    training=TrainingConfig(
        epochs=90,
        batch_size=1024,
        schedule=StepDecay(0.4, drops=(30, 60, 80), warmup_epochs=5),
        optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=1e-4, decay_normalisation=False),
        precision="bf16",
        channels_last=True,
    ),
    selection=Channels(unit="macs", round_to=8),
    path=Geometric.down_to(0.25, remove=0.3),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    shorten = partial(Experiment.shortened, batch_size=16, data_options=SMALL_IMAGES)
    sys.exit(main(EXPERIMENT, shorten=shorten, make_smoke_data=write_small_images))
