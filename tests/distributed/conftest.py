"""Fixtures of the tests that need Ray."""

import os
from collections.abc import Iterator
from pathlib import Path

import job_runs
import pytest
from fault_table import ROWS
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from orchestrator.distributed import cluster

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One local Ray for all tests; its workers report as often as short epochs need.

    They find the tests' modules, and those that a test writes to the folder that this gives.
    """
    modules = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1], modules))))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        with cluster.connected(None):
            yield modules


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the faulty job's undisturbed run: its `log`, and `runs`. One run serves all test processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            code, output = job_runs.run(folder / "log", "--storage", "./runs")
            assert code == 0, output
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def fault_table(pytestconfig: pytest.Config) -> Iterator[None]:
    """Prints, at the end, what every fault has cost."""
    yield
    shown = Table("fault", "what happened", "seconds until training went on", "work repeated, seconds")
    for row in ROWS:
        shown.add_row(*row)
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # type: ignore[union-attr]
        Console(width=150).print("", shown)
