"""SIGTERM, with which `ray job stop` and Kubernetes end a job: it ends in order, or at least in time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SAFETY = 0.7  # of the time until SIGKILL follows


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextlib.contextmanager
def in_order(stop: Callable[[], None]) -> Iterator[None]:
    """On SIGTERM call `stop`, which makes the block end by itself; raises Terminated at its end, or when time is short.

    `ray job stop` gives a job RAY_JOB_STOP_WAIT_TIME_S seconds (3 unless set where the cluster was started).
    """
    grace = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3")) * _SAFETY
    asked = threading.Event()
    late = threading.Timer(grace, signal.raise_signal, [signal.SIGTERM])
    late.daemon = True

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise Terminated
        asked.set()
        late.start()
        threading.Thread(target=stop, daemon=True).start()  # not here, where Ray may be in the middle of a call

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        late.cancel()
        signal.signal(signal.SIGTERM, before)
    if asked.is_set():
        raise Terminated
