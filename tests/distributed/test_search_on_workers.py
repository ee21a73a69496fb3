"""A search for ratios on a real Ray: the scores of one process, and a line that tells how far it is."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from searching import SEARCHED, begun, scored, works

from orchestrator.distributed import path_trainer, progress_line
from orchestrator.distributed.flags import Flags
from orchestrator.problem import load_problem
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

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
