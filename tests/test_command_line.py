"""The command line, on a real storage folder that a real ledger has written."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from waiting import PATIENCE_S

import orchestrator
from orchestrator.__main__ import COMMANDS, main
from orchestrator.record import MODEL, OPTIMIZER, Record
from orchestrator.storage.claims import Claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.progress import write_progress
from orchestrator.task import ACCURACY
from orchestrator.train_state import TrainState
from orchestrator.work.train import Progress

FIELDS = [
    "experiment", "key", "parent", "round", "technique", "density", "kept", "prunable", "weights", "seed",
    "objective", "higher_is_better", "metrics", "epochs", "seconds", "bytes",
]  # fmt: skip


def key(round, seed=0):
    return f"{seed:02}{round:02}" * 16


KEYS = [key(round, seed) for seed in range(2) for round in range(3)]  # of the rounds in `folder`


def commit(ledger, round, seed=0, experiment="digits"):
    """One round of a network of 64 weights, half of them removed each time."""
    mask = torch.arange(64).reshape(8, 8) < 64 >> round
    state = TrainState(
        {"w": torch.rand(8, 8) * mask, "b": torch.rand(8)}, {"w/momentum_buffer": torch.rand(8, 8) * mask}
    )
    record = Record(
        key=key(round, seed), parent=key(round - 1, seed) if round else None, experiment=experiment, round=round,
        technique="LearningRateRewinding" if round else "Dense", density=0.5**round, kept=64 >> round, prunable=64,
        seed=seed, objective=ACCURACY,
        metrics={"train_loss": 0.25, "val_accuracy": 0.9, "test_accuracy": 0.875 - round / 100},
        history=[], layers={"w": [64 >> round, 64]}, dead_layers=[], epochs=3, seconds=1.5, samples_per_second=10.0,
        attempts=1, workers=1, settings={}, versions={}, finished_at="2026-01-01",
    )  # fmt: skip
    return ledger.commit(record, state, {"w": mask} if round else {})


@pytest.fixture
def folder(tmp_path):
    """Two seeds of three rounds, and a round that failed."""
    ledger = Ledger(open_store(str(tmp_path / "runs")))
    for seed in range(2):
        for round in range(3):
            commit(ledger, round, seed)
        keys = [key(round, seed) for round in range(4)]
        ledger.write_experiment("digits", seed, {"name": "digits", "seed": seed, "densities": [], "keys": keys})
    failure = {"experiment": "digits", "seed": 0, "key": key(3), "round": 3, "reason": "the loss is nan"}
    ledger.write_failure(key(3), failure)
    return tmp_path / "runs"


def python(*args, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, *args], text=True, **options)


# status


def test_status_json_is_one_object_a_record(folder, capsys):
    assert main(["status", str(folder), "--json"]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(v["seed"], v["round"], v["parent"]) for v in values] == [
        (seed, round, key(round - 1, seed) if round else None) for seed in range(2) for round in range(3)
    ]
    for value in values:
        assert list(value) == FIELDS
        assert list(value["metrics"]) == ["train_loss", "val_accuracy", "test_accuracy"]
        (model,) = (folder / "rounds" / value["key"]).glob("model-*.safetensors")
        assert value["bytes"] == model.stat().st_size
    assert values[2] == {
        "experiment": "digits", "key": key(2), "parent": key(1), "round": 2, "technique": "LearningRateRewinding",
        "density": 0.25, "kept": 16, "prunable": 64, "weights": 64, "seed": 0, "epochs": 3, "seconds": 1.5,
        "objective": "accuracy", "higher_is_better": True,
        "metrics": {"train_loss": 0.25, "val_accuracy": 0.9, "test_accuracy": 0.855}, "bytes": values[2]["bytes"],
    }  # fmt: skip


def test_status_is_a_table_with_the_failures_below(folder, capsys):
    assert main(["status", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("digits, seed")] == [
        f"digits, seed {seed}: LearningRateRewinding, accuracy in per cent" for seed in (0, 1)
    ]
    (row, _) = [line.split() for line in lines if line.split()[:2] in (["2", key(2)[:8]], ["2", key(2, 1)[:8]])]
    assert row[:9] == ["2", key(2)[:8], "0.25", "4.0x", "16", "90.00", "85.50", "3", "1.5"]
    assert lines[-3:] == [
        "failed: digits, seed 0, round 3: the loss is nan",
        "2 paths with 8 distinct rounds, 6 of them finished",
        "not finished; no job on Ray holds the next round (the same command continues it): "
        "digits, seed 1 (3 of 4 rounds)",
    ]
    assert max(map(len, lines[:-1])) <= 80


def test_status_tells_who_trains_which_round_and_how_far_it_is(folder, capsys):
    with Claims(open_store(str(folder)), "digits.1 on host-7") as claims:
        assert claims.acquire(key(3, 1))
        write_progress(open_store(str(folder)), Progress(key(3, 1), 12, TrainState({}), (), 1.0, 1, steps_done=340))
        assert main(["status", str(folder)]) == 0
    line = "digits, seed 1: round 3 of 3 is trained by digits.1 on host-7, 12 epochs and 340 steps are safe"
    assert capsys.readouterr().out.splitlines()[-1] == line


@pytest.mark.parametrize(
    "command", [["status"], ["status", "--json"], ["report", "--out", "out"], ["export", "--out", "out"]]
)
def test_an_empty_storage_is_an_error(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert main([command[0], "./runs", *command[1:]]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: no finished round in {tmp_path}/runs: give the --storage of a job that has run\n"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_following_an_empty_storage_says_at_once_that_it_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("orchestrator.report.status.follow_storage", lambda ledger, seconds: iter(()))
    assert main(["status", str(tmp_path), "--follow"]) == 0
    assert capsys.readouterr().out == f"waiting for the first round in {tmp_path}\n"


def test_an_empty_storage_has_nothing_to_verify(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"no finished round in {tmp_path}\n")


def test_a_job_that_has_no_round_yet_is_under_way(folder, tmp_path, capsys):
    ledger = Ledger(open_store(str(tmp_path / "new")))
    ledger.write_experiment("digits", 0, {"name": "digits", "seed": 0, "densities": [], "keys": [key(0)]})
    assert main(["status", str(tmp_path / "new")]) == 0
    assert "digits, seed 0 (0 of 1 rounds)" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "new"), "--out", str(tmp_path)]) == 1
    assert "orchestrator status --follow shows what is under way" in capsys.readouterr().err


def test_only_failures(tmp_path, capsys):
    Ledger(open_store(str(tmp_path))).write_failure(key(0), {"experiment": "digits", "reason": "no sample decodes"})
    assert main(["status", str(tmp_path)]) == 0
    assert "no sample decodes" in capsys.readouterr().out


# What is not there.


@pytest.mark.parametrize(
    "command",
    [["status"], ["status", "--json"], ["verify"], ["clean"], ["report", "--out", "out"], ["export", "--out", "out"]],
)
@pytest.mark.parametrize("place", ["missing", "file", "ftp://host/runs", "s3://key:secret@bucket/runs"])
def test_a_storage_that_is_not_there_is_an_error(tmp_path, monkeypatch, capsys, command, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    assert main([command[0], place, *command[1:]]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "secret" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    if place == "missing":
        assert f"folder {tmp_path}/missing does not exist" in err


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["report", "--out", "out"]])
def test_a_damaged_record_is_named_beside_the_good_ones(folder, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (folder / "rounds" / key(1) / "record.json").write_bytes(b"{")
    assert main([command[0], str(folder), *command[1:]]) == 1
    out, err = capsys.readouterr()
    if command[0] == "report":
        shown = [row["key"] for row in csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines())]
    elif "--json" in command:
        shown = [json.loads(line)["key"] for line in out.splitlines()]
    else:
        shown = [each for line in out.splitlines() for each in KEYS if each[:8] in line.split()]
    # Seed 0 has no round behind the damaged one in a report, where its cost would be unknown.
    assert shown == [each for each in KEYS if each not in (key(1), *([key(2)] if command[0] == "report" else []))]
    assert err.startswith(f"error: rounds/{key(1)}/record.json is not a record")


# verify


def flip(data):
    return data[:-5] + bytes([data[-5] ^ 4]) + data[-4:]


def newer(data):
    return json.dumps({**json.loads(data), "format": 99}).encode()


DAMAGE = {
    "one bit of the model": (MODEL, flip, "is damaged"),
    "one bit of the optimizer": (OPTIMIZER, flip, "is damaged"),
    "truncated": (MODEL, lambda data: data[:-1], "is damaged"),
    "empty": (OPTIMIZER, lambda data: b"", "is damaged"),
    "deleted": (MODEL, None, "is missing"),
    "record truncated": ("record.json", lambda data: data[: len(data) // 2], "is not a record"),
    "record of a newer format": ("record.json", newer, "update rewind-orchestrator"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_names_what_is_damaged(folder, capsys, case):
    name, change, words = DAMAGE[case]
    record = Ledger(open_store(str(folder))).record(key(1, seed=1))
    file = record.file(name) if name in record.blobs else f"rounds/{record.key}/{name}"
    damaged = folder / file
    if change is None:
        damaged.unlink()
    else:
        damaged.write_bytes(change(damaged.read_bytes()))
    assert main(["verify", str(folder)]) == 1
    *told, count = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"{file} ")
    assert words in told[0]
    assert count == "21 files checked, 1 damaged"


def test_verify_names_a_round_whose_parent_is_missing(folder, capsys):
    (folder / "rounds" / key(1, seed=1) / "record.json").unlink()
    assert main(["verify", str(folder)]) == 1
    *told, _ = capsys.readouterr().out.splitlines()
    assert f"goes on from rounds/{key(1, seed=1)}, which is missing" in told[0]
    assert told[1].startswith(f"rounds/{key(1, seed=1)}/record.json is missing, though the round's tensors are there")


def test_verify_names_every_damaged_file(folder, capsys):
    for file in (folder / "rounds").rglob("*.safetensors"):
        file.write_bytes(flip(file.read_bytes()))
    assert main(["verify", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len({line.split()[0] for line in lines[:-1]}) == 12
    assert lines[-1] == "21 files checked, 12 damaged"


def test_verify_passes_a_whole_storage_and_ignores_unfinished_uploads(folder, capsys):
    (folder / "rounds" / key(3) / "model-0123456789abcdef.safetensors").write_bytes(b"the upload was killed after this")
    assert main(["verify", str(folder)]) == 0
    notice, count = capsys.readouterr().out.splitlines()
    assert notice.startswith("not checked: 1 files of running or killed jobs")
    assert count == "21 files checked, 0 damaged"


# report


def test_report_knows_the_home_and_no_unknown_one(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folder), "--out=~/page"]) == 0
    assert (tmp_path / "home" / "page" / "report.html").is_file()
    assert main(["report", "~nobody-of-that-name/runs", "--out=page"]) == 1
    assert "names the home of an unknown user" in capsys.readouterr().err
    assert not list(tmp_path.glob("~*"))


def test_report_prints_the_table_and_writes_its_files(folder, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: LearningRateRewinding, seeds 0, 1, 64 prunable weights"
    assert any(line.split()[:4] == ["*", "2", "0.25", "4.0x"] for line in lines)
    names = ["report.csv", "compression.png", "front.png", "cost.png", "layers.png", "report.html"]
    assert lines[-6:] == [f"written: {out}/{name}" for name in names]
    assert sorted(names) == sorted(file.name for file in out.iterdir())
    assert (out / "compression.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    with open(out / "report.csv", newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [key(r, seed) for seed in range(2) for r in range(3)]


def test_report_of_some_experiments(folder, tmp_path, capsys):
    for seed, name in ((7, "other"), (8, "third")):
        commit(Ledger(open_store(str(folder))), 0, seed=seed, experiment=name)
    for chosen in (["other"], ["other", "third"]):
        named = [word for name in chosen for word in ("--experiment", name)]
        assert main(["report", str(folder), "--out", str(tmp_path), *named]) == 0
        printed, csv_text = capsys.readouterr().out, (tmp_path / "report.csv").read_text()
        for name in ("digits", "other", "third"):
            assert (name in printed) == (name in csv_text) == (name in chosen)
    assert main(["report", str(folder), "--out", str(tmp_path), "--experiment", "othre"]) == 1
    assert capsys.readouterr().err == "error: --experiment must be one of digits, other, third, got 'othre'\n"


def test_report_tells_of_rounds_of_earlier_settings(folder, tmp_path, capsys):
    content = {"name": "digits", "seed": 1, "densities": [], "keys": [key(0, 1)]}
    Ledger(open_store(str(folder))).write_experiment("digits", 1, content)
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 0
    assert "left out: 2 rounds of earlier settings" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2", "itables"])
def test_report_without_a_package_still_shows_the_table(folder, tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert any(line.split()[:4] == ["*", "2", "0.25", "4.0x"] for line in out.splitlines())
    assert err.endswith("-m pip install -e '.' -c constraints.txt in the folder of this project\n")
    assert err.count("\n") == 1
    assert (tmp_path / "report.csv").exists()


def test_report_into_a_place_that_cannot_be_written(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(folder), "--out", str(tmp_path / "file")]) == 1
    assert f"error: cannot write {tmp_path}/file/report.csv" in capsys.readouterr().err


# Usage.


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["show"],
        ["statsu", "a"],
        ["status"],
        ["status", "a", "b"],
        ["status", "a", "--jsn"],
        ["report", "a"],
        ["export", "a"],
        ["verify", "--json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(capsys, args):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "help" in err


def test_help_lists_every_command_and_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "orchestrator --version" in shown
    assert all(f"• {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", ["status", "verify", "clean", "report", "export"])
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"\n$ orchestrator {command} ./runs" in capsys.readouterr().out


# As a process of its own.


def test_a_closed_pipe_is_met_in_silence(folder):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = python("-m", "orchestrator", "status", str(folder), "--json", env=buffered)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 1


def test_an_error_has_no_traceback(tmp_path):
    script = Path(sys.executable).with_name("orchestrator")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "orchestrator"]
    done = subprocess.run([*command, "status", str(tmp_path / "missing")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: folder {tmp_path}/missing does not exist")
    assert done.stderr.count("\n") == 1


LOADED = """
import sys
from orchestrator.__main__ import main
try:
    main(sys.argv[2:])
