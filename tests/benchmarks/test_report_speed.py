"""A report of a long search: 10,000 rounds, and the page still opens at once."""

import resource
import subprocess
import sys
import time

import pytest
from report.synthetic import path_of, write

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

RECORDS = 10_000
SHAPES = {"many seeds": (28, 20, 18), "many experiments": (185, 3, 18), "one seed of many": (500, 1, 20)}


@pytest.mark.bench
@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_rounds(tmp_path, shape):
    experiments, seeds, rounds = SHAPES[shape]
    names = [f"trial-{number:03}" for number in range(experiments)]
    ledger = Ledger(open_store(str(tmp_path / "runs")))
    write(ledger, [path_of(name, seed, rounds, epochs=30) for name in names for seed in range(seeds)])
    files = sum(1 for _ in (tmp_path / "runs" / "rounds").rglob("record.json"))
    command = [sys.executable, "-m", "orchestrator", "report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = (tmp_path / "out" / "report.html").stat().st_size
    print(f"\n{shape}: {files:,} records, {seconds:.1f} s ({cpu:.1f} s of CPU), page {page / 1e6:.1f} MB", end=" ")
    assert 0.95 * RECORDS < files < 1.05 * RECORDS
    assert cpu < 10  # a busy machine makes the clock tell of the others
    assert page < 15e6
