"""A kind of work is one class: one that only this file knows is planned, done, stored and cleaned like the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tiny import EXPERIMENT

from orchestrator import driver as driver_module
from orchestrator.driver import Driver
from orchestrator.problem import load_problem
from orchestrator.storage.claims import Claims
from orchestrator.storage.clean import PATIENCE_SECONDS, leftovers
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.store import clock
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.trainer import Trainer
from orchestrator.work.keys import answer_file, claim_key, split_key
from orchestrator.work.preparation import Preparation
from orchestrator.work.scoring import scores_key
from orchestrator.work.snapshot import snapshot_key
from orchestrator.work.train import Calls


@pytest.mark.parametrize(
    ("key", "parts", "claim", "file"),
    [
        ("00ff", ("00ff", None, None), "00ff", "rounds/00ff/record.json"),
        (snapshot_key("00ff", 12), ("00ff", "epoch12", None), "00ff-epoch12", "snapshots/00ff/12.safetensors"),
        ("00ff-gradients", ("00ff", "gradients", None), "00ff-gradients", "snapshots/00ff/gradients.safetensors"),
        (scores_key("00ff", "a1"), ("00ff", "scores", "a1"), "00ff-scores", "scores/00ff/a1.json"),
    ],
)
def test_a_key_says_whose_work_it_is_what_is_claimed_for_it_and_where_its_answer_lies(key, parts, claim, file):
    assert split_key(key) == parts
    assert claim_key(key) == claim
    assert answer_file(key) == file


@dataclass(frozen=True)
class Norms(Preparation[Tensors]):
    """Compute the norm of each tensor of a finished round."""

    answer_type: ClassVar[type[Any]] = dict
    round_key: str
    state: TrainState

    @property
    def key(self) -> str:
        return f"{self.round_key}-norms"

    def do(self, trainer: Trainer, calls: Calls) -> Tensors:
        return {name: tensor.double().norm() for name, tensor in self.state.model.items()}

    def store(self, ledger: Ledger, answer: Tensors) -> None:
        ledger.write_snapshot(self.round_key, "norms", TrainState(answer))


def test_a_kind_that_no_other_file_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = driver_module.plan

    def plan_with_norms(experiment, rounds, floor=None):
        if rounds.next_index(floor) == 1 and not rounds.ledger.has_snapshot(rounds.keys[0], "norms"):
            return Norms(rounds.keys[0], rounds.finished(0).state())
        return plan(experiment, rounds, floor)

    monkeypatch.setattr(driver_module, "plan", plan_with_norms)
    problem, data = load_problem(EXPERIMENT)
    ledger = Ledger(open_store(str(tmp_path)))
    driver, trainer = Driver(EXPERIMENT, ledger, problem), Trainer(EXPERIMENT, data)
    dense = driver.next_work()
    trained = trainer.do(dense)
    driver.finish(dense, trained)
    work = driver.next_work()
    assert isinstance(work, Norms)
    assert not driver.is_stored(work.key)
    with Claims(ledger.store, "a job that dies") as claims:
        assert claims.acquire(claim_key(work.key))
        with pytest.raises(TypeError, match=r"Norms is not answered by Trained"):
            driver.finish(work, trained)
        driver.finish(work, trainer.do(work))
    assert driver.is_stored(work.key)
    found = ledger.snapshot(dense.key, "norms").model
    assert all(float(found[name]) == pytest.approx(float(t.double().norm())) for name, t in trained.state.model.items())
    assert driver.next_work().key == driver.keys[1]
    late = clock(ledger.store) + 2 * PATIENCE_SECONDS
    assert {each.what for each in leftovers(ledger, now=late).found} == {"claims on finished rounds"}
