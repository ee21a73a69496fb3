"""The driver actor's own decisions, without Ray: its class in this process."""

import json
import logging
import threading
from dataclasses import replace

import pytest
import tiny
from waiting import PATIENCE_S

from orchestrator.distributed import actor as module
from orchestrator.distributed.logs import RoundLog
from orchestrator.errors import StorageError
from orchestrator.problem import load_problem
from orchestrator.pruning import Geometric
from orchestrator.retraining import WeightRewinding
from orchestrator.training.loop import Trainer

EXPERIMENT = replace(tiny.EXPERIMENT, path=Geometric(remove=0.3, rounds=1))


def actor_of(experiment, storage):
    problem, _ = load_problem(experiment)
    return module.DriverActor.__ray_metadata__.modified_class(experiment, storage, problem, "job", "owner")


@pytest.fixture
def actor(tmp_path, monkeypatch):
    monkeypatch.setattr(module.ray, "get", lambda value: value)
    found = actor_of(EXPERIMENT, str(tmp_path))
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
        assert may_commit.wait(PATIENCE_S)
        return commit(*args)

    finishing = threading.Thread(target=actor.finish_round, args=(first, result, [(result.state, {})]))

    def acquire_and_finish(key):
        got = acquire(key)
        if key == first and finishing.ident is None:
            finishing.start()
            assert held.wait(PATIENCE_S)
        return got

    monkeypatch.setattr(driver.ledger, "commit", slow_commit)
    monkeypatch.setattr(claims, "acquire", acquire_and_finish)
    assert actor.next_key(False) == second
    assert claims.holds(first), "whoever waits for the round would train it again"
    may_commit.set()
    finishing.join(PATIENCE_S)
    assert driver.ledger.record(first) is not None
    assert not claims.holds(first)
    assert claims.holds(second)


def test_the_claim_on_an_errand_that_another_owner_has_just_done_is_given_back(actor, monkeypatch):
    _, data = load_problem(EXPERIMENT)
    dense, ledger = actor._driver.keys[0], actor._driver.ledger
    result = Trainer(EXPERIMENT, data).train(actor._driver.next_round())
    actor._driver.finish_round(dense, result)
    rewinding = actor_of(replace(EXPERIMENT, technique=WeightRewinding(1)), ledger.store.uri)
    claims, acquire, errand = rewinding._claims, rewinding._claims.acquire, f"{dense}.3"

    def acquire_after_another(key):
        if key == errand:
            ledger.write_snapshot(dense, "3", result.state)
        return acquire(key)

    monkeypatch.setattr(claims, "acquire", acquire_after_another)
    assert rewinding.next_key(True) == rewinding._driver.keys[1]
    assert not claims.holds(errand), "it would be renewed until the path ends"
    claims.close()


@pytest.fixture
def taken_over(actor):
    """The key of a round that was given to workers, and that another owner has taken over."""
    key, store = actor.next_key(False), actor._driver.ledger.store
    (link,) = store.list(f"claims/{key}")
    other = {"owner": "another", "host": "node-7", "process": "1 elsewhere", "instance": "other"}
    store.write(f"claims/{key}/2.json", json.dumps(json.loads(store.read(link)) | other).encode())
    actor._claims._renew()
    return key


def leave_progress(actor, key):
    file = f"train/{key}/000001-00000000.safetensors"
    actor._driver.ledger.store.write(file, b"left")
    return file


def test_workers_leave_a_round_that_was_taken_over_and_its_owner_goes_on_from_its_checkpoint(actor, taken_over):
    assert actor.report(taken_over, None) == "leave"
    file = leave_progress(actor, taken_over)
    actor.workers_stopped()
    assert actor._driver.ledger.store.exists(file)
    assert actor.turn() == module.Turn("wait", "another")


