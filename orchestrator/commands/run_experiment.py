"""`orchestrator run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from orchestrator.distributed.flags import Flags, refuse_fields

if TYPE_CHECKING:
    from orchestrator.experiment import Experiment


def check_flags(arguments: Sequence[str]) -> None:
    """Exit with 2 if one of the arguments of `run` is a field of its experiment, which --set changes."""

    def load() -> Experiment | None:
        from orchestrator.errors import OrchestratorError
        from orchestrator.named_experiments import named_experiments

        try:
            found = named_experiments(arguments[0])
        except OrchestratorError:  # `run` itself says so
            return None
        return found[0] if isinstance(found, Sequence) else found

    refuse_fields(arguments, Flags, load)


def run(
    experiment: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="EXPERIMENT", help='"module:NAME", "folder/script.py:NAME", or the example digits.'),
    ],
    flags: tyro.conf.OmitArgPrefixes[Flags],
) -> int:
    """Train an experiment, or a list of them as a sweep, and show its rounds.

    --set changes any field of the experiment, nested ones too. Without :NAME it is EXPERIMENT or EXPERIMENTS.

    $ orchestrator run digits
    $ orchestrator run digits --smoke --storage /tmp/look
    $ orchestrator run my_job:EXPERIMENT --set training.epochs=5 --set 'technique=FineTuning(epochs=3)'
    $ orchestrator run jobs/imagenet_lr.py --data /data/imagenet --workers 8 --storage s3://bucket/imagenet
    """
    from orchestrator.distributed.job import run_experiments
    from orchestrator.named_experiments import named_experiments

    return run_experiments(named_experiments(experiment), flags)
