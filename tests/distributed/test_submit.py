"""`ray job submit` to a cluster with a token and S3 storage: it runs, tells its exit code, stops in order, goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path

import job_runs
import psutil
import pytest
from ray_head import Head, running_head
from waiting import wait_for

from orchestrator.__main__ import main
from orchestrator.distributed.metrics import COUNTERS, GAUGES
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import Store

pytestmark = pytest.mark.ray
SECRET = "planted-secret-5f1c"


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.admin.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="module")
def environment(s3_server) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    aws = {"ENDPOINT_URL": s3_server.url, "ACCESS_KEY_ID": "tester", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    paths = os.pathsep.join(map(str, (job_runs.REPOSITORY, Path(__file__).parents[1])))
    return kept | {f"AWS_{name}": value for name, value in aws.items()} | {"PYTHONPATH": paths}


@pytest.fixture(scope="module")
def head(tmp_path_factory, environment):
    folder = Path(f"/tmp/rewind-{uuid.uuid4().hex[:8]}")  # short: Ray's sockets lie below it
    folder.mkdir()
    try:
        with running_head(folder, job_runs.REPOSITORY, environment) as head:
            yield head
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(storage, environment, monkeypatch) -> Store:
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return open_store(storage)


def secret_free(head: Head, store: Store) -> None:
    """The planted secret is in no log of Ray's and no file in storage; test_secrets.py looks further."""
    files = [path for path in head.folder.rglob("*") if path.is_file() and not path.is_socket()]
    assert any(path.name.startswith("worker-") for path in files)
    found = [str(path) for path in files if SECRET.encode() in path.read_bytes()]
    assert not found
    assert not [path for path in store.list() if SECRET.encode() in store.read(path)]


def test_digits_run_and_are_found_in_the_ledger(head, storage, store, tmp_path, capsys):
    """Where `ray start` ran, a submission needs no working directory; the exit code tells success.

    Then the table, the picture, and the command line on what is stored.
    """
    metadata = json.dumps({"experiment": "digits", "owner": "ada"})
    report = tmp_path / "report"
    command = ["python", "jobs/digits_lr.py", "--smoke", "--storage", storage, "--seed", "1", "--report", str(report)]
    submit = ["job", "submit", "--submission-id", "first", "--metadata-json", metadata, "--", *command]
    done = head.ray(*submit, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "round 2 done: density 0.044" in done.stdout
    assert "first' succeeded" in done.stdout
    assert "19,464 prunable weights" in done.stdout
    assert (report / "compression.png").read_bytes().startswith(b"\x89PNG")
    assert main(["status", storage, "--json"]) == 0
    rounds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["round"], r["kept"], r["seed"]) for r in rounds] == [(0, 19464, 1), (1, 15571, 1), (2, 856, 1)]
    dense, first, last = (r["metrics"]["test_accuracy"] for r in rounds)
    assert min(dense, first) > 0.8
    assert last > 0.6, "of ten classes, with 856 weights after two epochs"
    assert head.get("/api/jobs/first")["metadata"] == json.loads(metadata)
    (run,) = head.get("/api/train/v2/runs/v1")["train_runs"]
    assert run["status"] == "FINISHED"
    secret_free(head, store)


