"""Jobs that are killed, in part or as a whole, end with the bits of one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from pathlib import Path

import faulty_job
import job_runs
import pytest

from orchestrator.data.parquet_writer import pack
from orchestrator.data.small_images import write_small_images
from orchestrator.distributed import job as job_module
from orchestrator.record import Record
from orchestrator.storage.checkpoint import unpack_progress
from orchestrator.storage.claims import holders
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

pytestmark = pytest.mark.ray
STEPS = 120  # of a round: 20 epochs of 6
ALWAYS = ("--checkpoint-seconds", "0")
JOBS = job_runs.REPOSITORY / "jobs"
SMALL_IMAGENET = f"""
import dataclasses, sys
sys.path += [{str(JOBS)!r}, {str(JOBS.parent / "tests")!r}]
from imagenet_lr import EXPERIMENT
from orchestrator.data.small_images import SMALL_IMAGES
from orchestrator.distributed.job import main
from orchestrator.pruning import OneShot
short = EXPERIMENT.shortened(batch_size=16, data_options=SMALL_IMAGES)
training = dataclasses.replace(short.training, epochs=6)
small = dataclasses.replace(
    short, model="tiny:paced", model_options={{"pause": 0.5}}, training=training, path=OneShot(0.8)
)
sys.exit(main(small))
"""


def held(tmp_path: Path, step: int) -> dict[str, str]:
    """The workers stand still in that step while the file `hold` is there, and are slow after it."""
    (tmp_path / "hold").touch()
    return {"HOLD": f"{tmp_path / 'hold'}:{step}", "PAUSE": "0.03"}


def records_of(storage: str) -> list[Record]:
    return Ledger(open_store(storage)).records()


def bits(records: list[Record]) -> list[object]:
    """What must not differ between two runs: weights and momentum (by hash), every metric of every epoch."""
    return [(r.key, r.blobs, r.metrics, r.history, r.kept, r.layers) for r in records]


@pytest.fixture(scope="module")
def expected(undisturbed) -> list[object]:
    records = records_of(str(undisturbed))
    assert [(r.round, r.attempts) for r in records] == [(0, 1), (1, 1), (2, 1)]
    return bits(records)


def checkpoints(tmp_path: Path) -> list[Path]:
    """Those of rounds that are not committed yet, the newest last."""
    store = open_store(str(tmp_path / "runs"))
    found = [tmp_path / "runs" / path for path in store.list("train/") if path.endswith(".safetensors")]
    committed = {record.key for record in Ledger(store).records()}
    return sorted(path for path in found if path.parent.name not in committed)


def has_checkpoint(tmp_path: Path, job: job_runs.Job, old: Collection[int] = ()) -> bool:
    """Whether two workers that are not among `old` train, and a mid-round checkpoint is there."""
    workers = {process.pid for process in job.find("ray::RayTrainWorker")}
    return len(workers) == 2 and not workers & {*old} and bool(checkpoints(tmp_path))


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Folder of a finished job whose driver actor and train controller were killed: its `log`, and `runs`.

    It has two CPUs, so that the second group of workers must get those of the first.
    """
    folder = tmp_path_factory.mktemp("killed")
    env = held(folder, 30) | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}', "PAUSE": "0"}
    with job_runs.running(folder / "log", "--storage", "./runs", *ALWAYS, env=env) as job:
        job.wait_for(lambda: has_checkpoint(folder, job), "the first group has a checkpoint")
        first = {process.pid for process in job.find("ray::RayTrainWorker")}
        for title in ("ray::DriverActor", "ray::TrainController"):
            (victim,) = job.find(title)
            os.kill(victim.pid, signal.SIGKILL)
        job.wait_for(lambda: has_checkpoint(folder, job, first), "the second group trains")
        assert not records_of(str(folder / "runs"))
        (folder / "hold").unlink()
        assert job.wait() == 0, job.output()
    return folder


