"""Run a Ray for this job alone, on this machine: wait for a slow start, and end with one sentence if a part dies.

Ray itself would raise an exception without a type, or print a hundred lines from all its processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

import psutil
import ray

from orchestrator.distributed.ray_private import few_processes, filter_printed_lines, processes_in_own_sessions
from orchestrator.errors import ResourceError

logger = logging.getLogger(__name__)
# Ray gives its own parts half a minute to start, but a busy machine needs several minutes.
START_LIMITS = {"RAY_agent_register_timeout_ms": "300000"}
_RAY_PROCESSES = ("gcs_server", "raylet")  # Ray needs both
_LOOK_SECONDS = 0.5
# Beginnings of the last lines of a dead raylet's log, and of Ray's paragraph about a worker that died.
_DEATH_LINES = ("Raylet is terminated", "A worker died or was killed")


def start(init: Callable[[], object]) -> None:
    """Call `init`, which starts Ray. If Ray gives up, end the processes of this try, and call it once more.

    Raises ResourceError if Ray gives up again. Errors of the disk or of access are raised unchanged.
    """
    for again in (True, False):
        before = set(_children())
        try:
            with processes_in_own_sessions(), few_processes():
                init()
        except Exception as error:
            if isinstance(error, ray.exceptions.AuthenticationError):
                raise
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise
            ray.shutdown()
            end(set(_children()) - before)
            if not again:
                raise ResourceError(
                    f"Ray does not start on this machine ({_first_line(error)}): it may be too busy or short of "
                    f"memory; run the same command again when it is less busy; Ray's logs: {_logs()}"
                ) from error
            logger.warning("Ray takes long to start on this machine: trying once more")
        else:
            # `watched` and the job itself report deaths, so Ray's lines are not needed.
            filter_printed_lines(lambda line: line.startswith(_DEATH_LINES))
            return


@contextlib.contextmanager
def watched(on_death: Callable[[str], None] | None = None) -> Iterator[None]:
    """Watch Ray until the block ends: if a part dies, end the job with a sentence, and the rest of Ray.

    If `on_death` is given, it is called with the part's name from another thread, and the job is not ended.
    """
    started = _started_by_ray()
    names = {process: name for process in started if (name := _name(process)) in _RAY_PROCESSES}
    over = threading.Event()

    def watch() -> None:
        known: set[psutil.Process] = set()
        while not over.wait(_LOOK_SECONDS):
            for process in started:
                with contextlib.suppress(
                    psutil.Error
                ):  # remembered, because the children of a dead raylet get another parent
                    known |= set(process.children(recursive=True))
            dead = next((part for part in names if not _lives(part)), None)
            if dead is not None and not over.is_set():
                (on_death or _give_up)(names[dead])
                end([*started, *known])
                if on_death is None:
                    os._exit(1)  # Ray's threads may hang, or print more errors
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill each process that still runs."""
    for process in processes:
        with contextlib.suppress(psutil.Error):  # psutil compares start times, because ids are reused
            process.kill()


def _give_up(part: str) -> None:
    sys.stdout.flush()
    print(
        f"error: Ray's {part} on this machine has died (usually for lack of memory): run the same command "
        f"again, it resumes from the last checkpoint; Ray's logs: {_logs()}",
        file=sys.stderr,
        flush=True,
    )


def _children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def _started_by_ray() -> list[psutil.Process]:
    """Return the children of this process that run programs of Ray, without those that the user has started."""
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(f"{os.sep}ray{os.sep}" in word for word in process.cmdline()):
                found.append(process)
    return found


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _logs() -> str:
    return os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/session_latest/logs")
