"""Stop a job cleanly, or at least in time, on Ctrl-C and on SIGTERM, which `ray job stop` and Kubernetes send."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

RESUME = "stopped; run the same command again to resume from the last checkpoint"
_MESSAGES = {
    signal.SIGINT: "\nCtrl-C: stopping as soon as a checkpoint is written; Ctrl-C once more stops at once\n",
    signal.SIGTERM: "SIGTERM: stopping as soon as a checkpoint is written\n",
}
_SAFETY = 0.8  # fraction to use of the time until SIGKILL


class Terminated(KeyboardInterrupt):
    """A signal ends the job. `reported`: whether the job has printed how to resume."""

    def __init__(self, number: int = signal.SIGTERM, *, reported: bool = False) -> None:
        super().__init__()
        self.number, self.reported = number, reported


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Raise Terminated; a signal handler."""
    raise Terminated(number)


@contextlib.contextmanager
def stop_cleanly(stop: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM or Ctrl-C; raise Terminated when it returns, which is when all is safe, or time is short.

    `stop` gets an event that is set when it must not ask actors any more. `ray job stop` gives a job
    RAY_JOB_STOP_WAIT_TIME_S seconds (3 unless set where the cluster was started); after Ctrl-C the time is unlimited. A
    second signal ends the job at once. Signals reach the main thread only: in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    late = threading.Event()

    def in_time(number: int) -> None:
        with contextlib.suppress(OSError):  # standard error may be a pipe to `tee`, which the same Ctrl-C has ended
            os.write(
                2, _MESSAGES[signal.Signals(number)].encode()
            )  # print() is not safe: the signal may have interrupted it
        stopping = threading.Thread(
            target=stop, args=[late], daemon=True
        )  # not in the handler: the signal may have interrupted a call of Ray
        stopping.start()
        stopping.join(_grace() if number == signal.SIGTERM else None)
        if not late.is_set():
            signal.raise_signal(number)

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise Terminated(asked[0])
        threading.Thread(target=in_time, args=[number], daemon=True).start()

    before = {number: signal.signal(number, handle) for number in _MESSAGES}
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
        # Printed now, because shutting Ray down may take longer than the time that is left.
        print_last(RESUME)
        raise Terminated(asked[0], reported=True)


def print_last(text: str) -> None:
    """Print `text` to standard error, unless the reader of the pipe has ended."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _grace() -> float:
    """Return the seconds that SIGTERM leaves to the job."""
    return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3")) * _SAFETY
