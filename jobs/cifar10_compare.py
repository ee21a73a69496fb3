"""The comparison of Renda, Frankle and Carbin (ICLR 2020) on CIFAR-10: ResNet-20, every technique, three seeds.

    ray job submit --working-dir . -- python jobs/cifar10_compare.py --data /data/cifar10 --storage s3://bucket/cifar10
    python jobs/cifar10_compare.py --data /data/cifar10 --max-concurrent 4    # on one machine with 4 GPUs
    python jobs/cifar10_compare.py --data /data/cifar10 --smoke               # one epoch a round

--data holds cifar-10-batches-py, at the same place on every node. The report draws the published medians beside ours.
"""

import sys
from dataclasses import replace

from cifar10_lr import EXPERIMENT, SMOKE
from digits_compare import compare

from orchestrator.distributed.sweep_job import main

# t = 90 % of the 182 epochs, which the paper recommends for weight rewinding where nothing is known.
FULL = compare(replace(EXPERIMENT, name="cifar10"), 164, (0, 1, 2))
SHORT = compare(replace(SMOKE, name="cifar10-smoke"), 1, (0,))

if __name__ == "__main__":
    sys.exit(main(FULL, smoke=SHORT, doc=__doc__))
