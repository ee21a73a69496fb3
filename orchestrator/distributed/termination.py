"""SIGTERM, with which `ray job stop` and Kubernetes end a job: it ends in order, or at least in time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GO_ON = "stopped; the same command goes on from the last checkpoint"
_SAFETY = 0.8  # of the time until SIGKILL follows


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. `told`: whether whoever started the job knows how to go on."""

    told = False


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextlib.contextmanager
def in_order(stop: Callable[[threading.Event], None]) -> Iterator[None]:
    """On SIGTERM call `stop`, which returns when all is safe; then, or when time is short, raise Terminated.

    `stop` gets an event that is set when it is too late to ask anybody. `ray job stop` gives a job
    RAY_JOB_STOP_WAIT_TIME_S seconds (3 unless set where the cluster was started). Signals reach the main thread: in
    another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    grace = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3")) * _SAFETY
    asked, late = threading.Event(), threading.Event()

    def in_time() -> None:
        stopping = threading.Thread(target=stop, args=[late], daemon=True)  # not in the handler: Ray may be in a call
        stopping.start()
        stopping.join(grace)
        if not late.is_set():
            signal.raise_signal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise Terminated
        asked.set()
        threading.Thread(target=in_time, daemon=True).start()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except KeyboardInterrupt:
        if not asked.is_set():
            raise
    finally:
        late.set()
        signal.signal(signal.SIGTERM, before)
    if asked.is_set():
        # Said now, as tearing Ray down may take longer than the time that is left.
        print(GO_ON, file=sys.stderr, flush=True)
        terminated = Terminated()
        terminated.told = True
        raise terminated