def test_nothing_is_left_of_a_round_that_another_owner_has_committed(actor, taken_over):
    _, data = load_problem(EXPERIMENT)
    first, second = actor._driver.keys
    actor._driver.finish_round(first, Trainer(EXPERIMENT, data).train(actor._driver.next_round()))
    file = leave_progress(actor, first)
    assert actor.report(first, None) == "leave"
    actor.workers_stopped()
    assert not actor._driver.ledger.store.exists(file)
    assert actor.next_key(True) == second
    assert actor.report(second, None) == "go on"


def test_a_run_that_is_to_stop_stops_whatever_became_of_its_claim(actor, taken_over):
    actor.stop()
    assert actor.report(taken_over, None) == "stop"


def restarted(actor):
    """The same actor as Ray starts it again: nothing that it knew is left."""
    return actor_of(EXPERIMENT, actor._driver.ledger.store.uri)


def test_an_actor_that_is_started_again_in_mid_round_renews_its_claim(actor):
    key = actor.next_key(True)
    again = restarted(actor)
    assert not again._claims.holds(key)
    assert again.report(key, None) == "go on"
    assert again._claims.holds(key)
    assert again.stop() is False, "its workers train: they have a checkpoint to write"
    again._claims.close()


def test_an_actor_that_is_started_again_too_late_lets_its_workers_leave(actor, taken_over):
    again = restarted(actor)
    assert again.report(taken_over, None) == "leave"
    assert again.turn() == module.Turn("wait", "another")
    again._claims.close()


def test_a_report_that_comes_after_its_round_claims_nothing(actor):
    first, _ = actor._driver.keys
    _, data = load_problem(EXPERIMENT)
    actor.next_key(True)
    actor._driver.finish_round(first, Trainer(EXPERIMENT, data).train(actor._driver.next_round()))
    again = restarted(actor)
    assert again.report(first, None) == "go on"
    assert not again._claims.holds(first)
    again._claims.close()


def test_nothing_is_left_of_an_errand_that_another_owner_has_done(actor):
    dense = actor._driver.keys[0]
    _, data = load_problem(EXPERIMENT)
    state = Trainer(EXPERIMENT, data).train(actor._driver.next_round()).state
    errand, ledger = f"{dense}.1", actor._driver.ledger
    file = leave_progress(actor, errand)
    actor._driver.leave_round(errand)
    assert ledger.store.exists(file), "the other owner may need it"
    ledger.write_snapshot(dense, "1", state)
    actor._driver.leave_round(errand)
    assert not ledger.store.exists(file)


def test_a_storage_that_lets_nobody_in_any_more_ends_the_run_with_its_sentence(actor, monkeypatch):
    def refuse(key):
        raise StorageError("the keys of s3://bucket/runs have expired")

    monkeypatch.setattr(actor._claims, "acquire", refuse)
    assert actor.next_key(True) is None
    assert actor.turn() == module.Turn("end")
    assert actor.status(0).failure == "the keys of s3://bucket/runs have expired"


def test_lines_of_a_round_have_its_key_whatever_round_was_asked_for_since(actor, monkeypatch, capfd):
    """While round 0 is uploaded the workers are at round 1."""
    _, data = load_problem(EXPERIMENT)
    first, second = actor._driver.keys
    result = Trainer(EXPERIMENT, data).train(actor._driver.next_round())
    actor._log = RoundLog(EXPERIMENT, "driver")  # to the standard error that is looked at here
    actor._log.round(second)
    monkeypatch.setattr(actor._driver.ledger, "commit", lambda *_: logging.getLogger("orchestrator.x").warning("slow"))
    actor.next_key(False)
    actor.finish_round(first, result, [(result.state, {})])
    actor._log.info("after")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    found = [(line["message"], line["round_key"]) for line in lines]
    assert found == [("slow", first), ("round committed", first), ("after", second)]


def test_an_actor_started_again_in_mid_round_names_the_round_in_its_log(actor, capfd):
    key = actor._driver.keys[0]
    actor._log = RoundLog(EXPERIMENT, "driver")
    assert actor.report(key, None) == "go on"
    actor._log.info("warning")
    assert json.loads(capfd.readouterr().err.splitlines()[-1])["round_key"] == key
