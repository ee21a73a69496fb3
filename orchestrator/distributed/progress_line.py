"""Show how far a run is: a live line in a terminal, one log line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from rich.console import Console
from rich.markup import escape
from rich.status import Status as Spinner

from orchestrator.distributed.actor import Report, Status
from orchestrator.distributed.search_report import SearchReport
from orchestrator.formatting import compression, duration, make_console, plain, size
from orchestrator.record import Record

LOG_SECONDS = 10.0  # between two lines where there is no terminal
WAITING_SECONDS = 60.0  # without a worker, or without anything new, before a line says so
_POLL_SECONDS = 0.5


@contextlib.contextmanager
def show_progress(driver: Any, console: Console) -> Iterator[None]:
    """Follow the driver actor while the block runs."""
    with _meanwhile(partial(_follow, driver, console)):
        yield


@contextlib.contextmanager
def _meanwhile(follow: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `follow` in a thread until the block ends, which sets its event."""
    stop = threading.Event()
    thread = threading.Thread(target=follow, args=[stop], daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def _follow(driver: Any, console: Console, stop: threading.Event) -> None:
    began, logged, restarts, started, finished = time.monotonic(), 0.0, 0, False, -1
    pace, asked, shown_last = Pace(), began, None
    spinner = console.status("starting the workers") if console.is_terminal else contextlib.nullcontext()
    with spinner as live:
        last = False
        while not last:
            last = stop.wait(_POLL_SECONDS)  # once more at the end, for the last rounds
            try:
                status: Status = ray.get(driver.status.remote(finished), timeout=30)
            except ray.exceptions.RayError:
                continue  # the driver is being started again
            if status.restarts > restarts:
                after = duration(time.monotonic() - began)
                why = f": {escape(plain(status.crash))}" if status.crash else ""
                console.print(f"[yellow]workers started again[/yellow] ({after} into the run){why}", highlight=False)
            started = started or status.starts > 0
            if not started and time.monotonic() - asked >= WAITING_SECONDS:
                asked = time.monotonic()
                with contextlib.suppress(ray.exceptions.RayError):
                    free = ray.available_resources()
                    console.print(
                        f"waiting for the workers: {free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU are free"
                    )
            restarts = status.restarts
            for record in status.records:
                console.print(round_line(record))
            finished = max([finished, *(record.round for record in status.records)])
            if status.report is None or status.report.round <= finished:
                continue
            line = report_line(status.report, pace)
            if isinstance(live, Spinner):
                live.update(line)
            elif time.monotonic() - logged >= (LOG_SECONDS if status.report != shown_last else WAITING_SECONDS):
                logged, shown_last = time.monotonic(), status.report
                console.print(line)


@contextlib.contextmanager
def paths_shown(job: str) -> Iterator[None]:
    """Follow the driver actors of the sweep `job` while the block runs: a line for each path that is under way."""
    with _meanwhile(partial(_follow_paths, job, make_console())):
        yield


def _follow_paths(job: str, console: Console, stop: threading.Event) -> None:
    spinner = console.status("starting the paths") if console.is_terminal else contextlib.nullcontext()
    with spinner as live:
        while not stop.wait(_POLL_SECONDS if isinstance(live, Spinner) else LOG_SECONDS):
            lines = []
            try:
                for name in sorted(name for name in ray.util.list_named_actors() if name.startswith(f"{job}/")):
                    status: Status = ray.get(ray.get_actor(name).status.remote(0), timeout=5)
                    lines.append(path_line(name.removeprefix(f"{job}/"), status))
            except (ray.exceptions.RayError, ValueError):
                continue  # a path has ended a moment ago, or its driver is being started again
            if isinstance(live, Spinner):
                live.update("\n".join(lines) or "starting the paths")
            elif lines:
                console.print("\n".join(lines))


def path_line(owner: str, status: Status) -> str:
    """What a path of a sweep is at; `owner`: the name and place of its driver."""
    path = escape(owner.partition(" on ")[0])
    if status.holder:
        return f"{path}: waits for {escape(status.holder.partition(' on ')[0])}, which trains the round that is next"
    if status.report is None or (status.records and status.records[-1].round >= status.report.round):
        return f"{path}: starting its workers" if not status.starts else f"{path}: between two rounds"
    return f"{path}: {report_line(status.report)}"


class Pace:
    """Time left, from the epochs done since this run began watching."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, report: Report) -> float | None:
        """Seconds until the path is finished, or None while too little is known."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, report.epochs_left)
        began, at_first = self._first
        done = at_first - report.epochs_left
        return (now - began) / done * report.epochs_left if done > 0 else None


def report_line(report: Report | SearchReport, pace: Pace | None = None) -> str:
    """Return the line of a round or of a search; `pace` tells how much time a round's path has left."""
    if isinstance(report, SearchReport):
        return report.line
    return epoch_line(report, pace.left(report) if pace else None)


def epoch_line(report: Report, seconds_left: float | None) -> str:
    metrics, objective = report.metrics, report.objective
    left = "" if seconds_left is None else f"  {duration(seconds_left)} left"
    return (
        f"round {report.round}/{report.rounds}  epoch {report.epochs_done}/{report.epochs}  "
        f"density {report.density:.3f}  lr {metrics.lr:.3g}  loss {metrics.train_loss:.4f}  "
        f"val {objective.text(metrics.val[objective.name])}  {report.samples_per_second:,.0f} samples/s on "
        f"{report.workers} worker(s){left}"
    )


def round_line(record: Record) -> str:
    text = record.objective.text
    dead = f"  no weight left in: {', '.join(record.dead_layers)}" if record.dead_layers else ""
    return (
        f"round {record.round} done: density {record.density:.3f} ({compression(record.compression)})  "
        f"val {text(record.val)}  test {text(record.test)}  "
        f"{size(record.model_bytes)}  {duration(record.seconds)}{dead}"
    )
