"""`ray job submit` to a cluster with a token and S3 storage: it runs, tells its exit code, stops in order, goes on.

A planted key of the storage, and the cluster's token, are looked for wherever this leaves what others may read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import job_runs
import planted
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
SECRET, TOKEN = SECRETS = uuid.uuid4().hex, uuid.uuid4().hex  # of the storage and of the cluster
SCRAPE_S = 0.5  # Ray renders all its metrics for each look at them; new ones come every second
PICKLED = "WorkerConfig", "DriverActor"  # by any run: what looks for secrets must find them


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.admin.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="module")
def pickles(tmp_path_factory) -> Path:
    """Folder of what the processes of the cluster pickle."""
    return tmp_path_factory.mktemp("pickles")


@pytest.fixture(scope="module")
def environment(s3_server, pickles) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    aws = {"ENDPOINT_URL": s3_server.url, "ACCESS_KEY_ID": "tester", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    paths = os.pathsep.join(map(str, (job_runs.REPOSITORY, Path(__file__).parents[1])))
    kept |= {f"AWS_{name}": value for name, value in aws.items()} | {"PYTHONPATH": paths, "RAY_AUTH_TOKEN": TOKEN}
    return planted.watching(pickles, kept, [*SECRETS, *PICKLED])


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
    """No planted secret is in a log of Ray's or a file in storage."""
    files = dict(planted.files(head.folder, store))
    assert any("worker-" in name for name in files)
    assert not [name for name, content in files.items() if any(one.encode() in content for one in SECRETS)]


def secret_free_while_it_runs() -> None:
    """No planted secret is in a command line or in Ray's shared memory, which holds tensors of the job."""
    contents = list(planted.object_stores(planted.with_environment(TOKEN)))
    assert any(b"momentum_buffer" in content for content in contents)
    for one in SECRETS:
        assert planted.with_environment(one), "the cluster has it"
        assert not [line for line in planted.command_lines() if one in line]
        assert not any(one.encode() in content for content in contents)


