"""Once-for-All on ImageNet with the paper's settings: MobileNetV3, progressive shrinking, a search for three budgets.

    ray job submit -- python jobs/imagenet_ofa.py --data /data/imagenet --workers 32 --storage s3://bucket/imagenet
    python jobs/imagenet_ofa.py --smoke                   # tiny JPEG folder, same loader, networks and code

Of 7371^5 networks, each at 25 resolutions (Cai et al., ICLR 2020, section 3 and appendix B). The paper reports 76.0 %
top-1 at 230 million multiply-accumulates (72.4 without progressive shrinking), 76.9 after fine-tuning, and 80.0 at 595
million. Two things differ here: round 0 trains at the images' own resolution, and teaches at it.
"""

import sys
from functools import partial

from orchestrator.data.small_images import SMALL_IMAGES, write_small_images
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import PROGRESSIVE, Phases
from orchestrator.schedules import Cosine
from orchestrator.task import Classification
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

EXPERIMENT = Experiment(
    name="imagenet_ofa",
    model="ofa:mobilenetv3",
    data="imagefolder",
    task=Classification(label_smoothing=0.1),
    training=TrainingConfig(
        epochs=180,
        batch_size=2048,
        schedule=Cosine(2.6),
        optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=3e-5, decay_normalisation=False),
        precision="bf16",
        channels_last=True,
    ),
    path=Phases(PROGRESSIVE, search=FrontSearch(macs=(0.3, 0.5, 0.7), evaluations=1000, predictor="mlp")),
)

if __name__ == "__main__":
    shorten = partial(Experiment.shortened, batch_size=16, data_options=SMALL_IMAGES)
    sys.exit(main(EXPERIMENT, shorten=shorten, make_smoke_data=write_small_images))