def test_stop_leaves_a_checkpoint_and_the_same_submission_goes_on(head, storage, store, tmp_path, undisturbed):
    """With a working directory of its own, and a worker that dies; meanwhile Prometheus can read how far it is.

    It ends with the bits of a job that was not disturbed.
    """
    project = tmp_path / "project"
    shutil.copytree(job_runs.REPOSITORY / "orchestrator", project / "orchestrator")
    for name in ("faulty_job.py", "tiny.py"):
        shutil.copy(job_runs.REPOSITORY / "tests" / name, project)
    (hold := tmp_path / "hold").touch()  # after five epochs
    variables = {"PAUSE": "0.05", "HOLD": f"{hold}:30"}
    settings = json.dumps({"env_vars": variables})
    command = ["python", "faulty_job.py", "--storage", f"{storage}/stopped", "--checkpoint-seconds", "10000"]
    submit = ["job", "submit", "--working-dir", ".", "--runtime-env-json", settings]
    ledger = Ledger(open_store(f"{storage}/stopped"))
    started = head.ray(*submit, "--no-wait", "--submission-id", "stopped", "--", *command, cwd=project)
    assert started.returncode == 0, started.stdout
    epochs = r'^ray_rewind_epochs_done\{.*experiment="faulty".*seed="0".*\} [1-9]'
    wait_for(lambda: re.search(epochs, head.metrics(), re.MULTILINE), "an epoch is done")
    workers = [
        worker
        for worker in job_runs.titled(psutil.process_iter(), "ray::RayTrainWorker")
        if str(head.folder) in " ".join(worker.parent().cmdline())
    ]
    workers[0].kill()
    restarts = r'^ray_rewind_restarts_total\{.*experiment="faulty".*seed="0".*\} 1'
    wait_for(lambda: re.search(restarts, head.metrics(), re.MULTILINE), "a restart is counted")
    hold.unlink()
    wait_for(ledger.records, "round 0 is committed")
    unused = {"rewind_data_blocked_seconds_total"}  # they lie in memory
    names = [f"ray_{name}{{" for name in {*GAUGES, *COUNTERS} - unused]
    metrics = wait_for(lambda: found if all(n in (found := head.metrics()) for n in names) else "", f"all of {names}")
    assert re.search(
        r'^ray_rewind_storage_uploaded_bytes_total\{.*experiment="faulty".*\} [1-9]', metrics, re.MULTILINE
    )
    stopped = head.ray("job", "stop", "stopped", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stdout
    assert head.get("/api/jobs/stopped")["status"] == "STOPPED"
    logs = head.ray("job", "logs", "stopped", cwd=tmp_path).stdout
    assert "the same command goes on from the last checkpoint" in logs
    (checkpoint,) = [path for path in ledger.store.list("train/") if path.endswith(".safetensors")]

    done = head.ray(*submit, "--", *command, cwd=project)
    assert done.returncode == 0, done.stdout
    expected = Ledger(open_store(str(undisturbed / "runs"))).records()
    assert [(r.key, r.blobs, r.metrics, r.history) for r in ledger.records()] == [
        (r.key, r.blobs, r.metrics, r.history) for r in expected
    ]
    assert sorted(record.attempts for record in ledger.records()) == [1, 1, 2]
    key = checkpoint.split("/")[1]
    lines = [
        json.loads(line)
        for path in head.folder.rglob("worker-*.err")
        for line in path.read_text().splitlines()
        if line.startswith('{"time"') and '"faulty"' in line and '"INFO"' in line  # a slow storage may warn earlier
    ]
    keys = {record.key for record in ledger.records()}
    assert {line["round_key"] for line in lines} == keys, "every line has the key of a round"
    assert {"round asked for", "checkpoint", "goes on from a checkpoint", "epoch done", "round committed"} <= {
        line["message"] for line in lines if line["round_key"] == key
    }
    secret_free(head, store)


@pytest.mark.slow
def test_what_cannot_run_fails_with_a_sentence(head, storage, tmp_path):
    command = ["python", "jobs/digits_lr.py", "--workers", "64", "--storage", storage, "--seed", "7"]
    failed = head.ray("job", "submit", "--", *command, cwd=tmp_path)
    assert failed.returncode == 1, failed.stdout
    assert "error: 64 workers of 1 CPU each were asked for, and the cluster holds 2 of them" in failed.stdout
    assert "Traceback" not in failed.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RAY_AUTH_TOKEN": "wrong"}, "does not let this process in"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, "there is no token for the Ray cluster"),
    ],
)
def test_a_wrong_token_is_told_by_the_job_itself(head, tmp_path, changes, message):
    code, output = job_runs.run(
        tmp_path / "log",
        "--address",
        head.environment["RAY_ADDRESS"],
        script=job_runs.REPOSITORY / "jobs" / "digits_lr.py",
        env=head.environment | changes,
    )
    assert code == 1, output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RAY_AUTH_TOKEN": "f" * 32}, "Authentication failed"),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "Failed to connect to Ray at address: http://127.0.0.1:9"),
    ],
    ids=["wrong token", "unreachable dashboard"],
)
def test_a_submission_that_is_not_let_in_says_why(head, tmp_path, changes, message):
    """In Ray's words: our code does not run yet."""
    refused = head.ray("job", "submit", "--submission-id", "refused", "--", "true", cwd=tmp_path, **changes)
    assert refused.returncode == 1, refused.stdout
    assert message in refused.stdout
    assert "refused" not in {job["submission_id"] for job in head.get("/api/jobs/")}
