"""What sharing rounds and training paths side by side save: four techniques, five rounds each, on digits."""

import importlib
import time
from dataclasses import replace

import job_runs
import pytest

from orchestrator.distributed import cluster
from orchestrator.distributed.sweep import sweep_paths
from orchestrator.pruning import Geometric
from orchestrator.techniques import FineTuning, LearningRateRewinding, RandomReinitialisation, WeightRewinding

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
TECHNIQUES = (LearningRateRewinding(), FineTuning(), WeightRewinding(27), RandomReinitialisation())


def test_four_techniques_side_by_side_and_one_after_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(job_runs.REPOSITORY / "jobs")
    base = importlib.import_module("digits_lr")
    experiments = [
        replace(base.EXPERIMENT, name=type(technique).__name__, technique=technique, path=Geometric(0.2, rounds=5))
        for technique in TECHNIQUES
    ]
    with cluster.connected(None):
        shared = sweep_paths(experiments, str(tmp_path / "shared"), max_concurrent=2)
        began = time.perf_counter()
        alone = [sweep_paths([e], str(tmp_path / e.name), max_concurrent=1) for e in experiments]
        seconds = time.perf_counter() - began
    assert {o.state for result in (shared, *alone) for o in result.outcomes} == {"finished"}
    trained = sum(result.epochs_trained for result in alone)
    assert shared.epochs_asked == trained == 4 * 30 + 5 * (30 + 30 + 27 + 30)
    assert shared.epochs_trained == trained - 3 * 30
    print(
        f"\n4 techniques x 5 rounds: {shared.seconds:.0f} s at 2 paths at a time with shared rounds, {seconds:.0f} s "
        f"one after another without: {shared.seconds / seconds:.2f}; epochs {shared.epochs_trained} of {trained}: "
        f"{shared.epochs_trained / trained:.2f}"
    )
    assert shared.seconds < seconds
