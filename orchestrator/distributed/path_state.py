"""Decide from the events of a path's workers whether it continues: named states, and one pure function.

                      AskForGroup                GroupStarted
    "none" ────────────────────────▶ "expected" ─────────────▶ "running" ──▶ "none" (GroupStopped)
                                                                  │  ▲
                        AskForGroup (the group ended by itself)   ▼  │ GroupStarted: a restart
                                                               "replaced"

Ray Train starts a group again by itself when a worker dies: that is a GroupStarted while "running". A driver actor
begins as "unknown", which is "none" unless it was restarted: then workers may be training (GroupTrains).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

MAX_FRUITLESS_STARTS = 5  # of a round without one finished epoch
MAX_FAILED_COMMITS = 3  # in a row
_NO_REASON = "see the workers' logs for why they died (memory is the usual cause)"


@dataclass(frozen=True)
class PathState:
    """State of the workers of a path.

    `starts`: number of groups of workers that started; `restarts`: how many of them Ray Train started again by itself.
    `crash`: the error of the last worker that crashed. `failure`: why the path failed. `place`: key and place of the
    furthest work so far. `errors`: the number of the start that raised each error, since the last progress.
    `work`: key of the work that the workers do. `taken_over`: another owner has it, as a restarted driver actor found.
    `holder`: the owner of the round that the path waits for.
    """

    workers: Literal["unknown", "none", "expected", "replaced", "running"] = "unknown"
    stop_asked: bool = False
    failure: str | None = None
    crash: str | None = None
    starts: int = 0
    restarts: int = 0
    fruitless_starts: int = 0
    failed_commits: int = 0
    place: tuple[str, tuple[int, int]] = ("", (0, 0))
    errors: Mapping[str, int] = field(default_factory=dict)
    work: str | None = None
    taken_over: bool = False
    holder: str | None = None

    @property
    def is_over(self) -> bool:
        """Return whether no further group of workers may start."""
        return self.stop_asked or self.failure is not None


@dataclass(frozen=True)
class AskForGroup:
    """The path needs a group of workers for its next work."""


@dataclass(frozen=True)
class NoGroupNeeded:
    """The path is finished, or waits for the round of another owner, the `holder`."""

    holder: str | None = None


@dataclass(frozen=True)
class GroupStarted:
    """A group of workers asks for its first work."""


@dataclass(frozen=True)
class GroupTrains:
    """A group is training, which the driver actor may not know after its restart.

    `work`: its key, where it was not known. `taken_over`: another owner has it meanwhile.
    """

    work: str | None = None
    taken_over: bool = False


@dataclass(frozen=True)
class WorkTaken:
    """The workers take this work. None: they end."""

    work: str | None


@dataclass(frozen=True)
class GroupStopped:
    """A group of workers ended, and its work is in storage."""


@dataclass(frozen=True)
class Progressed:
    """Workers have finished an epoch, or sent an answer."""


@dataclass(frozen=True)
class Resumed:
    """The workers resume a work from this place."""

    key: str
    place: tuple[int, int]


@dataclass(frozen=True)
class Crashed:
    """A worker, or the process that starts workers, crashed. `lost`: because another process was lost."""

    error: str
    log: str
    lost: bool


@dataclass(frozen=True)
class Committed:
    """An answer is in storage."""


@dataclass(frozen=True)
class CommitFailed:
    """An answer could not be stored."""

    error: str


@dataclass(frozen=True)
class StopAsked:
    """The user, or the cluster, asks the run to end."""


@dataclass(frozen=True)
class GivenUp:
    """The path has failed."""

    reason: str


Event: TypeAlias = (
    AskForGroup
    | NoGroupNeeded
    | GroupStarted
    | GroupTrains
    | WorkTaken
    | GroupStopped
    | Progressed
    | Resumed
    | Crashed
    | Committed
    | CommitFailed
    | StopAsked
    | GivenUp
)


def decide(state: PathState, event: Event) -> PathState:
    """Return the state after `event`. A failure, once set, stays."""
    match event:
        case AskForGroup():
            never_started = state.workers in ("expected", "replaced")
            unasked = state.workers in ("unknown", "none")
            return _counted(replace(state, workers="expected" if unasked else "replaced", holder=None), never_started)
        case GroupStarted():
            restarts = state.restarts + (state.workers != "expected")
            state = replace(state, workers="running", starts=state.starts + 1, restarts=restarts, taken_over=False)
            return _counted(state, True)
        case GroupTrains(work, taken_over):
            return replace(state, workers="running", work=work or state.work, taken_over=taken_over)
        case WorkTaken(work):
            return replace(state, work=work)
        case NoGroupNeeded(holder):
            return replace(state, workers="none", holder=holder)
        case GroupStopped():
            return replace(state, workers="none")
        case Progressed():
            return replace(state, fruitless_starts=0, errors={})
        case Resumed(key, place):
            if key == state.place[0] and place <= state.place[1]:
                return state
            return replace(state, place=(key, place), fruitless_starts=0, errors={})
        case Crashed(error, log, lost):
            return _after_crash(state, error, f"{error}; the worker's log: {log}" if log else error, lost)
        case Committed():
            return replace(state, failed_commits=0)
        case CommitFailed(error):
            state = replace(state, failed_commits=state.failed_commits + 1)
            if state.failed_commits < MAX_FAILED_COMMITS:
                return state
            count = MAX_FAILED_COMMITS
            return _failed(state, f"{count} results in a row could not be committed, the last one because: {error}")
        case StopAsked():
            return replace(state, stop_asked=True)
        case GivenUp(reason):
            return _failed(state, reason)


def _counted(state: PathState, start: bool) -> PathState:
    """Count a start of a group; give up after too many of them without progress."""
    state = replace(state, fruitless_starts=state.fruitless_starts + start)
    if state.fruitless_starts <= MAX_FRUITLESS_STARTS:
        return state
    why = f"the last worker that crashed raised {state.crash}" if state.crash else _NO_REASON
    count = MAX_FRUITLESS_STARTS
    return _failed(state, f"a round was started {count} times and no attempt finished an epoch: {why}")


def _after_crash(state: PathState, error: str, with_log: str, lost: bool) -> PathState:
    """Give up if the same error comes in a second start without progress.

    Not if a worker died because another one was lost: all survivors raise the same error each time, and the next group
    may live longer.
    """
    state = replace(state, crash=with_log)
    if lost:
        return state
    if state.errors.get(error, state.starts) < state.starts:
        return _failed(state, f"two attempts ended in the same error: {with_log}")
    return replace(state, errors={error: state.starts, **state.errors})


def _failed(state: PathState, reason: str) -> PathState:
    return replace(state, failure=state.failure or reason)
