"""Learning-rate rewinding on ImageNet: ResNet-50 with the settings of Renda, Frankle and Carbin (ICLR 2020).

    ray job submit -- python jobs/imagenet_lr.py --data /data/imagenet --workers 8 --storage s3://bucket/imagenet
    python jobs/imagenet_lr.py --data /data/imagenet --workers 4:8 --storage s3://bucket/imagenet   # elastic
    python jobs/imagenet_lr.py --smoke                    # tiny JPEG folder, same loader, model and code; 2 minutes

--data holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, at the same place on every node; or it is a bucket with the same
images, packed once:

    orchestrator dataset pack /data/imagenet s3://bucket/imagenet-packed
    ray job submit -- python jobs/imagenet_lr.py --data s3://bucket/imagenet-packed --workers 8 --storage s3://bucket/imagenet
"""

import sys
from functools import partial

from orchestrator.data.small_images import SMALL_IMAGES, write_small_images
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Geometric
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="imagenet_lr",
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
    path=Geometric.down_to(0.1, remove=0.2),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    shorten = partial(Experiment.shortened, batch_size=16, data_options=SMALL_IMAGES)
    sys.exit(main(EXPERIMENT, shorten=shorten, make_smoke_data=write_small_images))
