"""SIGTERM, with which `ray job stop` and Kubernetes end a job, and Ctrl-C: it ends in order, or at least in time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GO_ON = "stopped; the same command goes on from the last checkpoint"
_HEARD = {
    signal.SIGINT: "\nCtrl-C: stopping as soon as a checkpoint is written; Ctrl-C once more stops at once\n",
    signal.SIGTERM: "SIGTERM: stopping as soon as a checkpoint is written\n",
}
_SAFETY = 0.8  # of the time until SIGKILL follows


class Terminated(KeyboardInterrupt):
    """A signal ends the job. `told`: whether the job has printed how to go on."""

    def __init__(self, number: int = signal.SIGTERM, *, told: bool = False) -> None:
        super().__init__()
        self.number, self.told = number, told


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


@contextlib.contextmanager
def stop_cleanly(stop: Callable[[threading.Event], None]) -> Iterator[None]:
    """On SIGTERM or Ctrl-C call `stop`, which returns when all is safe; then, or when time is short, raise Terminated.

    `stop` gets an event that is set when it is too late to ask anybody. `ray job stop` gives a job
    RAY_JOB_STOP_WAIT_TIME_S seconds (3 unless set where the cluster was started); after Ctrl-C there is no limit. A
    second signal ends the job at once. Signals reach the main thread: in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    late = threading.Event()

    def in_time(number: int) -> None:
        with contextlib.suppress(OSError):  # a pipe into `tee`, which the same Ctrl-C has ended
            os.write(2, _HEARD[signal.Signals(number)].encode())  # print() may be in a call
        stopping = threading.Thread(target=stop, args=[late], daemon=True)  # not in the handler: Ray may be in a call
        stopping.start()
        stopping.join(_grace() if number == signal.SIGTERM else None)
        if not late.is_set():
            signal.raise_signal(number)

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise Terminated(asked[0])
        threading.Thread(target=in_time, args=[number], daemon=True).start()

    before = {number: signal.signal(number, handle) for number in _HEARD}
    try:
        yield
    except KeyboardInterrupt:
        if not asked:
            raise
    finally:
        late.set()
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        # Said now, as tearing Ray down may take longer than the time that is left.
        print_last(GO_ON)
        raise Terminated(asked[0], told=True)


def print_last(text: str) -> None:
    """Print `text` to standard error if it can still be written to: the reader of a pipe may be gone."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _grace() -> float:
    """Seconds that SIGTERM leaves to the job."""
    return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3")) * _SAFETY
