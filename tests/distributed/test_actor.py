"""The driver actor's own decisions, without Ray: its class in this process."""

import errno
import json
import logging
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from searching import AMC, SEARCHED, scored, searching
from searching import works as do_works
from waiting import PATIENCE_S

from orchestrator.amc.agents import Evolution
from orchestrator.distributed import actor as module
from orchestrator.distributed import worker
from orchestrator.distributed.logs import RoundLog
from orchestrator.distributed.metrics import Metrics
from orchestrator.distributed.path_state import MAX_FAILED_COMMITS, MAX_FRUITLESS_STARTS
from orchestrator.errors import StorageError
from orchestrator.problem import load_problem
from orchestrator.pruning import Geometric
from orchestrator.sealed import seal, unseal
from orchestrator.techniques import WeightRewinding
from orchestrator.training.distillation import Distillation
from orchestrator.training.trainer import Trainer
from orchestrator.work.scoring import Evaluate
from orchestrator.work.snapshot import snapshot_key
from orchestrator.work.train import Train

EXPERIMENT = replace(tiny.EXPERIMENT, path=Geometric(remove=0.3, rounds=1))


def actor_of(experiment, storage, owner="owner"):
    problem, _ = load_problem(experiment)
    return module.DriverActor.__ray_metadata__.modified_class(experiment, storage, problem, "job", owner)


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
    work = driver.next_work()
    result = Trainer(EXPERIMENT, data).train(work)
    held, may_commit = threading.Event(), threading.Event()
    commit, acquire = driver.ledger.commit, claims.acquire

    def slow_commit(*args):
        held.set()
        assert may_commit.wait(PATIENCE_S)
        return commit(*args)

    finishing = threading.Thread(target=actor.finish, args=(work, [result]))

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


def test_a_record_of_a_job_on_ray_has_the_version_of_ray(actor):
    work = actor._driver.next_work()
    record = actor._driver.finish(work, Trainer(EXPERIMENT, load_problem(EXPERIMENT)[1]).train(work))
    assert record.versions["ray"] == module.ray.__version__
    assert record.versions["torch"] == torch.__version__


def test_a_worker_gets_start_masks_and_teacher_through_the_object_store(actor, monkeypatch):
    experiment = replace(EXPERIMENT, distillation=Distillation())
    _, data = load_problem(experiment)
    taught = actor_of(experiment, actor._driver.ledger.store.uri)
    _, second = taught._driver.keys
    dense = taught._driver.next_work()
    result = Trainer(experiment, data).train(dense)
    taught._driver.finish(dense, result)
    whole = taught._driver.next_work()
    monkeypatch.setattr(module.ray, "put", lambda value: value)
    light, _ = taught.work(second)
    assert (light.start, light.structure.tensors(), light.teacher) == (None, {}, None)
    remote = SimpleNamespace(work=SimpleNamespace(remote=taught.work))
    work = worker.DriverLink(remote, Metrics("tiny", 0)).work(second)
    assert work.origin() == whole.origin()
    assert torch.equal(work.teacher.model["0.weight"], result.state.model["0.weight"])
    taught._claims.close()


def test_the_claim_on_an_work_that_another_owner_has_just_done_is_given_back(actor, monkeypatch):
    _, data = load_problem(EXPERIMENT)
    dense, ledger = actor._driver.keys[0], actor._driver.ledger
    dense_work = actor._driver.next_work()
    result = Trainer(EXPERIMENT, data).train(dense_work)
    actor._driver.finish(dense_work, result)
    rewinding = actor_of(replace(EXPERIMENT, technique=WeightRewinding(1)), ledger.store.uri)
    claims, acquire, work = rewinding._claims, rewinding._claims.acquire, snapshot_key(dense, 3)

    def acquire_after_another(key):
        if key == work:
            ledger.write_snapshot(dense, "3", result.state)
        return acquire(key)

    monkeypatch.setattr(claims, "acquire", acquire_after_another)
    assert rewinding.next_key(True) == rewinding._driver.keys[1]
    assert not claims.holds(work), "it would be renewed until the path ends"
    claims.close()


