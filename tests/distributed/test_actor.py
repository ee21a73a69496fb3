"""The driver actor's own decisions, without Ray: its class in this process."""

import threading
from dataclasses import replace

import pytest
import tiny

from orchestrator.distributed import actor as module
from orchestrator.problem import load_problem
from orchestrator.pruning import Geometric
from orchestrator.training.loop import Trainer

EXPERIMENT = replace(tiny.EXPERIMENT, path=Geometric(remove=0.3, rounds=1))


@pytest.fixture
def actor(tmp_path, monkeypatch):
    monkeypatch.setattr(module.ray, "get", lambda value: value)
    problem, _ = load_problem(EXPERIMENT)
    found = module.DriverActor.__ray_metadata__.modified_class(EXPERIMENT, str(tmp_path), problem, "job", "owner")
    yield found
    found._claims.close()


def test_a_result_that_comes_while_the_next_round_is_asked_for(actor, monkeypatch):
    """The claim of the round stays until its record is there, and the answer is the round after it."""
    driver, claims = actor._driver, actor._claims
    first, second = driver.keys
    assert actor.next_key(False) == first
    _, data = load_problem(EXPERIMENT)
    result = Trainer(EXPERIMENT, data).train(driver.next_round())
    held, may_commit = threading.Event(), threading.Event()
    commit, acquire = driver.ledger.commit, claims.acquire

    def slow_commit(*args):
        held.set()
        assert may_commit.wait(20)
        return commit(*args)

    finishing = threading.Thread(target=actor.finish_round, args=(first, result, [(result.state, {})]))

    def acquire_and_finish(key):
        got = acquire(key)
        if key == first and finishing.ident is None:
            finishing.start()
            assert held.wait(20)
        return got

    monkeypatch.setattr(driver.ledger, "commit", slow_commit)
    monkeypatch.setattr(claims, "acquire", acquire_and_finish)
    assert actor.next_key(False) == second
    assert claims.holds(first), "whoever waits for the round would train it again"
    may_commit.set()
    finishing.join(20)
    assert driver.ledger.record(first) is not None
    assert not claims.holds(first)
    assert claims.holds(second)
