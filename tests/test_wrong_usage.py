"""What a new user gets wrong on the command line: each mistake has its sentence, none has a traceback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_command_line import commit

from orchestrator.__main__ import main
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

FILES = {
    "file": "no folder",
    "mine_of_usage.py": "from orchestrator import Experiment\n"
    "from orchestrator.examples import DIGITS as EXPERIMENT\nNUMBER = 3\n",
    "nets_of_usage.py": "small_nets = ()\n\ndef small_net():\n    ...\n",
    "broken_of_usage.py": "x = (\n",
    "empty_of_usage.py": "",
    "notebook_of_usage.py": "import dataclasses\nfrom orchestrator.examples import DIGITS\n"
    "EXPERIMENT = dataclasses.replace(DIGITS, model='__main__:net')\n",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory with a storage, an empty folder, and a few files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    commit(Ledger(open_store("runs")), 0)
    commit(Ledger(open_store("runs")), 1)
    return tmp_path


USAGE = [
    ("", 2, "Expected one of {run, status"),
    ("statsu runs", 2, "'statsu' is not a command: did you mean 'status'?"),
    (
        "load runs 0",
        2,
        "'load' is not a command: in Python, orchestrator.load\\(STORAGE, KEY\\) returns a round's network",
    ),
    ("nothing", 2, "'nothing' is not a command: the commands are run, status"),
    ("--verison", 2, "--verison is not a flag: did you mean --version\\?"),
    ("run --version", 0, "^orchestrator [0-9.]+"),
    ("status", 2, "Missing from orchestrator status: STORAGE"),
    ("status missing", 1, "folder .*/missing does not exist: give the --storage of a job that has run"),
    ("status file", 1, "folder .*/file does not exist"),
    ("status empty", 1, "no finished round in .*/empty: give the --storage of a job that has run"),
    ("status runs --jsn", 2, "--jsn is not a flag: did you mean --json\\?"),
    ("status runs --json --follow", 1, "--json and --follow cannot be combined: give one of them"),
    ("status s3:bucket", 1, "storage must be a folder .*, got 's3:bucket', without its slashes"),
    ("run digits --storage s3//bucket/x", 1, "storage must be a folder .*, got 's3//bucket/x', without its colon"),
    ("status s3://", 1, "an S3 uri names a bucket, s3://bucket/prefix, got 's3://'"),
    ("status ftp://host/x", 1, "storage must be a folder .* got the scheme 'ftp'"),
    ("status s3://key:secret@bucket/x", 1, "set AWS_ACCESS_KEY_ID"),
    ("report runs", 2, "Missing from orchestrator report: --out DIR"),
    ("report runs --out", 2, "Missing value for argument '--out'"),
    ("report empty --out page", 1, "no finished round in .*/empty"),
    ("report runs --out page --experiment digit", 1, "--experiment must be one of digits, got 'digit'"),
    ("export empty --out page", 1, "no finished round in .*/empty"),
    (
        "export runs --out page --round zz",
        1,
        "--round must be the beginning of a round's key, got 'zz'",
    ),
    ("export runs --out page --round 0", 1, "--round must be the beginning of one key, got '0', which 2 have"),
    ("export runs --out page --formats onx", 1, "a format must be one of .*, got 'onx': did you mean 'onnx'"),
    ("export missing --out page --formats onx", 1, "a format must be one of .*, got 'onx'"),
    ("clean runs --dryrun", 2, "--dryrun is not a flag: did you mean --dry-run\\?"),
    ("verify", 2, "Missing from orchestrator verify: STORAGE"),
    ("dataset pack", 2, "Missing from orchestrator dataset pack: FOLDER"),
    ("dataset pack missing out", 1, "missing/train is not a folder: expected missing/train/CLASS"),
    ("dataset pakc a b", 2, "'pakc' is not a command: did you mean 'pack'\\?"),
    ("run", 2, "Missing from orchestrator run: EXPERIMENT"),
    ("run digit", 1, "must be one of digits, or your own, got 'digit': did you mean 'digits'?"),
    ("run mine_of_usage", 1, "got 'mine_of_usage': write mine_of_usage.py, which is here"),
    ("run yours", 1, 'write your own as "module:NAME" or "folder/script.py:NAME"'),
    (
        "run mine_of_usage:EXPERIMEN",
        1,
        "'EXPERIMEN' does not exist in module mine_of_usage .*did you mean 'EXPERIMENT'?",
    ),
    (
        "run mine_of_usage:NUMBER",
        1,
        "must name an Experiment or a list of them, and 'mine_of_usage:NUMBER' is of type int",
    ),
    ("run mine_of_usgae:EXPERIMENT", 1, "cannot import mine_of_usgae from .*: did you mean 'mine_of_usage'?"),
    ("run mine_of_usgae.py", 1, "a script that exists, got 'mine_of_usgae.py': did you mean 'mine_of_usage.py'?"),
    ("run ./mine_of_usage:EXPERIMENT", 1, "write ./mine_of_usage.py:EXPERIMENT, which is here"),
    ("run nothing.py", 1, "must name a script that exists, got 'nothing.py': .*/nothing.py does not exist"),
    ("run broken_of_usage.py", 1, "cannot import broken_of_usage .*never closed \\(broken_of_usage.py, line 1\\)"),
    ("run empty_of_usage.py", 1, "'empty_of_usage.py', which has no EXPERIMENT: write empty_of_usage.py:NAME"),
    ("run notebook_of_usage.py", 1, 'write the module in place of __main__, as "my_job:net"$'),
    ("run digits --epochs 5", 2, "--epochs is a field of the experiment: write --set training.epochs=5"),
    ("run digits --training.epochs=5", 2, "write --set training.epochs=5"),
    ("run mine_of_usage.py --lr 0.3", 2, "write --set training.schedule.peak=0.3"),
    ("run digits --batch-size 8", 2, "write --set training.batch_size=8"),
    ("run broken_of_usage:EXPERIMENT --sed 3", 2, "did you mean --seed\\?"),  # not imported
    ("run digits --epochz 3", 2, "--epochz is not a flag: did you mean --set training.epochs=3"),
    ("run broken_of_usage.py --warp=3", 2, "--warp is not a flag: --set FIELD=VALUE changes a field of the experiment"),
    ("status --storage runs", 2, "--storage is not a flag: write its value alone"),
    ("status runs more", 2, "Unrecognized options: more"),
    ("run digits --seeds 1,2", 2, "write --set seeds=1,2"),
    ("run digits --sed 3", 2, "--sed is not a flag: did you mean --seed\\?"),
    ("run digits --seed three", 2, "error: --seed: it must be a whole number, got 'three'"),
    ("run digits --target abc", 2, "error: --target: it must be a number, got 'abc'"),
    ("run digits --seed -1", 1, "seed must be a whole number from 0 to .*, got -1"),
    ("run digits --workers 0", 1, "--workers must be at least 1 and the range must rise, got '0'"),
    ("run digits --workers two", 1, "--workers must be a number such as 4, or a range such as 2:8, got 'two'"),
    ("run digits --workers 4:2", 1, "--workers must be at least 1 and the range must rise, got '4:2'"),
    ("run digits --workers 100", 1, "--workers must not exceed the batch of 64, got 100"),
    ("run digits --cpus-per-worker 0", 1, "--cpus-per-worker must be a finite number above 0, got 0.0"),
    ("run digits --gpus-per-worker 0.5", 1, "--gpus-per-worker must be a whole number, because NCCL"),
    ("run digits --loader-workers -1", 1, "--loader-workers must be a whole number of 0 or more, got -1"),
    ("run digits --checkpoint-seconds -3", 1, "--checkpoint-seconds must be a finite number of 0 or more, got -3"),
    ("run digits --data /nowhere", 1, "data 'digits' is not in files: leave --data out, got '/nowhere'"),
    ("run digits --set", 2, "Missing value for argument '--set'"),
    ("run digits --set epochs=5", 1, "an experiment has no field 'epochs': did you mean 'training.epochs'"),
    ("run digits --set model=resnet9", 1, "model must be one of .*, got 'resnet9': did you mean 'resnet8'?"),
    ("run digits --set model=torchvision:resnet5", 1, "torchvision has no classifier 'resnet5': did you mean resnet50"),
    ("run digits --set model=torchvison:resnet18", 1, "cannot import torchvison .*: did you mean 'torchvision:'?"),
    ("run digits --set model=mine_of_usage:net", 1, "'net' does not exist in module mine_of_usage \\(.*py\\)$"),
    ("run digits --set model=nets_of_usage:small_ent", 1, "'small_ent' .* did you mean 'small_net'?"),
    (
        "run digits --set seed=1 training.epochs=5",
        2,
        "takes one value, got 2: write --set seed=1 --set training.epochs=5",
    ),
    ("export runs --out page --trust a:b c:d", 2, "--trust takes one value, got 2: write --trust a:b --trust c:d"),
    ("report --experiment digits runs", 2, "Missing from orchestrator report: --out DIR(?!.*takes one value)"),
    ("run digits --set model_options.widht=8", 1, "'widht'\\): it takes num_classes, input_shape, width"),
    ("run digits --set data=digit", 1, "data must be one of .*, got 'digit': did you mean 'digits'?"),
    (
        "run digits --set data=imagefolder",
        1,
        "data 'imagefolder' needs --data .*, the folder with train/",
    ),
    (
        "run digits --set data=imagefolder --data empty",
        1,
        "/empty/train is not a folder: expected .*/empty/train/CLASS",
    ),
    (
        "run digits --set data=chars --data nothing",
        1,
        "--data of data 'chars' must be a text file in UTF-8, got .*nothing",
    ),
    ("run digits --set criterion=magnitud", 1, "criterion must be one of .* did you mean 'magnitude'?"),
    ("run digits --set exclude=fcc", 1, "exclude must match a prunable weight or its module, got 'fcc'"),
    ("run digits --set training.batch_size=5000", 1, "batch_size must be at most 1200, the number of training samples"),
    (
        "run digits --set start_from=no.safetensors",
        1,
        "start_from must be a safetensors file .*no such file",
    ),
    ("run digits --storage=", 1, "storage must be a folder .*, got ''"),
    ("run digits --storage new/runs --set model=resnet9", 1, "model must be one of"),  # and makes no folder
    ("run digits --storage new --target 97 --set model=resnet9", 1, "model must be one of"),
    ("run digits --storage file", 1, "cannot write .*: a file is in the place of a folder"),
    ("run digits --report file", 1, "--report must be a folder that can be written to, got 'file'"),
    ("run digits --report new/page --set model=resnet9", 1, "model must be one of"),  # and makes no folder
    ("latency nothing --out new/table.json", 1, "got 'nothing': write your own as \"module:NAME\""),
    ("targets runs zz --report new/page", 1, "KEY must be the beginning of a round's key, got 'zz'"),
    ("run digits --asha --set seeds=1,1", 1, "seeds must differ from each other, got \\(1, 1\\)"),
]


@pytest.mark.parametrize(("line", "code", "words"), USAGE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_has_its_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, words: str
) -> None:
    before = sorted(here.iterdir())
    try:
        found = main(shlex.split(line))
    except SystemExit as stop:
        found = int(str(stop.code))
    output = "".join(capsys.readouterr())
    assert found == code, output
    assert "Traceback" not in output
    assert code != 2 or len(output.splitlines()) == 2
    assert re.search(words, " ".join(output.split())), output
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before
