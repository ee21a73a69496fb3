"""A sweep whose trials are killed, and that is killed as a whole, trains every round once and ends with its bits."""

from collections import Counter
from pathlib import Path

import job_runs
import pytest
from sweep_job import EXPERIMENTS

from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

SWEEP_JOB = Path(__file__).parent / "sweep_job.py"


def has_checkpoint(ledger: Ledger) -> bool:
    """Whether a round that is not committed has one."""
    checkpoints = {file.split("/")[1] for file in ledger.store.list("train/") if file.endswith(".safetensors")}
    return bool(checkpoints - {record.key for record in ledger.records()})


def a_path_is_finished(ledger: Ledger) -> bool:
    return 2 in Counter(record.experiment for record in ledger.records() if record.round).values()


def blobs(records):
    return [{name: blob.sha256 for name, blob in record.blobs.items()} for record in records]


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_on_s3_whose_trials_are_killed_in_mid_round_and_one_that_is_killed_whole(tmp_path, s3_uri, monkeypatch):
    ledger, hold = Ledger(open_store(s3_uri)), tmp_path / "hold"
    hold.touch()
    with job_runs.running(tmp_path / "first", s3_uri, script=SWEEP_JOB, env={"HOLD": f"{hold}:40"}) as job:
        job.wait_for(lambda: has_checkpoint(ledger), "the dense round has a checkpoint")
        for victim in [*job.find("ray::RayTrainWorker"), *job.find("ray::ImplicitFunc")]:
            victim.kill()
        hold.unlink()
        job.wait_for(lambda: a_path_is_finished(ledger), "a path is finished all the same")
        hold.touch()
        job.wait_for(lambda: has_checkpoint(ledger), "the other one, whose workers start now, is in mid-round")
        job.kill()
    before = {record.key: record for record in ledger.records()}
    (dense,) = (record for record in before.values() if record.round == 0)
    assert dense.attempts > 1, "whoever took it over went on from the checkpoint of the one that was killed"
    assert len(before) < 1 + 2 * 2
    monkeypatch.setenv("PAUSE", "0")  # nothing is killed any more
    code, output = job_runs.run(tmp_path / "second", s3_uri, script=SWEEP_JOB)
    assert code == 0, output
    assert output.count("'finished'") == 2, output
    after = {record.key: record for record in ledger.records()}
    assert before.items() <= after.items(), "finished rounds are not trained again"
    assert len(after) == 1 + 2 * 2
    assert max(after[key].attempts for key in after.keys() - before.keys()) > 1, "it went on from its checkpoint, too"
    for experiment in EXPERIMENTS:
        alone = run(experiment, str(tmp_path / "alone"))
        assert blobs([after[record.key] for record in alone]) == blobs(alone)
