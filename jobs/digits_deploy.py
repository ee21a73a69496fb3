"""From nothing to files for a phone, and the page that proves them: digits, a dense network and 9 pruned rounds.

python jobs/digits_deploy.py                              # rounds in ./runs, files and page in ./deploy
python jobs/digits_deploy.py --smoke --storage /tmp/look --report /tmp/look/deploy
ray job submit --working-dir . -- python jobs/digits_deploy.py --storage s3://bucket/digits --report ./deploy
"""

import sys
from dataclasses import dataclass, replace

import tyro
from digits_lr import EXPERIMENT as LONGER
from digits_lr import SMOKE as SHORT

from orchestrator.distributed.flags import Flags, run_job
from orchestrator.distributed.job import run
from orchestrator.pruning import Geometric
from orchestrator.report.deployed import recommended_round
from orchestrator.report.text import make_console
from orchestrator.training.lr import StepDecay

EXPERIMENT = replace(
    LONGER,
    name="digits_deploy",
    training=replace(LONGER.training, epochs=15, schedule=StepDecay(0.1, drops=(8, 12))),
    path=Geometric.down_to(0.1, remove=0.25),
)
SMOKE = replace(SHORT, name="digits_deploy_smoke")


@dataclass(frozen=True)
class DeployFlags(Flags):
    report: str | None = "./deploy"
    """Folder for the files and the page."""


def job(flags: DeployFlags) -> int:
    """Train the path, then export its recommended network and the dense one that it comes from."""
    from orchestrator.__main__ import main as command

    records = run(flags.seeded(SMOKE if flags.smoke else EXPERIMENT), flags, make_console())
    key = recommended_round(records).key
    return command(["export", flags.storage, "--out", flags.report or "./deploy", "--round", key])


if __name__ == "__main__":
    sys.exit(run_job(tyro.cli(DeployFlags, description=__doc__), job))
