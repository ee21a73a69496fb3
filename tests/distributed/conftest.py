"""Fixtures of the tests that need Ray."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import faulty_job
import pytest
from fault_table import ROWS
from filelock import FileLock
from rich.console import Console
from rich.table import Table
from together import start_together

from orchestrator.distributed import cluster

HERE = Path(__file__).parent


class SharedRay:
    """One local Ray for all tests that ask for it, which ends with the last of them: an idle Ray takes CPU time."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self.modules: Path | None = None

    def start(self, modules: Path) -> None:
        """Start it. Workers find the tests' modules and those in `modules`, and report as short epochs need."""
        self.modules = modules
        patch = self._open.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1], modules))))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        self._open.enter_context(cluster.connected(None))

    def end(self) -> None:
        self.modules = None
        self._open.close()


SHARED_RAY = SharedRay()


@pytest.fixture
def ray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared Ray is up; returns a folder for modules that its workers must find."""
    if SHARED_RAY.modules is None:
        SHARED_RAY.start(tmp_path_factory.mktemp("modules"))
    assert SHARED_RAY.modules is not None
    return SHARED_RAY.modules


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if SHARED_RAY.modules is not None and "ray" not in getattr(nextitem, "fixturenames", ()):
        SHARED_RAY.end()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage of the faulty job trained without Ray and without faults. One run serves all test processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            start_together(faulty_job.train_undisturbed, str(folder), faulty_job.WORKERS)
            (folder / "done").touch()
    return folder / "runs"


@pytest.fixture(scope="session")
def fault_table(pytestconfig: pytest.Config) -> Iterator[None]:
    """Prints, at the end, what every fault has cost."""
    yield
    shown = Table("fault", "what happened", "seconds until training went on", "work repeated, seconds")
    for row in ROWS:
        shown.add_row(*row)
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # type: ignore[union-attr]
        Console(width=150).print("", shown)
