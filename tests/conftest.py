"""Fixtures that any test may use, and which tests run in which process."""

from __future__ import annotations

import gc
import os
import resource
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from s3_server import FaultProxy, S3Server, running_proxy, running_s3_server
from seaweedfs_server import running_seaweedfs
from waiting import RAY_STARTS

# Before torch is imported, here and in every child: two test processes with two threads each wait for each other, and
# more threads add in another order.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.update(RAY_STARTS)
# An example takes as long as the other tests on the machine let it: pytest-timeout ends what hangs.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


# Imports and collected tests stay until the end, so that each search through them for garbage would be in vain.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


LONGEST = ("test_submit", "test_killed_sweep", "test_kill", "test_faults")  # of the files with Ray; they come first


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run each file in one process, and all tests that use the fixture `ray` in the process of their Ray.

    Tests with Ray come first, as the longest must not begin when all others have ended. Among them are first those that
    start another Ray in the test process, which is the mark `own_ray`.
    """

    def order(item: pytest.Item) -> tuple[int, int]:
        turn = [_has_own_ray(item), _uses_ray(item), item.get_closest_marker("ray") is not None, True].index(True)
        return turn, LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    for item in items:
        shared = _has_own_ray(item) or _uses_ray(item)
        item.add_marker(pytest.mark.xdist_group("ray" if shared else item.path.stem))
    items.sort(key=order)


def _has_own_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("own_ray") is not None


def _uses_ray(item: pytest.Item) -> bool:
    return "ray" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server process for the whole session."""
    with running_s3_server(tmp_path_factory.mktemp("s3") / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, a store that people run, for the slow tests."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3_uri(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """`s3://bucket/prefix` in a new bucket, with the environment that reaches it."""
    return new_bucket(s3_server, monkeypatch, tmp_path)


@pytest.fixture
def seaweedfs_uri(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The same in SeaweedFS."""
    return new_bucket(seaweedfs, monkeypatch, tmp_path)


def new_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tester-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    server.admin.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/runs"


@pytest.fixture
def fault_proxy(s3_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the server that fails on command; the environment leads through it."""
    with running_proxy(s3_server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What takes half a gigabyte or more fails for want of memory: every attack on a reader claims more."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