def test_stop_leaves_a_checkpoint_and_another_submission_goes_on(
    head, storage, store, pickles, tmp_path, undisturbed, capsys
):
    """First with a working directory, and a worker that dies; then without, as it need not be where `ray start` ran.

    Meanwhile Prometheus can read how far it is. It ends with the bits of an undisturbed training, and with the exit
    code, the table, the picture and the line in the dashboard that tell success. No secret is anywhere.
    """
    ledger = Ledger(open_store(storage))
    arguments = ["faulty_job.py", "--storage", storage, "--checkpoint-seconds", "10000"]
    first, second = (tmp_path / name for name in ("hold", "hold again"))
    first.touch()
    second.touch()
    holds = f"{first}:30,{second}:150"  # in the first round, and in the second one of the workers that start again
    settings = json.dumps({"env_vars": {"PAUSE": "0.02", "HOLD": holds}})
    submit = ["job", "submit", "--working-dir", ".", "--runtime-env-json", settings, "--no-wait"]
    started = head.ray(
        *submit, "--submission-id", "stopped", "--", "python", *arguments, cwd=project_of_its_own(tmp_path)
    )
    assert started.returncode == 0, started.stdout
    wait_for(lambda: counted(head, "epochs_done"), "an epoch is done", SCRAPE_S)
    workers_of(head)[0].kill()
    wait_for(lambda: counted(head, "restarts_total"), "a restart is counted", SCRAPE_S)
    first.unlink()
    wait_for(ledger.records, "round 0 is committed")
    unused = {"rewind_data_blocked_seconds_total"}  # they lie in memory
    names = [f"ray_{name}{{" for name in {*GAUGES, *COUNTERS} - unused]
    there = lambda: set(re.findall(r"^ray_\w+\{", head.metrics(), re.MULTILINE))  # noqa: E731
    wait_for(lambda: set(names) <= there(), f"all of {names}", SCRAPE_S)
    assert counted(head, "storage_uploaded_bytes_total")
    secret_free_while_it_runs()
    logs = lambda: head.get("/api/jobs/stopped/logs")["logs"]  # noqa: E731
    with ThreadPoolExecutor() as thread:
        stopping = thread.submit(head.ray, "job", "stop", "stopped", cwd=tmp_path)
        wait_for(lambda: "SIGTERM: stopping as soon as a checkpoint is written" in logs(), "the job has heard it")
        second.unlink()
        stopped = stopping.result()
    assert stopped.returncode == 0, stopped.stdout
    assert head.get("/api/jobs/stopped")["status"] == "STOPPED"
    assert "workers started again" in logs()
    assert "run the same command again to resume from the last checkpoint" in logs()
    (checkpoint,) = [path for path in ledger.store.list("train/") if path.endswith(".safetensors")]

    earlier_runs = [run["id"] for run in train_runs(head)]
    metadata = json.dumps({"experiment": "faulty", "owner": "ada"})
    submit = ["job", "submit", "--submission-id", "again", "--metadata-json", metadata]
    report = tmp_path / "report"
    done = head.ray(
        *submit, "--", "python", f"tests/{arguments[0]}", *arguments[1:], "--report", str(report), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert "round 2 done: density 0.490" in done.stdout
    assert "again' succeeded" in done.stdout
    assert "744 prunable weights" in done.stdout
    assert (report / "compression.png").read_bytes().startswith(b"\x89PNG")
    assert head.get("/api/jobs/again")["metadata"] == json.loads(metadata)
    (run,) = (run for run in train_runs(head) if run["id"] not in earlier_runs)
    assert run["status"] == "FINISHED"
    assert main(["status", storage, "--json"]) == 0
    rounds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["round"], r["kept"], r["seed"]) for r in rounds] == [(0, 744, 0), (1, 521, 0), (2, 365, 0)]
    expected = Ledger(open_store(str(undisturbed))).records()
    assert [(r.key, r.blobs, r.metrics, r.history) for r in ledger.records()] == [
        (r.key, r.blobs, r.metrics, r.history) for r in expected
    ]
    assert sorted(record.attempts for record in ledger.records()) == [1, 1, 2]
    lines = [line for line in log_lines(head) if line["level"] == "INFO"]  # a slow storage may warn earlier
    keys = {record.key for record in ledger.records()}
    assert {line["round_key"] for line in lines} == keys, "every line has the key of a round"
    key = checkpoint.split("/")[1]
    assert {"round asked for", "checkpoint", "resumes from a checkpoint", "epoch done", "round committed"} <= {
        line["message"] for line in lines if line["round_key"] == key
    }
    secret_free(head, store)
    assert planted.pickled(pickles) == set(PICKLED), "what must be pickled was, and no secret"


def project_of_its_own(folder: Path) -> Path:
    """Copy what the job needs to a new folder."""
    project = folder / "project"
    shutil.copytree(job_runs.REPOSITORY / "orchestrator", project / "orchestrator")
    for name in ("faulty_job.py", "tiny.py"):
        shutil.copy(job_runs.REPOSITORY / "tests" / name, project)
    return project


def counted(head: Head, name: str) -> object:
    """Whether Prometheus can read a number above zero for the job."""
    return re.search(rf'^ray_rewind_{name}\{{.*experiment="faulty".*seed="0".*\}} [1-9]', head.metrics(), re.MULTILINE)


def train_runs(head: Head) -> list[dict[str, Any]]:
    """Ray Train's own list."""
    return list(head.get("/api/train/v2/runs/v1")["train_runs"])


def workers_of(head: Head) -> list[psutil.Process]:
    everywhere = job_runs.titled(psutil.process_iter(), "ray::RayTrainWorker")
    return [worker for worker in everywhere if str(head.folder) in " ".join(worker.parent().cmdline())]


def log_lines(head: Head) -> list[dict[str, str]]:
    """What the job's workers and actors logged as JSON."""
    files = head.folder.rglob("worker-*.err")
    lines = [line for path in files for line in path.read_text().splitlines() if line.startswith('{"time"')]
    return [json.loads(line) for line in lines if '"faulty"' in line]


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
        ({"RAY_AUTH_TOKEN": "wrong"}, "refuses this process"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, "the token for the Ray cluster is missing"),
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
