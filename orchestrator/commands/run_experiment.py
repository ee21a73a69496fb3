"""Run `orchestrator run`: train one experiment or a list of them."""

from __future__ import annotations

from typing import Annotated

import tyro

from orchestrator.distributed.flags import Flags


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
