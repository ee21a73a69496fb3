from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.storage.process import is_alive, is_gone, this_process

SAY = "from orchestrator.storage.process import this_process; print(this_process(), flush=True); input()"


def test_a_process_is_gone_once_it_has_ended_reaped_or_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert name.startswith(f"{child.pid} ")
    assert not is_gone(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is a zombie
    assert is_gone(name)
    assert not is_alive(name)
    child.wait()
    assert is_gone(name)
    child.stdin.close()
    child.stdout.close()


def test_this_process_lives() -> None:
    assert this_process() == this_process() != ""
    assert not is_gone(this_process())
    assert is_alive(this_process())


def renamed(pid: str | None = None, started: str | None = None, machine: str | None = None) -> str:
    parts = this_process().split(" ", 2)
    return f"{pid or parts[0]} {started or parts[1]} {machine or parts[2]}"


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"started": "1"}, True),  # its id belongs to another process now
        ({"pid": "2147483647"}, True),
        ({"pid": "2147483647", "machine": "pid:[1] another-boot"}, False),  # elsewhere: nobody here can tell
        ({"pid": "1"}, True),
        ({"pid": "0"}, False),
        ({"pid": "-1"}, False),
        ({"pid": "99999999999999999999"}, False),
        ({"pid": "x"}, False),
    ],
)
def test_only_what_surely_ended_here_is_gone(changes: dict[str, str], gone: bool) -> None:
    assert is_gone(renamed(**changes)) is gone
    assert not is_alive(renamed(**changes))


@pytest.mark.parametrize("name", ["", " ", "7", "7 8", "7 8 ", "nonsense that is none"])
def test_what_names_no_process_is_not_gone(name: str) -> None:
    assert not is_gone(name)