def test_a_snapshot_that_no_start_can_make_fails_the_round_that_needs_it_and_is_claimed_no_more(actor):
    _, data = load_problem(EXPERIMENT)
    work, ledger = actor._driver.next_work(), actor._driver.ledger
    actor._driver.finish(work, Trainer(EXPERIMENT, data).train(work))
    rewinding = actor_of(replace(EXPERIMENT, technique=WeightRewinding(1)), ledger.store.uri)
    snapshot, claims = snapshot_key(work.key, 3), rewinding._claims
    for _ in range(MAX_FRUITLESS_STARTS):
        assert rewinding.next_key(True) == snapshot
    assert claims.holds(snapshot)
    assert rewinding.next_key(True) is None
    assert not claims.holds(snapshot), "another path would wait for it until this actor ends"
    assert ledger.failure(rewinding._driver.keys[1]) is not None
    claims.close()


@pytest.fixture
def taken_over(actor):
    """The key of a round that was given to workers, and that another owner has taken over."""
    key, store = actor.next_key(False), actor._driver.ledger.store
    (link,) = store.list(f"claims/{key}")
    other = {"owner": "another", "host": "node-7", "process": "1 elsewhere", "instance": "other"}
    store.write(f"claims/{key}/2.json", seal(unseal(store.read(link)) | other))
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
    assert actor.next_step() == module.NextStep("wait", "another")


def test_nothing_is_left_of_a_round_that_another_owner_has_committed(actor, taken_over):
    _, data = load_problem(EXPERIMENT)
    first, second = actor._driver.keys
    work = actor._driver.next_work()
    actor._driver.finish(work, Trainer(EXPERIMENT, data).train(work))
    file = leave_progress(actor, first)
    assert actor.report(first, None) == "leave"
    actor.workers_stopped()
    assert not actor._driver.ledger.store.exists(file)
    assert actor.next_key(True) == second
    assert actor.report(second, None) == "continue"


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
    assert again.report(key, None) == "continue"
    assert again._claims.holds(key)
    assert again.stop() is False, "its workers train: they have a checkpoint to write"
    again._claims.close()


def test_an_actor_that_is_started_again_between_two_works_knows_that_workers_train(actor):
    key = actor.next_key(True)
    again = restarted(actor)
    assert again.next_key(False) == key
    assert again.stop() is False
    again._claims.close()


def test_an_actor_that_is_started_again_too_late_lets_its_workers_leave(actor, taken_over):
    again = restarted(actor)
    assert again.report(taken_over, None) == "leave"
    assert again.next_step() == module.NextStep("wait", "another")
    again._claims.close()


def test_a_report_that_comes_after_its_round_claims_nothing(actor):
    first, _ = actor._driver.keys
    _, data = load_problem(EXPERIMENT)
    actor.next_key(True)
    work = actor._driver.next_work()
    actor._driver.finish(work, Trainer(EXPERIMENT, data).train(work))
    again = restarted(actor)
    assert again.report(first, None) == "continue"
    assert not again._claims.holds(first)
    again._claims.close()


def test_nothing_is_left_of_an_work_that_another_owner_has_done(actor):
    dense = actor._driver.keys[0]
    _, data = load_problem(EXPERIMENT)
    state = Trainer(EXPERIMENT, data).train(actor._driver.next_work()).state
    work, ledger = snapshot_key(dense, 1), actor._driver.ledger
    file = leave_progress(actor, work)
    actor._driver.leave(work)
    assert ledger.store.exists(file), "the other owner may need it"
    ledger.write_snapshot(dense, "1", state)
    actor._driver.leave(work)
    assert not ledger.store.exists(file)


def test_a_storage_that_lets_nobody_in_any_more_ends_the_run_with_its_sentence(actor, monkeypatch):
    def refuse(key):
        raise StorageError("the keys of s3://bucket/runs have expired")

    monkeypatch.setattr(actor._claims, "acquire", refuse)
    assert actor.next_key(True) is None
    assert actor.next_step() == module.NextStep("end")
    assert actor.status(0).failure == "the keys of s3://bucket/runs have expired"


