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
    "mine_of_usage.py": "from orchestrator.examples import DIGITS as EXPERIMENT\nNUMBER = 3\n",
    "broken_of_usage.py": "x = (\n",
    "empty_of_usage.py": "",
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


USAGE = []


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
    assert re.search(words, " ".join(output.replace("│", " ").split())), output
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before
