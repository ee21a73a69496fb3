"""A search for ratios on a real Ray: the scores of one process, and a line that tells how far it is."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import job_runs
import pytest
from rich.console import Console
from searching import SEARCHED, begun, scored, works

from orchestrator.distributed import path_trainer, progress_line
from orchestrator.distributed.flags import Flags
from orchestrator.problem import load_problem
from orchestrator.record import Record
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.score_files import read_scores, score_files

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.usefixtures("ray")
def test_two_workers_on_ray_find_what_one_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    works(SEARCHED, alone, 1)  # the dense round, whose bits depend on the number of workers
    shutil.copytree(alone, together)
    done = works(SEARCHED, alone)
    deployment = Flags(storage=str(together), workers="2").deployment()
    problem, _ = load_problem(SEARCHED)
    actor = path_trainer.start_driver(SEARCHED, str(together), problem)
    monkeypatch.setattr(progress_line, "LOG_SECONDS", 0.0)
    shown = Console(file=io.StringIO(), width=200)
    with progress_line.show_progress(actor, shown):
        path_trainer.train_rounds(SEARCHED, actor, open_store(str(together)), deployment)
    records = [
        Ledger(open_store(str(folder))).record(begun(SEARCHED, folder)[0].keys[1]) for folder in (alone, together)
    ]
    searches = [{**record.search, "seconds": 0.0} for record in records]
    assert searches[0] == searches[1]
    assert searches[0]["scored"] == len(scored(done))
    assert records[0].kept_channels == records[1].kept_channels
    assert records[1].workers == 2
    assert "round 1/1  search: generation " in shown.file.getvalue()


PACED = dataclasses.replace(SEARCHED, model="tiny:paced", model_options={"pause": 0.0})
STEPS = 6 * 5  # of a worker: 12 of the dense round, 12 of the first generation, and into the second
JOB = """
import sys
from distributed.test_search_on_workers import PACED
from orchestrator.distributed.job import main
sys.exit(main(PACED))
"""


def searched_by(folder: Path) -> Record:
    (record,) = [record for record in Ledger(open_store(str(folder / "runs"))).records() if record.search]
    return record


def test_a_job_that_is_killed_in_the_middle_of_its_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed with both workers, in its second generation."""
    script, arguments = tmp_path / "job.py", ("--storage", "./runs", "--workers", "2")
    script.write_text(JOB)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    code, output = job_runs.run(whole / "log", *arguments, script=script)
    assert code == 0, output
    (killed / "hold").touch()
    store, env = open_store(str(killed / "runs")), {"HOLD": f"{killed / 'hold'}:{STEPS}"}
    with job_runs.running(killed / "log", *arguments, script=script, env=env) as job:
        job.wait_for(lambda: score_files(store), "the first generation has scores")
        job.kill()
    assert len(score_files(store)) == 1
    code, output = job_runs.run(killed / "log", *arguments, script=script)
    assert code == 0, output
    records = [searched_by(folder) for folder in (whole, killed)]
    searches = [{**record.search, "seconds": 0.0} for record in records]
    assert searches[0] == searches[1]
    assert [record.blobs for record in records] == [records[0].blobs] * 2
    digests = [digest for file in score_files(store) for digest in read_scores(store, file)]
    assert len(digests) == len(set(digests)) == searches[0]["scored"]
