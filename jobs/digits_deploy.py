"""From nothing to files for a phone, and the page that proves them: digits; dense, fewer weights, fewer channels.

    python jobs/digits_deploy.py --storage ./deploy-runs      # rounds there, files and page in ./deploy; 3 minutes
    python jobs/digits_deploy.py --smoke --storage /tmp/look --report /tmp/look/deploy
    ray job submit --working-dir . -- python jobs/digits_deploy.py --storage s3://bucket/digits --report ./deploy

Needs the extras `onnx` and `channels`.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.distributed.flags import Flags, parse_flags, run_job
from orchestrator.distributed.job import run
from orchestrator.experiment import Experiment
from orchestrator.files import expand_home
from orchestrator.formatting import make_console, print_problems
from orchestrator.pruning import Channels, Geometric
from orchestrator.schedules import StepDecay
from orchestrator.storage.opening import open_store
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

WEIGHTS = Experiment(
    name="digits_deploy",
    model="resnet8",
    model_options={"width": 16},
    data="digits",
    training=TrainingConfig(
        epochs=15,
        batch_size=64,
        schedule=StepDecay(0.1, drops=(8, 12)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=Geometric.down_to(0.05, remove=0.4),
    technique=LearningRateRewinding(),
)
CHANNELS = replace(
    WEIGHTS,
    name="digits_deploy_channels",
    selection=Channels(unit="macs", round_to=4),
    path=Geometric.down_to(0.1, remove=0.4),
)


@dataclass(frozen=True)
class DeployFlags(Flags):
    report: str | None = "./deploy"
    """Folder for the files and the page."""


def job(flags: DeployFlags) -> int:
    """Train both paths, whose dense round is one, then export the recommended network of each beside the dense one."""
    # Imported here, because they import torch, for which --help does not wait.
    from orchestrator import export
    from orchestrator.report.chapters.exported import recommended_rounds
    from orchestrator.storage.ledger import Ledger

    paths = [flags.applied(experiment) for experiment in (CHANNELS, WEIGHTS)]  # channels need an extra
    records = [
        replace(record, experiment=experiment.name)
        for experiment in paths
        for record in run(experiment.shortened() if flags.smoke else experiment, flags, make_console())
    ]
    problems = export.write(
        Ledger(open_store(flags.storage)),
        Path(expand_home(flags.report or "./deploy")),
        rounds=[record.key for record in recommended_rounds(records)],
    )
    return print_problems(problems)


if __name__ == "__main__":
    sys.exit(run_job(parse_flags(DeployFlags, __doc__, WEIGHTS), job))
