"""Jobs that are killed, in part or as a whole, end with the bits of one that was not."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import signal
from pathlib import Path

import faulty_job
import job_runs
import pytest

from orchestrator import runner
from orchestrator.pruning import Geometric
from orchestrator.storage.checkpoint import unpack_progress
from orchestrator.storage.claims import holders
from orchestrator.storage.ledger import MODEL, Ledger, Record
from orchestrator.storage.store import open_store
from orchestrator.training.pack import pack

pytestmark = pytest.mark.ray
ENV = {"EPOCHS": "40", "ROUNDS": "2", "PAUSE": "0.02"}  # 6 steps an epoch: a round takes 5 s on any machine
ALWAYS = ("--checkpoint-seconds", "0")
JOBS = job_runs.REPOSITORY / "jobs"
SMALL_IMAGENET = f"""
import dataclasses, sys
sys.path += [{str(JOBS)!r}, {str(JOBS.parent / "tests")!r}]
from imagenet_lr import SMOKE
from orchestrator.distributed.job import main
training = dataclasses.replace(SMOKE.training, epochs=6)
small = dataclasses.replace(SMOKE, model="tiny:paced", model_options={{"pause": 0.5}}, training=training)
sys.exit(main(small, smoke=small, doc=None))
"""


def held(tmp_path: Path, step: int) -> dict[str, str]:
    """As ENV, and the workers stand still in that step while the file `hold` is there; a round has 240 of them."""
    (tmp_path / "hold").touch()
    return ENV | {"HOLD": f"{tmp_path / 'hold'}:{step}"}


def records_of(storage: str) -> list[Record]:
    return Ledger(open_store(storage)).records()


def bits(records: list[Record]) -> list[object]:
    """What must not differ between two runs: weights and momentum (by hash), every metric of every epoch."""
    return [(r.key, r.blobs, r.metrics, r.history, r.kept, r.layers) for r in records]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a job that nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    code, output = job_runs.run(folder / "log", "--storage", "./runs", env=ENV)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def uninterrupted(finished) -> list[Record]:
    records = records_of(str(finished / "runs"))
    assert [r.round for r in records] == [0, 1, 2]
    assert all(r.attempts == 1 for r in records)
    return records


def finish(tmp_path: Path, uninterrupted: list[Record], storage: str = "./runs") -> list[Record]:
    """Start the job again, and compare."""
    committed = {r.key: r.finished_at for r in records_of(str(tmp_path / "runs"))}
    code, output = job_runs.run(tmp_path / "log", "--storage", storage, *ALWAYS, env=ENV)
    assert code == 0, output
    assert f"{len(committed)} of 3 rounds are in" in output
    records = records_of(str(tmp_path / "runs"))
    assert bits(records) == bits(uninterrupted)
    assert committed.items() <= {r.key: r.finished_at for r in records}.items(), "a finished round was trained again"
    assert not list((tmp_path / "runs" / "train").rglob("*.safetensors")), "mid-round checkpoints are left behind"
    return records


def checkpoints(tmp_path: Path) -> list[Path]:
    """Those of rounds that are not committed yet, the newest last."""
    store = open_store(str(tmp_path / "runs"))
    found = [tmp_path / "runs" / path for path in store.list("train/") if path.endswith(".safetensors")]
    committed = {record.key for record in Ledger(store).records()}
    return sorted(path for path in found if path.parent.name not in committed)


def test_sigkill_of_everything_in_the_middle_of_a_round(tmp_path, uninterrupted):
    """The same command goes on from the checkpoint, and from the round's beginning where that is damaged."""
    with job_runs.running(tmp_path / "log", "--storage", "./runs", *ALWAYS, env=held(tmp_path, 240 + 60)) as job:
        job.wait_for(lambda: records_of(str(tmp_path / "runs")), "round 0 is committed")
        job.wait_for(lambda: checkpoints(tmp_path), "a checkpoint of the next round")
        job.kill()
    assert len(records_of(str(tmp_path / "runs"))) == 1
    shutil.copytree(tmp_path / "runs", tmp_path / "damaged" / "runs")
    assert checkpoints(tmp_path)
    records = finish(tmp_path, uninterrupted)
    assert max(r.attempts for r in records) == 2, "it went on from the checkpoint, not from the round's beginning"
    for path in checkpoints(tmp_path / "damaged"):
        os.truncate(path, 40)
    records = finish(tmp_path / "damaged", uninterrupted)
    assert [r.attempts for r in records] == [1, 1, 1], "the round began anew"


def test_sigkill_of_a_worker_and_of_the_driver_actor(tmp_path, uninterrupted):
    with job_runs.running(tmp_path / "log", "--storage", "./runs", *ALWAYS, env=held(tmp_path, 60)) as job:
        job.wait_for(lambda: checkpoints(tmp_path), "a mid-round checkpoint")
        (driver,) = job.find("ray::DriverActor")
        os.kill(driver.pid, signal.SIGKILL)
        assert not records_of(str(tmp_path / "runs"))
        (tmp_path / "hold").unlink()
        job.wait_for(lambda: records_of(str(tmp_path / "runs")), "round 0 is committed by the new driver")
        assert driver.pid not in {process.pid for process in job.find("ray::DriverActor")}
        workers = job.find("ray::RayTrainWorker")
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        assert job.wait() == 0, job.output()
        assert "workers started again" in job.output()
    assert bits(records_of(str(tmp_path / "runs"))) == bits(uninterrupted)


