"""Run jobs as a user does, in processes of their own, and kill them as the world does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import psutil
from waiting import PATIENCE_S, RAY_STARTS, wait_for

REPOSITORY = Path(__file__).parent.parent
FAULTY_JOB = Path(__file__).parent / "faulty_job.py"

# How often Ray Train looks whether a worker has died; its 2 s are long beside epochs of milliseconds.
_OFTEN = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


def titled(processes: Iterable[psutil.Process], title: str) -> list[psutil.Process]:
    """Those that live and whose program is called so, such as ray::DriverActor or gcs_server."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # gone, or a zombie
            if title in "".join(process.cmdline()[:1]):
                found.append(process)
    return found


class Job:
    """A job that runs: its process, all that it started, and what it printed."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.log = log
        self._process = psutil.Process(process.pid)
        self._popen = process

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Exit code; what was printed is shown when it takes too long."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.output()}") from None

    def processes(self) -> list[psutil.Process]:
        """The job's process and everything that it started, Ray's daemons included."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def find(self, title: str) -> list[psutil.Process]:
        return titled(self.processes(), title)

    def kill(self) -> None:
        """SIGKILL for the script and everything that it started, all at once."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()  # nobody may notice the others' death and act on it
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=20)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Return as soon as `condition` holds while the job runs."""

        def holds() -> object:
            assert self._popen.poll() is None, f"the job ended before: {what}\n{self.output()}"
            return condition()

        wait_for(holds, lambda: f"{what}\n{self.output()}")


@contextlib.contextmanager
def running(log: Path, *args: str, script: Path = FAULTY_JOB, env: Mapping[str, str] | None = None) -> Iterator[Job]:
    """Start a job; whatever is left of it at the end of the block is killed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    paths = [str(Path(__file__).parent), str(REPOSITORY)]  # this tree, wherever another one may be installed
    environment |= {"PYTHONPATH": os.pathsep.join(paths), **RAY_STARTS, **_OFTEN, **(env or {})}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), *args], cwd=log.parent, env=environment, stdout=output, stderr=output
        )
    job = Job(log, process)
    try:
        yield job
    finally:
        job.kill()


def run(
    log: Path, *args: str, script: Path = FAULTY_JOB, env: Mapping[str, str] | None = None, seconds: float = PATIENCE_S
) -> tuple[int, str]:
    """(exit code, output) of a whole run."""
    with running(log, *args, script=script, env=env) as job:
        return job.wait(seconds), job.output()
