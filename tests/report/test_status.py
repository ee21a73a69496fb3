"""What `orchestrator status --follow` prints while rounds are trained."""

import re

import pytest
from report.synthetic import path_of, write

from orchestrator.report.status import StorageView, changes, read_view
from orchestrator.storage.claims import Claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.progress import write_progress
from orchestrator.train_state import TrainState
from orchestrator.work.train import Progress

NOTHING = StorageView({}, {}, {}, {})


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(open_store(str(tmp_path / "runs")))


def news(ledger: Ledger, before: StorageView) -> tuple[list[str], StorageView]:
    after = read_view(ledger, before)
    return sorted(changes(before, after)), after


def test_a_finished_round_is_printed_once(ledger):
    write(ledger, [path_of("tiny", 0, 3)])
    printed, seen = news(ledger, NOTHING)
    assert len(printed) == 4
    assert re.match(r"tiny, seed 0: round 0 done \(\w{8}\), 1.0x  accuracy: val ", printed[0])
    assert news(ledger, seen)[0] == []
    write(ledger, [path_of("tiny", 1, 3)])
    assert len(news(ledger, seen)[0]) == 4


def test_an_unfinished_round_is_printed_with_its_owner_and_its_checkpoint(ledger):
    key = "ab" * 32
    ledger.write_experiment("digits", 0, {"name": "digits", "seed": 0, "densities": [], "keys": ["cd" * 32, key]})
    with Claims(ledger.store, "digits.0 on host-7") as claims:
        assert claims.acquire(key)
        printed, seen = news(ledger, NOTHING)
        assert printed == ["digits, seed 0: round 1 is trained by digits.0 on host-7, from its beginning"]
        write_progress(ledger.store, Progress(key, 12, TrainState({}), (), 1.0, 1, steps_done=340))
        printed, seen = news(ledger, seen)
        assert printed == ["digits, seed 0: round 1 is trained by digits.0 on host-7, 12 epochs and 340 steps are safe"]
        assert news(ledger, seen)[0] == []
    assert news(ledger, NOTHING)[0] == [], "released"


def test_a_failure_is_printed_without_control_characters(ledger):
    ledger.write_failure("cd" * 32, {"key": "cd" * 32, "experiment": "e\x1b[2J", "round": 1, "reason": "diverged"})
    printed, _ = news(ledger, NOTHING)
    assert printed == ["e [2J: round 1 failed: diverged"]


def test_claims_on_finished_rounds_are_not_read_again_and_again(ledger, monkeypatch):
    """A claim keeps its last file for ever, and a sweep has thousands of claims."""
    write(ledger, [path := path_of("tiny", 0, 0)])
    key = path[0].key
    with Claims(ledger.store, "digits.0 on host-7", lease_seconds=3600) as claims:  # no heartbeat in between
        assert claims.acquire(key)
        assert claims.acquire("ab" * 32)
        seen, read, asked = read_view(ledger, NOTHING), type(ledger.store).read, []
        monkeypatch.setattr(type(ledger.store), "read", lambda *a: asked.append(a[1]) or read(*a))
        assert read_view(ledger, seen).owners == {"ab" * 32: "digits.0 on host-7"}
    assert asked == [f"claims/{'ab' * 32}/1.json"]