def test_lines_of_a_round_have_its_key_whatever_round_was_asked_for_since(actor, monkeypatch, capfd):
    """While round 0 is uploaded the workers are at round 1."""
    _, data = load_problem(EXPERIMENT)
    first, second = actor._driver.keys
    work = actor._driver.next_work()
    result = Trainer(EXPERIMENT, data).train(work)
    actor._log = RoundLog(EXPERIMENT, "driver")  # to the standard error that is looked at here
    actor._log.round(second)

    def slow_commit(record, *_):
        logging.getLogger("orchestrator.x").warning("slow")
        return record

    monkeypatch.setattr(actor._driver.ledger, "commit", slow_commit)
    actor.next_key(False)
    actor.finish(work, [result])
    actor._log.info("after")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    found = [(line["message"], line["round_key"]) for line in lines]
    assert found == [("slow", first), ("round committed", first), ("after", second)]


def test_an_actor_started_again_in_mid_round_names_the_round_in_its_log(actor, capfd):
    key = actor._driver.keys[0]
    actor._log = RoundLog(EXPERIMENT, "driver")
    assert actor.report(key, None) == "continue"
    actor._log.info("warning")
    assert json.loads(capfd.readouterr().err.splitlines()[-1])["round_key"] == key


def pruning_fails(weight, gradient):
    raise ZeroDivisionError("no score today")


def failing_actor(storage, monkeypatch):
    """The dense round is committed; the criterion fails after all, though it did not when it was called once."""
    monkeypatch.setattr("orchestrator.problem.rehearse", lambda *_: None)
    experiment = replace(EXPERIMENT, criterion="test_actor:pruning_fails")
    found = actor_of(experiment, storage)
    _, data = load_problem(experiment)
    work = found._driver.next_work()
    found._driver.finish(work, Trainer(experiment, data).train(work))
    return found


def test_an_exception_of_the_users_in_the_driver_is_fatal_at_once(tmp_path, monkeypatch):
    """The reason is in the answer, in failed.json and for every other path of the job."""
    actor = failing_actor(str(tmp_path), monkeypatch)
    assert actor.next_key(True) is None
    reason = actor.status(0).failure
    what = r"criterion 'pruning_fails', called with \(weight, gradient\), failed: "
    assert re.match(rf"{what}ZeroDivisionError: no score today \({re.escape(__file__)}:\d+\)", reason)
    (failure,) = actor._driver.ledger.failures()
    assert (failure["round"], failure["reason"]) == (1, reason)
    assert actor.next_step() == module.NextStep("end")
    assert actor.report(actor._driver.keys[0], None) == "leave", "workers that train on do so for nothing"
    actor._claims.close()


def test_an_error_that_comes_back_as_it_was_is_not_tried_again(actor):
    key = actor.next_key(True)
    actor.crashed(key, "AcceleratorError: launch failure", "a:/1.err", lost=False)
    actor.crashed(key, "AcceleratorError: launch failure", "b:/2.err", lost=False)  # another worker of the same group
    assert actor.next_key(True) == key
    assert actor.status(0).crash == "AcceleratorError: launch failure; the worker's log: b:/2.err"
    actor.crashed(key, "AcceleratorError: another one", "a:/3.err", lost=False)
    assert actor.status(0).failure is None
    actor.crashed(key, "AcceleratorError: launch failure", "a:/4.err", lost=False)
    assert actor.next_key(True) is None
    assert "two attempts ended in the same error: AcceleratorError: launch failure; the" in actor.status(0).failure
    assert [failure["key"] for failure in actor._driver.ledger.failures()] == [key]


def test_errors_with_progress_between_them_and_peers_that_die_are_tried_again(actor):
    key = actor.next_key(True)
    for place in [(0, 5), (1, 0)]:
        actor.crashed(key, "OSError: [Errno 5] Input/output error", "", lost=False)
        assert actor.next_key(True) == key
        actor.resumed(key, place)
    for _ in range(3):
        actor.crashed(key, "PeerError: connection closed by peer", "", lost=True)
        assert actor.next_key(True) == key
    assert actor.status(0).failure is None


