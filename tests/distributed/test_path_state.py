"""What happens to a path's workers, event by event: a pure function, without Ray."""

import pytest

from orchestrator.distributed.path_state import (
    MAX_FAILED_COMMITS,
    MAX_FRUITLESS_STARTS,
    AskForGroup,
    CommitFailed,
    Committed,
    Crashed,
    GivenUp,
    GroupStarted,
    GroupStopped,
    GroupTrains,
    NoGroupNeeded,
    PathState,
    Progressed,
    Resumed,
    StopAsked,
    WorkTaken,
    decide,
)

ERROR = Crashed("KeyError: 'x'", "node:/log", lost=False)
PEER = Crashed("PeerError: closed", "", lost=True)


def after(*events, state=None):
    state = state or PathState()
    for event in events:
        state = decide(state, event)
    return state


@pytest.mark.parametrize(
    ("events", "workers", "starts", "restarts"),
    [
        ([], "unknown", 0, 0),
        ([AskForGroup()], "expected", 0, 0),
        ([AskForGroup(), GroupStarted()], "running", 1, 0),
        ([AskForGroup(), GroupStarted(), GroupStopped()], "none", 1, 0),
        ([AskForGroup(), GroupStarted(), GroupStopped(), AskForGroup(), GroupStarted()], "running", 2, 0),
        ([AskForGroup(), GroupStarted(), GroupStarted()], "running", 2, 1),  # Ray Train replaced a dead worker
        ([AskForGroup(), GroupStarted(), AskForGroup()], "replaced", 1, 0),  # its controller died
        ([AskForGroup(), GroupStarted(), AskForGroup(), GroupStarted()], "running", 2, 1),
        ([AskForGroup(), AskForGroup()], "replaced", 0, 0),  # the first one never started
        ([AskForGroup(), NoGroupNeeded()], "none", 0, 0),
        ([GroupTrains()], "running", 0, 0),
        ([AskForGroup(), GroupStarted(), GroupTrains()], "running", 1, 0),
        ([GroupTrains(), GroupStarted()], "running", 1, 1),
    ],
)
def test_groups_that_nobody_asked_for_count_as_restarts(events, workers, starts, restarts):
    state = after(*events)
    assert (state.workers, state.starts, state.restarts) == (workers, starts, restarts)
    assert not state.is_over


@pytest.mark.parametrize(
    ("events", "work", "taken_over"),
    [
        ([AskForGroup(), GroupStarted()], None, False),
        ([GroupStarted(), WorkTaken("first")], "first", False),
        ([GroupStarted(), WorkTaken("first"), GroupTrains(), WorkTaken("second")], "second", False),
        ([GroupStarted(), WorkTaken("first"), GroupTrains(), WorkTaken(None)], None, False),
        ([GroupStarted(), WorkTaken("first"), GroupStarted()], "first", False),  # until it takes a work itself
        ([GroupTrains("first", taken_over=False)], "first", False),  # the driver actor was restarted
        ([GroupTrains("first", taken_over=True)], "first", True),
        ([GroupTrains("first", taken_over=True), GroupTrains()], "first", False),  # it asks for its next work
        ([GroupTrains("first", taken_over=True), GroupStopped(), GroupStarted()], "first", False),
    ],
)
def test_the_work_of_the_workers_is_known_and_whether_another_owner_has_it(events, work, taken_over):
    state = after(*events)
    assert (state.work, state.taken_over) == (work, taken_over)


def test_the_owner_of_a_round_is_known_while_the_path_waits_for_it():
    assert after(NoGroupNeeded("another")).holder == "another"
    assert after(NoGroupNeeded("another"), NoGroupNeeded()).holder is None
    assert after(NoGroupNeeded("another"), AskForGroup()).holder is None


FRUITLESS = [AskForGroup(), *[GroupStarted()] * MAX_FRUITLESS_STARTS]


@pytest.mark.parametrize("progress", [Progressed(), Resumed("round", (0, 7))])
def test_a_round_is_given_up_after_many_starts_without_progress(progress):
    assert not after(*FRUITLESS).is_over
    assert after(*FRUITLESS, GroupStarted()).failure.startswith(
        f"a round was started {MAX_FRUITLESS_STARTS} times and no attempt finished an epoch: see the workers' logs"
    )
    assert not after(*FRUITLESS, progress, GroupStarted()).is_over
    assert "raised KeyError: 'x'; the worker's log: node:/log" in after(ERROR, *FRUITLESS, GroupStarted()).failure


def test_going_on_from_the_same_place_is_not_progress():
    resumed = after(Resumed("round", (1, 0)), *FRUITLESS)
    assert after(Resumed("round", (1, 0)), GroupStarted(), state=resumed).is_over
    assert after(Resumed("round", (0, 9)), GroupStarted(), state=resumed).is_over
    assert not after(Resumed("round", (1, 1)), GroupStarted(), state=resumed).is_over
    assert not after(Resumed("next", (0, 0)), GroupStarted(), state=resumed).is_over


def test_groups_that_never_start_are_not_asked_for_without_end():
    asked = [AskForGroup()] * (MAX_FRUITLESS_STARTS + 1)
    assert not after(*asked).is_over
    assert after(*asked, AskForGroup()).is_over


@pytest.mark.parametrize(
    ("events", "fails"),
    [
        ([ERROR, ERROR], False),  # two workers of one group
        ([ERROR, GroupStarted(), ERROR], True),
        ([ERROR, GroupStarted(), Progressed(), ERROR], False),
        ([ERROR, GroupStarted(), PEER, PEER], False),
        ([PEER, GroupStarted(), PEER, GroupStarted(), PEER], False),
        ([ERROR, GroupStarted(), Crashed("OSError: other", "", lost=False)], False),
    ],
)
def test_the_same_error_in_two_attempts_ends_the_path_and_a_lost_peer_does_not(events, fails):
    state = after(GroupStarted(), *events)
    assert state.is_over == fails
    assert state.crash
    if fails:
        assert state.failure == "two attempts ended in the same error: KeyError: 'x'; the worker's log: node:/log"


def test_commits_that_fail_in_a_row_end_the_path():
    failed = [CommitFailed("S3 is away")] * (MAX_FAILED_COMMITS - 1)
    assert not after(*failed, Committed(), *failed).is_over
    assert after(*failed, CommitFailed("S3 is gone")).failure == (
        f"{MAX_FAILED_COMMITS} results in a row could not be committed, the last one because: S3 is gone"
    )


def test_a_stop_and_a_failure_end_the_path_and_the_first_failure_stays():
    assert after(StopAsked()).is_over
    assert after(StopAsked()).failure is None
    assert after(GivenUp("first"), GivenUp("second"), *FRUITLESS, GroupStarted()).failure == "first"
