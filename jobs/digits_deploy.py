"""From nothing to files for a phone, and the page that proves them: digits; dense, fewer weights, fewer channels.

    python jobs/digits_deploy.py --storage ./deploy-runs      # rounds there, files and page in ./deploy; 3 minutes
    python jobs/digits_deploy.py --smoke --storage /tmp/look --report /tmp/look/deploy
    ray job submit --working-dir . -- python jobs/digits_deploy.py --storage s3://bucket/digits --report ./deploy

Needs the extras `onnx` and `channels`.
"""

import sys
from dataclasses import dataclass, replace

import tyro
from digits_lr import EXPERIMENT as LONGER
from digits_lr import SMOKE as SHORT

from orchestrator.distributed.flags import Flags, run_job
from orchestrator.distributed.job import run
from orchestrator.formatting import make_console
from orchestrator.pruning import Channels, Geometric
from orchestrator.report.exported import recommended_rounds
from orchestrator.schedules import StepDecay

WEIGHTS = replace(
    LONGER,
    name="digits_deploy",
    model_options={"width": 16},
    training=replace(LONGER.training, epochs=15, schedule=StepDecay(0.1, drops=(8, 12))),
    path=Geometric.down_to(0.05, remove=0.4),
)
CHANNELS = replace(
    WEIGHTS,
    name="digits_deploy_channels",
    selection=Channels(unit="macs", round_to=4),
    path=Geometric.down_to(0.1, remove=0.4),
)
SMOKE_WEIGHTS = replace(SHORT, name="digits_deploy_smoke", model_options={"width": 16})
SMOKE_CHANNELS = replace(
    SMOKE_WEIGHTS,
    name="digits_deploy_channels_smoke",
    selection=CHANNELS.selection,
    path=Geometric(remove=0.4, rounds=1),
)


@dataclass(frozen=True)
class DeployFlags(Flags):
    report: str | None = "./deploy"
    """Folder for the files and the page."""


def job(flags: DeployFlags) -> int:
    """Train both paths, whose dense round is one, then export the recommended network of each beside the dense one."""
    from orchestrator.__main__ import main as command

    records = [
        replace(record, experiment=experiment.name)
        # Channels first: they need an extra, and without it nothing is trained.
        for experiment in ((SMOKE_CHANNELS, SMOKE_WEIGHTS) if flags.smoke else (CHANNELS, WEIGHTS))
        for record in run(flags.seeded(experiment), flags, make_console())
    ]
    rounds = [part for record in recommended_rounds(records) for part in ("--round", record.key)]
    return command(["export", flags.storage, "--out", flags.report or "./deploy", *rounds])


if __name__ == "__main__":
    sys.exit(run_job(tyro.cli(DeployFlags, description=__doc__), job))
