"""Name a process so that another process can tell whether it has ended, although process ids are reused."""

from __future__ import annotations

import os


def this_process() -> str:
    """Return this process as "<id> <start> <id namespace> <boot>", or "" without Linux's /proc."""
    started, machine = _started(os.getpid()), _machine()
    return f"{os.getpid()} {started} {machine}" if started and machine else ""


def is_gone(process: str) -> bool:
    """Return whether `process` certainly ran on this machine and has ended; False for a malformed name."""
    return _lives(process) is False


def is_alive(process: str) -> bool:
    """Return whether `process` certainly runs on this machine; False for a malformed name."""
    return _lives(process) is True


def _lives(process: str) -> bool | None:
    """Return whether `process` runs; None if it belongs to another machine, or the system does not say."""
    pid, _, rest = process.partition(" ")
    started, _, machine = rest.partition(" ")
    if not (pid.isdecimal() and len(pid) <= 10 and 0 < int(pid) < 2**31 and machine and machine == _machine()):
        return None
    try:
        os.kill(int(pid), 0)  # /proc may hide the processes of other users; kill does not
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    found = _started(int(pid))
    return found == started if found else None


def _machine() -> str:
    """Return the id namespace (containers have their own) and the boot id of this machine, or "" if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{os.readlink('/proc/self/ns/pid')} {file.read().strip()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return the clock ticks from boot to the start of the process, or "ended" for a zombie, or "" if unknown.

    They are field 22 of proc_pid_stat(5).
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else fields[18]
