"""The process of Ray Train that starts the workers may be killed too: the job goes on by itself, to the same bits."""

from __future__ import annotations

import dataclasses
import os
import signal

import faulty_job
import job_runs
import pytest
import tiny

from orchestrator import runner
from orchestrator.pruning import Geometric
from orchestrator.storage.ledger import Ledger, Record
from orchestrator.storage.store import open_store

pytestmark = pytest.mark.ray
EPOCHS = 12
# One CPU, so that the new workers must get that of the old ones.
ENV = {"EPOCHS": str(EPOCHS), "ROUNDS": "1", "PAUSE": "0.01", "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}


def bits(records: list[Record]) -> list[object]:
    return [(r.key, r.blobs, r.metrics, r.history) for r in records]


def test_sigkill_of_the_train_controller(tmp_path, one_thread):
    """In the middle of round 0, whose workers die with it; the new ones go on from its checkpoint."""
    hold, store = tmp_path / "hold", open_store(str(tmp_path / "runs"))
    hold.touch()
    arguments = ("--storage", "./runs", "--workers", "1", "--checkpoint-seconds", "0")
    with job_runs.running(tmp_path / "log", *arguments, env=ENV | {"HOLD": f"{hold}:20"}) as job:
        job.wait_for(lambda: [f for f in store.list("train/") if f.endswith(".safetensors")], "a checkpoint")
        (controller,) = job.find("ray::TrainController")
        os.kill(controller.pid, signal.SIGKILL)
        hold.unlink()
        assert job.wait() == 0, job.output()
        assert "workers started again" in job.output()
        assert "Traceback" not in job.output()
    experiment = tiny.with_training(
        dataclasses.replace(
            faulty_job.EXPERIMENT,
            path=Geometric(remove=0.3, rounds=1),
            model="tiny:paced",
            model_options={"dropout": 0.1, "pause": 0.01},
        ),
        epochs=EPOCHS,
    )
    alone = runner.run(experiment, str(tmp_path / "alone"))
    records = Ledger(store).records()
    assert bits(records) == bits(alone)
    assert [record.attempts for record in records] == [2, 1]
