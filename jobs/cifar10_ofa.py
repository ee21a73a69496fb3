"""Once-for-All on CIFAR-10: one supernet of 1,764 networks, and the best for three budgets.

    python jobs/cifar10_ofa.py --data /data/cifar10                    # the folder that holds cifar-10-batches-py
    python jobs/cifar10_ofa.py --data /data/cifar10 --workers 4 --storage s3://bucket/cifar10
    ray job submit --working-dir . -- python jobs/cifar10_ofa.py --data /data/cifar10 --storage s3://bucket/cifar10
    python jobs/cifar10_ofa.py --data /data/cifar10 --smoke            # short phases, a few networks measured

Progressive shrinking with the paper's order, sub-networks a step and ratios of rates (Cai et al., ICLR 2020), for
images of 32 pixels. `orchestrator export --round KEY` writes the networks found as files.
"""

import sys
from functools import partial

from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import Phase, Phases
from orchestrator.ofa.stage import Largest
from orchestrator.schedules import Cosine
from orchestrator.task import Classification
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

PHASES = (
    Phase(125, 0.037, 5, 1, Largest(depths=1, expands=1)),
    Phase(125, 0.0092, 5, 2, Largest(expands=1)),
    Phase(25, 0.0031, 0, 4, Largest(expands=2)),
    Phase(125, 0.0092, 5, 4),
)
EXPERIMENT = Experiment(
    name="cifar10_ofa",
    model="ofa:small",
    data="cifar10",
    task=Classification(label_smoothing=0.1),
    training=TrainingConfig(
        epochs=180,
        batch_size=128,
        schedule=Cosine(0.1, warmup_epochs=5),
        optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=3e-5, decay_normalisation=False),
    ),
    path=Phases(PHASES, batch_size=128, search=FrontSearch(macs=(0.3, 0.5, 0.7), evaluations=176)),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, shorten=partial(Experiment.shortened, data_options={"samples": 5000})))
