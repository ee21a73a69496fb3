"""A planted key of the storage, and the cluster's token, looked for wherever a run leaves what others may read."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import job_runs
import psutil
import pytest

from orchestrator.storage.opening import open_store

pytestmark = pytest.mark.ray
WATCH = job_runs.REPOSITORY / "tests" / "pickle_watch"
TRAINER, ACTOR = "WorkerConfig", "DriverActor"  # what must have been seen, or nothing is proven


@pytest.fixture
def folder() -> Iterator[Path]:
    """For Ray's sockets, whose paths may have 107 characters: pytest's own are too long."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_a_planted_secret_is_found_nowhere(tmp_path, folder, s3_uri):
    secret, token = f"planted-{uuid.uuid4().hex}", uuid.uuid4().hex
    paths = [WATCH, job_runs.REPOSITORY / "tests", job_runs.REPOSITORY]
    pickles = tmp_path / "pickles"
    pickles.mkdir()
    environment = {
        "EPOCHS": "10",
        "PAUSE": "0.02",
        "AWS_SECRET_ACCESS_KEY": secret,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": str(folder),
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000",  # all of it is read below
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PICKLE_WATCH": str(pickles),
        "WATCHED": json.dumps([secret, token, TRAINER, ACTOR]),
    }
    with job_runs.running(tmp_path / "log", "--storage", s3_uri, "--workers", "2", env=environment) as run:
        run.wait_for(lambda: "round 0 done" in run.output(), "the first round")
        processes = run.processes()
        for one in (secret, token):
            assert any(one in process.environ().values() for process in processes if readable(process))
            assert not [line for process in processes if one in (line := command_line(process))]
        stores = list(object_stores(processes))
        assert any(b"momentum_buffer" in content for content in stores), "tensors of the run are in it"
        assert not [content for content in stores if secret.encode() in content or token.encode() in content]
        assert run.wait() == 0, run.output()
    seen = [name for file in pickles.iterdir() for name in file.read_text().split()]
    assert {TRAINER, ACTOR} <= set(seen)
    assert not {secret, token} & set(seen)
    assert secret not in run.output()
    assert token not in run.output()
    logs = [path for path in folder.rglob("*") if path.is_file() and not path.is_socket()]
    assert any(path.name.startswith("worker-") for path in logs)
    store = open_store(s3_uri)
    for content in [*(path.read_bytes() for path in logs), *(store.read(path) for path in store.list())]:
        assert secret.encode() not in content
        assert token.encode() not in content


def readable(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.environ())
    return False


def command_line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def object_stores(processes: Iterable[psutil.Process]) -> Iterator[bytes]:
    """What Ray's shared memory holds."""
    for raylet in job_runs.titled(processes, "raylet"):
        with contextlib.suppress(OSError):  # gone
            for descriptor in Path(f"/proc/{raylet.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if "plasma" in os.readlink(descriptor):
                        yield descriptor.read_bytes()
