"""A sweep as a user would start it, for tests to kill: `python tests/distributed/sweep_job.py STORAGE`."""

import sys
from dataclasses import replace

import tiny

from orchestrator.distributed.deployment import Deployment
from orchestrator.distributed.sweep import sweep_paths
from orchestrator.pruning import Geometric
from orchestrator.techniques import LearningRateRewinding, WeightRewinding

SLOW = tiny.with_training(replace(tiny.PACED, path=Geometric(remove=0.3, rounds=2)), epochs=8)
EXPERIMENTS = [
    replace(SLOW, name="learning-rate-rewinding", technique=LearningRateRewinding()),
    replace(SLOW, name="weight-rewinding", technique=WeightRewinding(6)),
]

if __name__ == "__main__":
    result = sweep_paths(EXPERIMENTS, sys.argv[1], Deployment(checkpoint_seconds=0), max_concurrent=2)
    print({outcome.experiment.name: outcome.state for outcome in result.outcomes})
