"""Names a process so that another one can tell whether it is gone, though process ids are used again."""

from __future__ import annotations

import os


def this_process() -> str:
    """This process: "<id> <start> <id namespace> <boot>"; "" where the system does not say (it needs Linux's /proc)."""
    started, machine = _started(os.getpid()), _machine()
    return f"{os.getpid()} {started} {machine}" if started and machine else ""


def is_gone(process: str) -> bool:
    """Whether `process` surely ran on this machine and has ended; False for what is no name of a process."""
    return _lives(process) is False


def is_alive(process: str) -> bool:
    """Whether `process` surely runs on this machine; False for what is no name of a process."""
    return _lives(process) is True


def _lives(process: str) -> bool | None:
    """Whether `process` runs; None if it is not of this machine, or the system does not tell."""
    pid, _, rest = process.partition(" ")
    started, _, machine = rest.partition(" ")
    if not (pid.isdecimal() and len(pid) <= 10 and 0 < int(pid) < 2**31 and machine and machine == _machine()):
        return None
    try:
        os.kill(int(pid), 0)  # /proc may hide the processes of other users, this does not
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    found = _started(int(pid))
    return found == started if found else None


def _machine() -> str:
    """The id namespace (containers have their own) and the boot of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{os.readlink('/proc/self/ns/pid')} {file.read().strip()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks from boot to the start of the process, field 22 of proc_pid_stat(5); "ended" for a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else fields[18]
