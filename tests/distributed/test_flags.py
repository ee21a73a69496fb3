"""The flags that all jobs share: what they mean for one experiment and for several."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from orchestrator.distributed import job
from orchestrator.distributed.flags import Flags, parse_flags
from orchestrator.examples import DIGITS
from orchestrator.experiment import Experiment


def test_several_experiments_have_one_worker_each_and_a_report() -> None:
    one, several = Flags(), Flags().of_several()
    assert (one.deployment().workers.label, one.report) == ("2", None)
    assert (several.deployment().workers.label, several.report) == ("1", "./report")
    chosen = Flags(workers="2:4", report="here").of_several()
    assert (chosen.deployment().workers.label, chosen.report) == ("2:4", "here")


@pytest.mark.parametrize(
    ("flags", "sweeps"),
    [
        (Flags(), False),
        (Flags(seed=3, smoke=True, report="here"), False),
        (Flags(tracker="mlflow"), True),
        (Flags(target=97), True),
        (Flags(max_drop=0.0), True),
        (Flags(max_concurrent=1), True),
        (Flags(asha=True), True),
    ],
)
def test_one_experiment_with_a_flag_of_sweeps_is_a_sweep_of_itself(
    flags: Flags, sweeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a tracker, which Ray Tune feeds, logs a single job too, under the experiment's own name."""
    ran: list[tuple[str, list[Experiment]]] = []

    def note(kind: str, chosen: Any) -> int:
        ran.append((kind, chosen if isinstance(chosen, list) else [chosen]))
        return 0

    monkeypatch.setattr(job, "run_sweep", lambda chosen, flags: note("sweep", chosen))
    monkeypatch.setattr(job, "_run_one", lambda chosen, flags: note("one", chosen))
    monkeypatch.setattr(job, "run_job", lambda flags, run, make_smoke_data: run(flags))
    assert job.run_experiments(DIGITS, flags) == 0
    ((kind, (experiment,)),) = ran
    assert kind == ("sweep" if sweeps else "one")
    assert experiment.name.partition("-")[0] == "digits"
    assert experiment.seed == (flags.seed or 0)


def test_a_change_comes_before_the_seed_and_before_the_short_form() -> None:
    flags = Flags(settings=("training.epochs=24", "seeds=1,2"), seed=5)
    experiment = flags.applied(DIGITS)
    assert (experiment.training.epochs, experiment.seed, experiment.seeds) == (24, 5, ())


def test_the_examples_of_a_script_stay_in_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["job.py", "--help"])
    text = "What it does.\n\npython job.py --smoke   # first\nray job submit -- python job.py\n"
    with pytest.raises(SystemExit):
        parse_flags(Flags, text, DIGITS)
    assert "    python job.py --smoke   # first\n    ray job submit -- python job.py\n" in capsys.readouterr().out
