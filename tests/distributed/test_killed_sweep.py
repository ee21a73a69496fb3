"""A sweep whose trials are killed, and that is killed as a whole, trains every round once and ends with its bits."""

from pathlib import Path

import job_runs
import pytest
from sweep_job import EXPERIMENTS

from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import Store

SWEEP_JOB = Path(__file__).parent / "sweep_job.py"


def has_checkpoint(store: Store) -> bool:
    return any(file.endswith(".safetensors") for file in store.list("train/"))


def blobs(records):
    return [{name: blob.sha256 for name, blob in record.blobs.items()} for record in records]


@pytest.mark.ray
def test_a_sweep_on_s3_whose_trials_are_killed_in_mid_round_and_one_that_is_killed_whole(tmp_path, s3_uri):
    ledger, hold = Ledger(open_store(s3_uri)), tmp_path / "hold"
    hold.touch()
    with job_runs.running(tmp_path / "first", s3_uri, script=SWEEP_JOB, env={"HOLD": f"{hold}:40"}) as job:
        job.wait_for(lambda: has_checkpoint(ledger.store), "the dense round has a checkpoint")
        for victim in [*job.find("ray::RayTrainWorker"), *job.find("ray::ImplicitFunc")]:
            victim.kill()
        hold.unlink()
        job.wait_for(lambda: len(ledger.records()) >= 2, "rounds are committed all the same")
        job.kill()
    before = {record.key: record for record in ledger.records()}
    (dense,) = (record for record in before.values() if record.round == 0)
    assert dense.attempts > 1, "whoever took it over went on from the checkpoint of the one that was killed"
    code, output = job_runs.run(tmp_path / "second", s3_uri, script=SWEEP_JOB)
    assert code == 0, output
    assert output.count("'finished'") == 2, output
    after = {record.key: record for record in ledger.records()}
    assert before.items() <= after.items(), "finished rounds are not trained again"
    assert len(after) == 1 + 2 * 2
    alone = run(EXPERIMENTS[0], str(tmp_path / "alone"))
    assert blobs([ledger.record(record.key) for record in alone]) == blobs(alone)
