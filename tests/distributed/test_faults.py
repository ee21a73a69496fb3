"""What a user's mistakes and a failing world do to a job: an error in a sentence, or the same bits in the end."""

from __future__ import annotations

import dataclasses
import re

import job_runs
import pytest
import tiny

from orchestrator import runner
from orchestrator.distributed.job import main
from orchestrator.experiment import Experiment
from orchestrator.pruning import Explicit, OneShot
from orchestrator.record import MODEL
from orchestrator.schedules import Constant
from orchestrator.storage import s3
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

pytestmark = pytest.mark.ray
SHORT = tiny.with_training(dataclasses.replace(tiny.EXPERIMENT, path=OneShot(0.7)), epochs=3)


def hashes(storage: str) -> list[object]:
    return [(r.key, r.blobs, r.metrics, r.history) for r in Ledger(open_store(storage)).records()]


@pytest.mark.slow
def test_s3_that_fails_for_a_while(tmp_path, undisturbed, s3_uri, fault_proxy):
    """Errors, resets and an outage: the bits of an undisturbed job."""
    env = {"PAUSE": "0.01"}
    fault_proxy.inject("status", times=3, part="record.json")
    fault_proxy.inject("reset", times=3, method="PUT")
    fault_proxy.inject("drop", times=1, method="PUT", part="record.json")
    with job_runs.running(tmp_path / "s3", "--storage", s3_uri, "--checkpoint-seconds", "0", env=env) as job:
        job.wait_for(lambda: hashes(s3_uri), "round 0 is committed")
        assert len(hashes(s3_uri)) < 3
        fault_proxy.cut_off(4.0)
        assert job.wait() == 0, job.output()
        assert "started again" not in job.output(), "the outage was waited out, not died of"
    assert fault_proxy.faults_left == 0
    assert hashes(s3_uri) == hashes(str(undisturbed))
    files = open_store(s3_uri).list()
    assert len(files) > 5
    assert not [file for file in files if file.startswith("train/") and file.endswith(".safetensors")]


@pytest.fixture
def mistake(tmp_path, monkeypatch, capsys):
    """Run the job in this process, which must end before it starts Ray; returns the sentence that it ends with."""

    def mistake(*args: str, **changes: object) -> str:
        experiment = dataclasses.replace(tiny.EXPERIMENT, **changes)
        monkeypatch.setattr("sys.argv", ["job", *([] if "--storage" in args else ["--storage", str(tmp_path)]), *args])
        monkeypatch.setattr("orchestrator.distributed.job._train", lambda *_: pytest.fail("training has begun"))
        assert main(experiment) == 1
        (error,) = re.findall(r"^error: .*", capsys.readouterr().err, flags=re.MULTILINE)
        return error

    return mistake


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        (["--workers", "two"], {}, "--workers must be a number such as 4, or a range such as 2:8, got 'two'"),
        (["--workers", "0"], {}, "--workers must be at least 1"),
        (["--workers", "8:2"], {}, "the range must rise, got '8:2'"),
        (["--workers", "17"], {}, "--workers must not exceed the batch of 16, got 17"),
        (["--cpus-per-worker", "0"], {}, "--cpus-per-worker must be a finite number above 0"),
        (["--cpus-per-worker", "0.00001"], {}, "--cpus-per-worker must be a multiple of 0.0001"),
        (["--cpus-per-worker", "nan"], {}, "--cpus-per-worker must be a finite number above 0"),
        (["--gpus-per-worker", "0.5"], {}, "--gpus-per-worker must be a whole number"),
        (["--loader-workers", "-1"], {}, "--loader-workers must be a whole number of 0 or more, got -1"),
        (
            ["--workers", "16"],
            {"model": "tiny:normed"},
            "a worker's share of the batch is one sample: raise batch_size",
        ),
        ([], {"model": "tiny:nothing_in_training"}, "the model must return a tensor"),
        (["--checkpoint-seconds", "-1"], {}, "--checkpoint-seconds must be a finite number of 0 or more, got -1"),
        (["--report", "/proc/nope"], {}, "--report must be a folder that can be written to, got '/proc/nope'"),
        (["--data", "/somewhere"], {}, "data 'tiny:data' is not in files: leave --data out, got '/somewhere'"),
        (["--storage", "gs://bucket/x"], {}, "the scheme 'gs'"),
        (["--storage", "/proc/nothing"], {}, "/proc/nothing"),
        ([], {"model": "resnet21"}, "resnet20"),
        ([], {"model": "torchvision:resnet49"}, "resnet50"),
        ([], {"model": "tiny:no_such_model"}, "no_such_model"),
        ([], {"data": "mnist"}, "digits"),
        ([], {"data": "imagefolder"}, "imagefolder"),
        ([], {"data_options": {"samples": 10}}, "batch"),
        ([], {"data_options": {"sample": 10}}, "sample"),
        ([], {"exclude": ("no_such_layer",)}, "no_such_layer"),
        ([], {"criterion": "magnitud"}, "magnitude"),
    ],
)
def test_a_mistake_is_told_before_ray_starts(mistake, arguments, changes, words):
    assert words in mistake(*arguments, **changes)


