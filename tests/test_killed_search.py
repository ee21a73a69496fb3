"""A search that is killed at random moments ends with the bits of one that was not, and scores nothing twice."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from searching import SEARCHED, works
from torch.nn.modules.module import register_module_forward_pre_hook

from orchestrator.record import Record
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.score_files import read_scores, score_files

KILLS = 10


def run_search(folder: str, moment: int) -> None:
    """Run the search in this process, which kills itself in that moment; write how many there were.

    A moment is a call of a module, or of the operating system for a file of the storage.
    """
    moments = 0

    def count() -> None:
        nonlocal moments
        moments += 1
        if moments == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.link", "os.remove") and str(arguments[0]).startswith(folder):
            count()

    sys.addaudithook(see)
    register_module_forward_pre_hook(lambda module, inputs: count())
    works(SEARCHED, Path(folder))
    Path(f"{folder}-moments").write_text(str(moments))


def exit_code(folder: Path, moment: int) -> int | None:
    """Return the exit code of `run_search` in a process of its own, forked from one that has imported torch."""
    multiprocessing.set_forkserver_preload(["orchestrator.training.trainer", "searching"])
    process = multiprocessing.get_context("forkserver").Process(target=run_search, args=(str(folder), moment))
    process.start()
    process.join()
    return process.exitcode


def found(folder: Path) -> list[Record]:
    """Return all records, without what may differ between two runs."""
    records = Ledger(open_store(str(folder))).records()
    varying = {"seconds": 0.0, "samples_per_second": 0.0, "finished_at": "", "attempts": 1}
    searches = [record.search and {**record.search, "seconds": 0.0} for record in records]
    pairs = zip(records, searches, strict=True)
    return [dataclasses.replace(record, search=search, **varying) for record, search in pairs]


def test_a_search_that_is_killed_at_ten_random_moments(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(whole, 0) == 0
    moments = int(Path(f"{whole}-moments").read_text())
    places = sorted(random.Random(0).sample(range(1, moments), KILLS))
    codes = [exit_code(killed, after - before) for before, after in pairwise([0, *places])]
    assert codes == [-signal.SIGKILL] * KILLS
    assert exit_code(killed, 0) == 0
    assert found(killed) == found(whole)
    store = open_store(str(killed))
    digests = [digest for file in score_files(store) for digest in read_scores(store, file)]
    (search,) = [record.search for record in found(whole) if record.search]
    assert len(digests) == len(set(digests)) == search["scored"]
