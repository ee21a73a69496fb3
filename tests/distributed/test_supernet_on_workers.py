"""A supernet on a real Ray: searched as by one process, and each phase trained once by two jobs on one storage."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

import pytest
import ray as ray_module
from elastic import ELASTIC, begun, works

from orchestrator.distributed import path_trainer
from orchestrator.distributed.flags import Flags
from orchestrator.problem import load_problem
from orchestrator.storage.opening import open_store
from orchestrator.work.scoring import Evaluate

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def train(folder: Path, actor, workers: str) -> None:
    deployment = Flags(storage=str(folder), workers=workers).deployment()
    path_trainer.train_rounds(ELASTIC, actor, open_store(str(folder)), deployment)


@pytest.mark.usefixtures("ray")
def test_two_workers_on_ray_find_what_one_process_finds(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    works(ELASTIC, alone, 4)  # the supernet, whose bits depend on the number of workers
    shutil.copytree(alone, together)
    done = works(ELASTIC, alone)
    assert any(isinstance(work, Evaluate) for work in done)
    train(together, path_trainer.start_driver(ELASTIC, str(together), load_problem(ELASTIC)[0]), "2")
    for mine, theirs in zip(*(begun(ELASTIC, folder)[0].records()[4:] for folder in (alone, together)), strict=True):
        assert {**mine.search, "seconds": 0.0} == {**theirs.search, "seconds": 0.0}
        assert (mine.val, mine.channels) == (theirs.val, theirs.channels)


@pytest.mark.usefixtures("ray")
def test_two_jobs_on_one_storage_train_each_phase_once(tmp_path: Path) -> None:
    """The second is the same under another name."""
    problem = load_problem(ELASTIC)[0]
    experiments = (ELASTIC, dataclasses.replace(ELASTIC, name="again"))
    actors = [path_trainer.start_driver(each, str(tmp_path), problem, job=each.name) for each in experiments]
    threads = [threading.Thread(target=train, args=(tmp_path, actor, "1")) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_job = [[record.key for record in ray_module.get(actor.status.remote(-1)).records] for actor in actors]
    keys = begun(ELASTIC, tmp_path)[0].keys
    assert sorted(by_job[0] + by_job[1]) == sorted(keys)