@pytest.mark.parametrize(("epochs", "anew"), [(3, False), (2, True)])
def test_rounds_of_other_settings_are_not_passed_over_in_silence(tmp_path, monkeypatch, capsys, epochs, anew):
    runner.run(SHORT, str(tmp_path))
    monkeypatch.setattr("sys.argv", ["job", "--storage", str(tmp_path)])
    monkeypatch.setattr("orchestrator.distributed.job._train", lambda *_: None)
    changed = tiny.with_training(SHORT, epochs=epochs)
    assert main(changed) == anew  # 1, as nothing was trained
    assert ("it starts again, and the old rounds are kept" in " ".join(capsys.readouterr().out.split())) == anew


def test_a_storage_that_is_not_there_is_told_before_ray_starts(mistake, s3_uri, monkeypatch):
    monkeypatch.setattr(s3, "CHECK_PATIENCE_S", 1.0)
    assert "does not exist" in mistake("--storage", "s3://no-such-bucket-here/runs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "AWS_ENDPOINT_URL" in mistake("--storage", s3_uri)


def only_error(output: str) -> str:
    """The one sentence that a failing job ends with."""
    assert "Traceback" not in output, output
    (error,) = re.findall(r"^error: .*", output, flags=re.MULTILINE)
    return error


@pytest.fixture
def short_job(ray, tmp_path, monkeypatch, capfd):
    """Run a job in this process, on the module's Ray, with the storage tmp_path; returns exit code and output."""

    def short_job(*args: str, experiment: Experiment = SHORT) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["job", "--storage", str(tmp_path), *args])
        code = main(experiment)
        return code, "".join(capfd.readouterr())

    return short_job


@pytest.mark.slow
def test_a_diverged_round_is_recorded_as_failed(short_job, tmp_path):
    code, output = short_job(experiment=tiny.with_training(SHORT, schedule=Constant(1e30)))
    assert code == 1
    assert "round 0 (density 1) diverged: training loss" in only_error(output)
    ledger = Ledger(open_store(str(tmp_path)))
    assert ledger.records() == []
    assert [failure["round"] for failure in ledger.failures()] == [0]


def test_a_damaged_round_ends_the_job_with_its_name(short_job, tmp_path):
    """Also one that only the next round would read, and without starting the workers over and over."""
    longer = dataclasses.replace(SHORT, path=Explicit([0.7, 0.5]))
    parent = runner.run(dataclasses.replace(longer, path=Explicit([0.7])), str(tmp_path))[1]
    blob = tmp_path / parent.file(MODEL)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x7f")
    code, output = short_job("--workers", "1", experiment=longer)
    assert code == 1, output
    assert f"error: {parent.file(MODEL)} is damaged" in only_error(output)
    assert "started again" not in output


@pytest.mark.slow
def test_a_sample_that_one_worker_cannot_use_ends_the_job(short_job, tmp_path):
    code, output = short_job(experiment=dataclasses.replace(SHORT, data_options={"broken": 7}))
    assert code == 1
    assert "sample 7" in (error := only_error(output))
    assert "this sample is broken" in error
    assert Ledger(open_store(str(tmp_path))).records() == []
