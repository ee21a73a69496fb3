"""Show how far a run is: a live line in a terminal, one log line a minute elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from rich.console import Console, Group
from rich.markup import escape
from rich.status import Status as Spinner
from rich.text import Text

from orchestrator.distributed.run_status import Report, Status
from orchestrator.distributed.search_report import SearchReport
from orchestrator.formatting import compression, duration, make_console, plain, size
from orchestrator.record import Record

LOG_SECONDS = 60.0  # between two lines without a terminal
WAITING_SECONDS = 60.0  # without a worker, before a line says so
BAR, MIN_BAR = 16, 4  # characters
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
    spinner = console.status("starting the workers") if console.is_terminal else contextlib.nullcontext()
    with spinner as live:
        shown = Shown(console, live if isinstance(live, Spinner) else None)
        last = False
        while not last:
            last = stop.wait(_POLL_SECONDS)  # once more at the end, for the last rounds
            with contextlib.suppress(ray.exceptions.RayError):  # the driver is being started again
                shown.update(ray.get(driver.status.remote(shown.finished), timeout=30))


class Shown:
    """What was shown of a run, so that nothing is shown twice. `finished`: the last round, -1 before the first."""

    def __init__(self, console: Console, live: Spinner | None) -> None:
        self.finished = -1
        self._console, self._live, self._pace = console, live, Pace()
        self._began = self._waited = time.monotonic()
        self._logged, self._restarts = -LOG_SECONDS, 0
        self._reported: Report | SearchReport | None = None
        self._resumed: tuple[int, int, int] | None = None

    def update(self, status: Status) -> None:
        """Show what is new."""
        if status.restarts > self._restarts:
            self._restarts = status.restarts
            self._print(restart_line(status, time.monotonic() - self._began))
        if not status.starts and time.monotonic() - self._waited >= WAITING_SECONDS:
            self._waited = time.monotonic()
            self._print(waiting_line())
        if status.resumed != self._resumed:
            self._resumed = status.resumed
            self._print(resumed_line(status))
        for record in status.records:
            self._console.print(round_line(record))
            self.finished = max(self.finished, record.round)
        if status.report is not None and status.report.round > self.finished:
            self._show(status.report)

    def _show(self, report: Report | SearchReport) -> None:
        """Show how far the round is: at once in a terminal, once a minute elsewhere."""
        if self._live is not None:
            self._live.update(escape(live_line(report, self._pace, self._console.width - 2)))  # 2: the spinner
        elif time.monotonic() - self._logged >= LOG_SECONDS and report != self._reported:
            self._logged, self._reported = time.monotonic(), report
            self._console.print(report_line(report, self._pace))

    def _print(self, line: str) -> None:
        self._console.print(line, style="yellow", highlight=False, markup=False)


def restart_line(status: Status, seconds: float) -> str:
    """Say that a group of workers was started again, and why."""
    why = status.crash or "a worker died without a word, as it does when memory is short or its node is gone"
    return plain(f"workers started again ({duration(seconds)} into the run): {why}")


def resumed_line(status: Status) -> str:
    """Say from which place of which round the workers go on."""
    assert status.resumed is not None
    number, epochs, steps = status.resumed
    return f"round {number} goes on from its checkpoint: {epochs} epochs and {steps} steps are done"


def waiting_line() -> str:
    """Say what the workers wait for: resources, or their own start, for which resources are reserved already."""
    groups = ray.util.placement_group_table().values()
    if not any(group["state"] == "PENDING" for group in groups):
        return "waiting for the workers, which are starting"
    free, total = ray.available_resources(), ray.cluster_resources()
    amounts = " and ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
    return f"waiting for the workers: other jobs have taken their resources; {amounts} are free"


@contextlib.contextmanager
def paths_shown(job: str) -> Iterator[None]:
    """Follow the driver actors of the sweep `job` while the block runs: a line for each path that is under way."""
    with _meanwhile(partial(_follow_paths, job, make_console())):
        yield


def _follow_paths(job: str, console: Console, stop: threading.Event) -> None:
    spinner = console.status("starting the paths") if console.is_terminal else contextlib.nullcontext()
    logged: dict[str, str] = {}
    with spinner as live:
        while not stop.wait(_POLL_SECONDS if isinstance(live, Spinner) else LOG_SECONDS):
            lines = {}
            for name in sorted(name for name in _actors() if name.startswith(f"{job}/")):
                with contextlib.suppress(ray.exceptions.RayError, ValueError):  # ended, or being started again
                    status: Status = ray.get(ray.get_actor(name).status.remote(0), timeout=5)
                    lines[name] = path_line(name.removeprefix(f"{job}/"), status)
            if isinstance(live, Spinner):
                cut = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines.values()]
                live.update(Group(*cut) if cut else "starting the paths")
            elif new := [line for name, line in lines.items() if logged.get(name) != line]:
                console.print(Text("\n".join(new)))
                logged = lines


def _actors() -> list[str]:
    with contextlib.suppress(ray.exceptions.RayError):
        names: list[str] = ray.util.list_named_actors()
        return names
    return []


def path_line(owner: str, status: Status) -> str:
    """Return what a path of a sweep does now; `owner`: the name and place of its driver."""
    path = plain(owner.partition(" on ")[0])
    if status.holder:
        return f"{path}: waits for {plain(status.holder.partition(' on ')[0])}, which trains the round that is next"
    if status.report is None or (status.records and status.records[-1].round >= status.report.round):
        return f"{path}: starting its workers" if not status.starts else f"{path}: between two rounds"
    return f"{path}: {report_line(status.report)}"


class Pace:
    """Time left, from the epochs done since this run began watching."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, report: Report) -> float | None:
        """Return the seconds until the path is finished, or None while too little is known."""
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


def live_line(report: Report | SearchReport, pace: Pace, width: int) -> str:
    """Return the line of a terminal, of at most `width` characters: the last parts are left out if they do not fit."""
    if isinstance(report, SearchReport):
        return report.line[:width]
    seconds, objective = pace.left(report), report.objective
    parts = [
        f"round {report.round}/{report.rounds}",
        f"epoch {report.epochs_done}/{report.epochs}",
        f"val {objective.text(report.metrics.val[objective.name])}",
        "" if seconds is None else f"{duration(seconds)} left",
        f"{report.samples_per_second:,.0f} samples/s",
    ]
    parts = [part for part in parts if part]
    while len("  ".join(parts)) > width and len(parts) > 1:
        parts.pop()
    space = min(BAR, width - len("  ".join(parts)) - 2)
    if space >= MIN_BAR:
        done = round(space * report.epochs_done / report.epochs)
        parts.insert(1, "━" * done + "─" * (space - done))
    return "  ".join(parts)[:width]


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
