"""A job as a user would write it, for tests to run and to kill: `python tests/faulty_job.py --storage S`.

`train_undisturbed` trains the same without Ray: two plain processes, whose bits a job of two workers must have.

EPOCHS, ROUNDS and DATA_OPTIONS (JSON) in the environment set its length and its data; PAUSE and HOLD, which change no
bits, how fast it trains (see `tiny.Pause`).
"""

import dataclasses
import json
import os
import sys

import tiny
import torch.distributed as dist

from orchestrator.distributed.job import main
from orchestrator.pruning import Geometric
from orchestrator.runner import run

EXPERIMENT = tiny.with_training(
    dataclasses.replace(
        tiny.EXPERIMENT,
        name="faulty",
        path=Geometric(remove=0.3, rounds=int(os.environ.get("ROUNDS", "2"))),
        model="tiny:paced",
        model_options={"dropout": 0.1, "pause": 0.0},
        data_options=json.loads(os.environ.get("DATA_OPTIONS", "{}")),
    ),
    epochs=int(os.environ.get("EPOCHS", "20")),
)

WORKERS = 2


def train_undisturbed(rank: int, folder: str) -> None:
    """Be one of the workers. Each commits every round to a storage of its own; that of rank 0 is `folder`/runs."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    run(EXPERIMENT, f"{folder}/runs{rank or ''}")
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
