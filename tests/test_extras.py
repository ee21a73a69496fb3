"""What is missing is found before any training, and the sentence names a command that works in a clone."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.distributed.flags import Flags, run_job
from orchestrator.distributed.trackers import TRACKERS, tracker
from orchestrator.errors import ConfigError, ExportError
from orchestrator.extras import extra, install_command

PROJECT = Path(orchestrator.__file__).parents[1]


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ModuleNotFoundError("No module named 'matplotlib'"), "No module named 'matplotlib'"),
        (TypeError("Descriptors cannot\nbe created directly"), "Descriptors cannot be created directly"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_whatever_an_import_raises_is_one_sentence(cause: Exception, reason: str) -> None:
    with pytest.raises(ExportError) as caught, extra("onnx", "ONNX files", ExportError):
        raise cause
    assert str(caught.value) == (
        f"ONNX files: cannot import a package of the extra 'onnx' ({reason}): "
        f"run {install_command('onnx')} in the folder of this project"
    )


def test_a_required_package_that_is_missing_is_one_sentence_too() -> None:
    with pytest.raises(ConfigError) as caught, extra(None, "pictures"):
        raise ImportError("No module named 'matplotlib'")
    assert str(caught.value) == (
        "pictures: cannot import a required package (No module named 'matplotlib'): "
        f"run {sys.executable} -m pip install -e '.' -c constraints.txt in the folder of this project"
    )


def test_outside_a_clone_the_command_names_the_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.extras.PROJECT", tmp_path)
    command = f"{sys.executable} -m pip install 'rewind-orchestrator[onnx]'"
    with pytest.raises(ConfigError) as caught, extra("onnx", "ONNX files"):
        raise ImportError("no onnx")
    assert str(caught.value).endswith(f"(no onnx): run {command}")
    assert install_command(None) == f"{sys.executable} -m pip install 'rewind-orchestrator'"


@pytest.mark.parametrize("name", ["channels", "mobile"])
def test_the_command_is_one_of_this_environment_that_pip_understands(name: str) -> None:
    command = shlex.split(install_command(name))
    assert command[0] == sys.executable
    assert command[1:4] == ["-m", "pip", "install"]
    assert command[4:6] == ["-e", f".[{name}]"]
    assert command[6:] == ([] if name == "mobile" else ["-c", "constraints.txt"])
    assert (PROJECT / "constraints.txt").exists()


def test_every_extra_that_the_code_names_is_one_of_the_project() -> None:
    code = "".join(file.read_text() for file in (PROJECT / "orchestrator").rglob("*.py"))
    named = set(re.findall(r'\bextra\("(\w+)"', code))
    assert named == {"channels", "coreml", "mobile", "onnx", "optuna", "quantise", "text", "timm"}
    extras = re.findall(r"^(\w+) = \[", (PROJECT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert named | set(TRACKERS) <= set(extras)


def never(flags: Flags) -> int:
    pytest.fail("the job was started")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2", "itables"])
def test_a_job_with_a_report_needs_its_packages_first(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run_job(Flags(report=str(tmp_path)), never) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "cannot import a required package (" in err
    assert package in err
    assert err.count("\n") == 1
    assert run_job(Flags(), lambda flags: 0) == 0, "without --report they are not needed"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_report_folder_that_is_full_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    assert run_job(Flags(report=str(tmp_path)), never) == 1
    assert capsys.readouterr().err == (
        f"error: --report must be a folder that can be written to, got '{tmp_path}' (No space left on device)\n"
    )


def test_a_tracker_that_cannot_be_set_up_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="tracker 'wandb' cannot be set up: No WandB API key found"):
        tracker("wandb", "small")
