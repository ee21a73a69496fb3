"""A job as a user would write it, for tests to run and to kill: `python tests/faulty_job.py --storage S`.

EPOCHS, ROUNDS and DATA_OPTIONS (JSON) in the environment set its length and its data; PAUSE and HOLD, which change no
bits, how fast it trains (see `tiny.Pause`).
"""

import dataclasses
import json
import os
import sys

import tiny

from orchestrator.distributed.job import main
from orchestrator.pruning import Geometric

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

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