def test_the_finished_job_shows_its_table_without_starting_ray(finished, uninterrupted):
    output = (finished / "log").read_text()
    with job_runs.running(finished / "again", "--storage", "./runs", env=ENV) as job:
        assert job.wait() == 0
        again = job.output()
    assert "3 of 3 rounds are in" in again
    assert "workers: " in output
    assert "workers: " not in again, "which is said as soon as Ray runs"
    assert records_of(str(finished / "runs")) == uninterrupted
    assert again.strip().splitlines()[-5:] == output.strip().splitlines()[-5:]


def test_ctrl_c_says_how_to_go_on(tmp_path):
    with job_runs.running(tmp_path / "log", "--storage", "./runs", *ALWAYS, env=ENV) as job:
        job.wait_for(lambda: checkpoints(tmp_path), "a mid-round checkpoint")
        os.kill(job.processes()[0].pid, signal.SIGINT)
        assert job.wait() == 130, job.output()
        assert "the same command goes on from the last checkpoint" in job.output()
    assert checkpoints(tmp_path)


def test_sigterm_ends_in_order_with_a_checkpoint_in_the_middle_of_an_epoch(tmp_path, uninterrupted):
    """As `ray job stop` sends it, and Kubernetes: within the grace time, with no checkpoint but this one."""
    grace = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}  # a busy machine needs more than the usual 3 s
    with job_runs.running(tmp_path / "log", "--storage", "./runs", env=ENV | grace) as job:
        store = open_store(str(tmp_path / "runs"))
        job.wait_for(Ledger(store).records, "round 0 is committed")
        committed = {record.key for record in Ledger(store).records()}
        job.wait_for(lambda: holders(store, finished=committed), "the next one is given to the workers")
        assert not checkpoints(tmp_path)
        os.kill(job.processes()[0].pid, signal.SIGTERM)
        assert job.wait() == 143, job.output()
        assert "the same command goes on from the last checkpoint" in job.output()
    (checkpoint,) = checkpoints(tmp_path)
    assert unpack_progress(checkpoint.read_bytes(), "").steps_done > 0
    records = finish(tmp_path, uninterrupted)
    assert max(r.attempts for r in records) == 2


def test_sigkill_in_the_middle_of_an_epoch_of_images_from_a_bucket(tmp_path, s3_uri, monkeypatch):
    """Data, loader and training of the ImageNet job, a small, slow network: on with the images that were to come."""
    monkeypatch.syspath_prepend(JOBS)
    importlib.import_module("imagenet_lr").make_smoke_data(tmp_path / "folder")
    pack(str(tmp_path / "folder"), s3_uri)
    script = tmp_path / "small_job.py"
    script.write_text(SMALL_IMAGENET)
    arguments = ("--data", s3_uri, "--storage", "./runs", "--workers", "2", "--loader-workers", "1")
    (tmp_path / "undisturbed").mkdir()
    code, output = job_runs.run(tmp_path / "undisturbed" / "log", *arguments, script=script)
    assert code == 0, output
    for _ in range(5):  # on a busy machine the kill may come after the epoch
        with job_runs.running(tmp_path / "log", *arguments, *ALWAYS, script=script) as job:
            # Three steps an epoch: this is after the first or the second.
            job.wait_for(lambda: [c for c in checkpoints(tmp_path) if 0 < int(c.stem[-8:]) < 3], "in mid-epoch")
            job.kill()
        if in_mid_epoch := int(checkpoints(tmp_path)[-1].stem[-8:]) > 0:
            break
    assert in_mid_epoch
    code, output = job_runs.run(tmp_path / "log", *arguments, script=script)
    assert code == 0, output
    records, expected = records_of(str(tmp_path / "runs")), records_of(str(tmp_path / "undisturbed" / "runs"))
    assert [(r.round, r.attempts) for r in expected] == [(0, 1), (1, 1)]
    assert bits(records) == bits(expected)
    assert max(r.attempts for r in records) >= 2, "it went on from the checkpoint, not from the round's beginning"


@pytest.mark.parametrize("started", ["gcs_server", "ray::TrainController"])
def test_sigterm_while_ray_and_while_the_workers_start(tmp_path, started):
    with job_runs.running(tmp_path / "log", "--storage", "./runs", env=ENV) as job:
        job.wait_for(lambda: job.find(started), started)
        os.kill(job.processes()[0].pid, signal.SIGTERM)
        assert job.wait() == 143, job.output()
        assert job.output().count("the same command goes on from the last checkpoint") == 1
        assert "Traceback" not in job.output()
        assert "SIGTERM handler is not set" not in job.output(), "a second Ray was started"


def test_a_damaged_round_ends_the_job_with_its_name(tmp_path):
    """Also one that only the next round would read, and without starting the workers over and over."""
    shorter = dataclasses.replace(faulty_job.EXPERIMENT, path=Geometric(remove=0.3, rounds=1))
    parent = runner.run(shorter, str(tmp_path / "runs"))[1]
    blob = tmp_path / "runs" / parent.file(MODEL)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x7f")
    code, output = job_runs.run(tmp_path / "log", "--storage", "./runs")
    assert code == 1, output
    assert f"error: {parent.file(MODEL)} is damaged" in output
    assert "started again" not in output
    assert "Traceback" not in output