except SystemExit:
    pass
print("LOADED", *sorted(set(sys.argv[1].split(",")) & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("args", "without"),
    [
        (["--version"], "torch,torchvision,ray,matplotlib,sklearn,boto3,pyarrow,pandas"),
        (["run", "--help"], "torch,torchvision,ray,matplotlib,sklearn,boto3,pyarrow,pandas,numpy"),
        (
            ["run", "my_job:EXPERIMENT", "--epochz", "5"],
            "my_job,torch,ray,sklearn,boto3,pandas,numpy",
        ),
        (["--help"], "torch,torchvision,ray,matplotlib,sklearn,boto3,pyarrow,pandas"),
        (
            ["report", "FOLDER", "--out", "OUT"],
            "torchvision,ray,matplotlib.pyplot,itables,sklearn,boto3,pyarrow,pandas",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_command_loads_only_what_it_needs(folder, tmp_path, args, without):
    places = {"FOLDER": str(folder), "OUT": str(tmp_path / "out")}
    process = python("-c", LOADED, without, *(places.get(arg, arg) for arg in args))
    out, err = process.communicate(timeout=PATIENCE_S)
    assert err == "" or "--epochz" in args
    assert out.splitlines()[-1] == "LOADED"


HELP = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    print("LOADED", script, code, *sorted({"torch", "ray", "matplotlib", "sklearn", "pandas"} & sys.modules.keys()))
"""


def test_help_of_a_job_does_not_wait_for_torch():
    jobs = sorted(map(str, (Path(orchestrator.__file__).parents[1] / "jobs").glob("*.py")))
    out, err = python("-c", HELP, *jobs).communicate(timeout=PATIENCE_S)
    assert err == ""
    assert [line for line in out.splitlines() if line.startswith("LOADED")] == [f"LOADED {job} 0" for job in jobs]


def test_the_same_on_s3(folder, s3_uri, capsys):
    bucket = open_store(s3_uri)
    for file in folder.rglob("*.*"):
        if file.is_file():
            bucket.write(file.relative_to(folder).as_posix(), file.read_bytes())
    outputs = []
    for place in (str(folder), s3_uri):
        assert main(["status", place, "--json"]) == 0
        assert main(["verify", place]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert main(["status", "s3://no-such-bucket/runs"]) == 1
    assert "bucket 'no-such-bucket' does not exist" in capsys.readouterr().err
