"""AMC on ImageNet: MobileNetV2 and ResNet-50 at half the multiplications, with the channels found by a search.

    ray job submit -- python jobs/imagenet_amc.py --data /data/imagenet --workers 8 --storage s3://bucket/imagenet
    python jobs/imagenet_amc.py --smoke                   # tiny JPEG folder, same loader, models and code

Needs the extra `channels`. Candidates are not trained before their score, as in the paper (He et al., ECCV 2018): the
statistics of their batch norm are measured again on training images. Only finalists are trained, for an epoch. The
dense run of ResNet-50 is that of jobs/imagenet_lr.py: in the same storage it is trained once.

The report shows the paper's figures beside ours. Of MobileNetV2 there is one at 70 % of the multiplications, which is
the first round here. Of ResNet-50 there is one for single weights, not for channels.
"""

import sys
from dataclasses import replace
from functools import partial

from orchestrator.amc.agents import Cem
from orchestrator.amc.amc_selection import Amc
from orchestrator.data.small_images import SMALL_IMAGES, write_small_images
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Explicit, OneShot
from orchestrator.schedules import Cosine, StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

BASE = Experiment(
    name="imagenet_amc-resnet50",
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
    path=OneShot(0.5),
    selection=Amc(
        unit="macs", agent=Cem(), evaluations=256, generation=32, tune_epochs=0, finalist_epochs=1, reconstruct="bn"
    ),
    technique=LearningRateRewinding(),
)
MOBILENET = replace(
    BASE,
    name="imagenet_amc-mobilenet_v2",
    model="torchvision:mobilenet_v2",
    training=replace(
        BASE.training,
        epochs=150,
        batch_size=256,
        schedule=Cosine(0.05),
        optimizer=SGD(momentum=0.9, weight_decay=4e-5),
    ),
    path=Explicit((0.7, 0.5)),
)
EXPERIMENTS = [MOBILENET, BASE]

if __name__ == "__main__":
    shorten = partial(Experiment.shortened, batch_size=16, data_options=SMALL_IMAGES)
    sys.exit(main(EXPERIMENTS, shorten=shorten, make_smoke_data=write_small_images))