def test_controllers_that_die_before_a_worker_starts_are_not_replaced_for_ever(actor):
    for _ in range(MAX_FRUITLESS_STARTS + 1):
        assert actor.next_step() == module.NextStep("train")
    assert actor.next_step() == module.NextStep("end")
    assert f"a round was started {MAX_FRUITLESS_STARTS} times" in actor.status(0).failure


def test_workers_whose_controller_died_are_started_again_and_those_that_ended_are_not(actor):
    assert actor.next_step() == module.NextStep("train")
    actor.next_key(True)
    assert actor.next_step() == module.NextStep("train")  # nobody said that the workers stopped
    actor.next_key(True)
    assert actor.status(0).restarts == 1
    actor.workers_stopped()
    assert actor.next_step() == module.NextStep("train")
    actor.next_key(True)
    assert actor.status(0).restarts == 1


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1),
        (OSError(errno.EIO, "Input/output error"), MAX_FAILED_COMMITS),
    ],
)
def test_a_full_disk_ends_the_run_at_the_first_commit_and_other_trouble_after_some(actor, monkeypatch, error, tries):
    store, (first, _) = actor._driver.ledger.store, actor._driver.keys
    _, data = load_problem(EXPERIMENT)
    work = actor._driver.next_work()
    result = Trainer(EXPERIMENT, data).train(work)
    actor.next_key(True)

    def full(path, *_):
        raise StorageError(f"cannot write {path}: the disk is full") from error

    monkeypatch.setattr(actor._driver.ledger, "commit", lambda record, *_: full(record.key))
    monkeypatch.setattr(store._store, "write", full)  # of failed.json, too
    for tried in range(1, tries + 1):
        assert actor.status(0).failure is None
        with pytest.raises(StorageError):
            actor.finish(work, [result])
        assert (actor.status(0).failure is None) == (tried < tries)
    assert f"cannot write {first}: the disk is full" in actor.status(0).failure
    assert actor.next_step() == module.NextStep("end")


def test_whoever_stops_waits_for_workers_that_train_and_for_none_that_start(actor):
    assert actor.next_step() == module.NextStep("train")
    assert actor.stop() is True
    assert actor.next_key(True) is None
    assert actor.stop() is False
    actor.workers_stopped()
    assert actor.stop() is True


def do_next(actor, trainer):
    """Do the next work of a path as a group of workers does. Return it, or None if there is none or another owns it."""
    if (key := actor.next_key(False)) is None:
        return None
    work = actor._driver.next_work()
    assert work.key == key
    actor.finish(work, [trainer.do(work)])
    return work


def test_two_searches_of_one_network_score_no_candidate_twice(tmp_path, monkeypatch):
    """The second has planned its first generation before the first has scored it, and asks after every work."""
    monkeypatch.setattr(module.ray, "get", lambda value: value)
    experiments = [SEARCHED, searching(replace(AMC, agent=Evolution(), evaluations=6))]
    do_works(SEARCHED, tmp_path, 1)
    first, second = (actor_of(each, str(tmp_path), f"owner {n}") for n, each in enumerate(experiments))
    trainers = [Trainer(each, load_problem(each)[1]) for each in experiments]
    shared = second._driver.next_work().generation.candidates
    done, waited = [], 0
    while (work := do_next(first, trainers[0])) is not None:
        done.append(work)
        if isinstance(work, Evaluate) and isinstance(first._driver.next_work(), Evaluate):
            waited += 1
            assert second.next_step().what == "wait"
            assert do_next(second, trainers[1]) is None
    assert waited > 1
    while (work := do_next(second, trainers[1])) is not None:
        done.append(work)
    digests = scored(done)
    assert len(digests) == len(set(digests))
    assert {candidate.digest for candidate in shared} <= set(digests)
    assert [type(work) for work in done].count(Train) == 2
    assert first.next_step().what == second.next_step().what == "end"
    for each in (first, second):
        each._claims.close()
