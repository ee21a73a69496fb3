"""Names of functions, and one sentence for each way in which a name can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.lookup import lookup

BUILTIN: dict[str, Callable[[], str]] = {"short": lambda: "short", "other": lambda: "other"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's project as current directory, not on `sys.path`: as when a script in another folder is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_short_names_come_from_the_built_in_ones() -> None:
    assert lookup("other", BUILTIN, "model")() == "other"


def test_a_function_of_the_current_directory(project: Path) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "nets.py").write_text("def tiny():\n    return 'tiny'\n")
    assert lookup("mine.nets:tiny", BUILTIN, "model")() == "tiny"
    lookup("mine.nets:tiny", BUILTIN, "model")
    assert sys.path.count(str(project)) == 1


def test_a_file_in_the_current_directory_hides_nothing_installed(project: Path) -> None:
    (project / "colorsys.py").write_text("def rgb_to_hls():\n    return 'hidden'\n")
    assert lookup("colorsys:rgb_to_hls", {}, "model").__module__ == "colorsys"
    assert str(project) not in str(sys.modules["colorsys"].__file__)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shrot", r'model must be one of other, short, or "package.module:function", got \'shrot\''),
        ("", "model must be one of other, short, .*got ''"),
        (":f", "must be written as .*got ':f'"),
        ("broken_user:", "must be written as .*got 'broken_user:'"),
        (".relative:f", "must be written as .*got '.relative:f'"),
        ("no.such.thing:f", "model 'no.such.thing:f': cannot import no.such.thing from .*No module named 'no'"),
        ("needs_more:f", "cannot import needs_more from .*No module named 'not_there_at_all'"),
        ("not_python:f", r"cannot import not_python from .*not_python.py, line 1"),
        (
            "good_user:missing",
            r"model 'good_user:missing': 'missing' does not exist in module good_user \(.*good_user.py",
        ),
        ("good_user:number", "model 'good_user:number' must name a function, got a int"),
        ("crashes_user:f", r"the import of crashes_user failed: ZeroDivisionError: .*\(.*crashes_user.py:2\)"),
        ("exits_user:f", r"the import of exits_user failed: SystemExit: 0 \(.*exits_user.py:2\)"),
    ],
)
def test_each_wrong_name_has_its_sentence(project: Path, spec: str, message: str) -> None:
    (project / "good_user.py").write_text("number = 3\n")
    (project / "needs_more.py").write_text("import not_there_at_all\n")
    (project / "not_python.py").write_text("def f(:\n")
    (project / "crashes_user.py").write_text("\n1 / 0\n")
    (project / "exits_user.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ConfigError, match=message) as error:
        lookup(spec, BUILTIN, "model")
    assert "\n" not in str(error.value)
