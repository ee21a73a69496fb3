"""SIGTERM and Ctrl-C are heard at once, and the job ends when all is safe."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from orchestrator.distributed.flags import Flags, run_job
from orchestrator.distributed.termination import RESUME, Terminated, stop_cleanly
from orchestrator.errors import ConfigError


def wait(event: threading.Event) -> None:
    """As a job waits for Ray: signals are handled meanwhile."""
    while not event.wait(0.01):
        pass


def job(stop: Callable[[threading.Event], None], *signals: int, heard: threading.Event | None = None) -> None:
    """Train for ever, with a signal after another; each one after the first when `heard` is set."""
    with stop_cleanly(stop):
        for number in signals:
            os.kill(os.getpid(), number)
            wait(heard or threading.Event())


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "Ctrl-C: stopping"), (signal.SIGTERM, "SIGTERM: stop")])
def test_a_signal_is_heard_and_what_it_asks_for_is_waited_for(number, words, capfd, monkeypatch):
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "600")
    before, stopped = signal.getsignal(number), threading.Event()
    with pytest.raises(Terminated) as caught:
        job(lambda late: stopped.set(), number)
    assert stopped.is_set()
    assert (caught.value.number, caught.value.reported) == (number, True)
    assert words in (said := capfd.readouterr().err)
    assert said.endswith(RESUME + "\n")
    assert signal.getsignal(number) is before


@contextlib.contextmanager
def broken_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error is a pipe whose reader is gone, as `tee` is after Ctrl-C in `python job.py 2>&1 | tee log`."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    reader, writer = os.pipe()
    os.close(reader)
    before = os.dup(2)
    os.dup2(writer, 2)
    monkeypatch.setattr("sys.stderr", Broken())
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(writer)
        os.close(before)


def test_a_signal_stops_a_job_whose_standard_error_is_a_broken_pipe(monkeypatch):
    stopped = threading.Event()
    with pytest.raises(Terminated) as caught, broken_stderr(monkeypatch):
        job(lambda late: stopped.set(), signal.SIGINT)
    assert stopped.is_set()
    assert caught.value.number == signal.SIGINT


def test_a_job_that_cannot_print_its_last_line_keeps_its_exit_code(monkeypatch):
    def interrupted(flags: Flags) -> int:
        raise KeyboardInterrupt

    def refused(flags: Flags) -> int:
        raise ConfigError("no")

    before = signal.getsignal(signal.SIGTERM)
    with broken_stderr(monkeypatch):
        codes = [run_job(Flags(), each) for each in (interrupted, refused)]
    signal.signal(signal.SIGTERM, before)
    assert codes == [130, 1]


def test_ctrl_c_once_more_ends_at_once(capfd):
    asked = threading.Event()

    def stop(late: threading.Event) -> None:
        asked.set()
        wait(late)

    with pytest.raises(Terminated) as caught:
        job(stop, signal.SIGINT, signal.SIGINT, heard=asked)
    assert caught.value.number == signal.SIGINT
    assert capfd.readouterr().err.count("Ctrl-C: stopping") == 1


def test_sigterm_waits_no_longer_than_the_grace_time(monkeypatch):
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "0")
    with pytest.raises(Terminated):
        job(wait, signal.SIGTERM)


def test_nothing_happens_without_a_signal():
    job(wait)