def test_sigkill_of_the_driver_actor_and_the_train_controller(killed, expected):
    """A worker that dies by itself is in test_submit.py, one that dies with its trial in test_killed_sweep.py."""
    assert "Traceback" not in (killed / "log").read_text()
    records = records_of(str(killed / "runs"))
    assert bits(records) == expected
    assert [record.attempts for record in records] == [2, 1, 1]


def test_the_finished_job_shows_its_table_without_starting_ray(killed, monkeypatch, capsys):
    monkeypatch.setattr(job_module, "_train", lambda *_: pytest.fail("training has begun"))
    monkeypatch.setattr("sys.argv", ["job", "--storage", str(killed / "runs")])
    assert job_module.main(faulty_job.EXPERIMENT) == 0
    again = capsys.readouterr().out
    assert "3 of 3 rounds are in" in again
    assert again.strip().splitlines()[-5:] == (killed / "log").read_text().strip().splitlines()[-5:]


@pytest.mark.slow
def test_sigterm_ends_in_order_with_a_checkpoint_and_the_same_command_goes_on(tmp_path, expected):
    """SIGTERM as `ray job stop` and Kubernetes send it: within the grace time, with no checkpoint but this one."""
    grace = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}  # a busy machine needs more than the usual 3 s
    with job_runs.running(tmp_path / "log", "--storage", "./runs", env=held(tmp_path, STEPS + 30) | grace) as job:
        store = open_store(str(tmp_path / "runs"))
        job.wait_for(Ledger(store).records, "round 0 is committed")
        committed = {record.key for record in Ledger(store).records()}
        job.wait_for(lambda: holders(store, finished=committed), "the next one is given to the workers")
        assert not checkpoints(tmp_path)
        os.kill(job.processes()[0].pid, signal.SIGTERM)
        (tmp_path / "hold").unlink()
        assert job.wait() == 143, job.output()
        assert "run the same command again to resume from the last checkpoint" in job.output()
    (checkpoint,) = checkpoints(tmp_path)
    assert unpack_progress(checkpoint.read_bytes(), "").steps_done > 0

    (finished_at,) = [record.finished_at for record in records_of(str(tmp_path / "runs"))]

    code, output = job_runs.run(tmp_path / "log", "--storage", "./runs", *ALWAYS)
    assert code == 0, output
    assert "1 of 3 rounds are in" in output
    records = records_of(str(tmp_path / "runs"))
    assert bits(records) == expected
    assert [record.attempts for record in records] == [1, 2, 1], "it went on from the checkpoint"
    assert records[0].finished_at == finished_at, "a finished round was trained again"
    assert not list((tmp_path / "runs" / "train").rglob("*.safetensors")), "mid-round checkpoints are left behind"


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    with job_runs.running(tmp_path / "log", "--storage", "./runs", *ALWAYS, env=held(tmp_path, 30)) as job:
        job.wait_for(lambda: checkpoints(tmp_path), "a mid-round checkpoint")
        os.kill(job.processes()[0].pid, signal.SIGINT)
        (tmp_path / "hold").unlink()
        assert job.wait() == 130, job.output()
        assert "run the same command again to resume from the last checkpoint" in job.output()
    assert checkpoints(tmp_path)


@pytest.mark.slow
def test_sigkill_in_the_middle_of_an_epoch_of_images_from_a_bucket(tmp_path, s3_uri):
    """Data, loader and training of the ImageNet job, a small, slow network: on with the images that were to come."""
    write_small_images(tmp_path / "folder")
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


@pytest.mark.slow
@pytest.mark.parametrize("started", ["gcs_server", "ray::TrainController"])
def test_sigterm_while_ray_and_while_the_workers_start(tmp_path, started):
    with job_runs.running(tmp_path / "log", "--storage", "./runs") as job:
        job.wait_for(lambda: job.find(started), started)
        os.kill(job.processes()[0].pid, signal.SIGTERM)
        assert job.wait() == 143, job.output()
        assert job.output().count("run the same command again to resume from the last checkpoint") == 1
        assert "Traceback" not in job.output()
        assert "SIGTERM handler is not set" not in job.output(), "a second Ray was started"
