"""Learning-rate rewinding on ImageNet: ResNet-50 with the settings of Renda, Frankle and Carbin (ICLR 2020).

    ray job submit -- python jobs/imagenet_lr.py --data /data/imagenet --workers 8 --storage s3://bucket/imagenet
    python jobs/imagenet_lr.py --data /data/imagenet --workers 4:8 --storage s3://bucket/imagenet   # elastic
    python jobs/imagenet_lr.py --smoke                    # tiny JPEG folder, same loader, model and code; 2 minutes

--data holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, at the same place on every node; or it is a bucket with the same
images, packed once:

    orchestrator dataset pack /data/imagenet s3://bucket/imagenet-packed
    ray job submit -- python jobs/imagenet_lr.py --data s3://bucket/imagenet-packed --workers 8 --storage s3://bucket/imagenet
"""

import dataclasses
import sys
from pathlib import Path

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

SMOKE = dataclasses.replace(
    EXPERIMENT,
    name="imagenet_lr_smoke",
    data_options={"image_size": 64, "val_fraction": 0.25},
    training=dataclasses.replace(
        EXPERIMENT.training, epochs=2, batch_size=16, schedule=StepDecay(0.01, drops=(1,), warmup_epochs=1)
    ),
    path=Geometric(remove=0.2, rounds=1),
)


def make_smoke_data(root: Path) -> None:
    """Fill `root` in ImageNet's layout: 64 + 16 JPEGs in four classes that differ by a tint under noise."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, images in (("train", 64), ("val", 16)):
        for index in range(images):
            file = root / split / f"class{index % 4}" / f"{index:03}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            tint = np.array([index % 2, index // 2 % 2, 0]) * 80
            Image.fromarray((random.integers(0, 170, (80, 100, 3)) + tint).astype(np.uint8)).save(file)


if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, smoke=SMOKE, doc=__doc__, make_smoke_data=make_smoke_data))
