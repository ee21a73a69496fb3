"""Decide which errors of a worker are retried, and write their messages.

A restart only helps if a process, a node or a connection died: the same code on the same data raises the same error.
"""

from __future__ import annotations

import contextlib
import os
import platform

import ray.exceptions
import torch

from orchestrator.errors import OrchestratorError, is_full
from orchestrator.training.collectives import PeerError
from orchestrator.user_code import described, place

_LOST = (
    PeerError,
    torch.distributed.DistError,  # from torch's own collectives: in a backward pass on GPUs, in SyncBatchNorm
    ConnectionError,
    EOFError,  # from a pipe whose other end died
)
_LOADER_DIED = "DataLoader worker"  # begins torch's RuntimeError about a loader process that died


def is_lost(error: BaseException) -> bool:
    """Return whether `error` means that another process died or cannot be reached, which is not the code's fault."""
    if isinstance(error, ray.exceptions.OutOfDiskError) or is_full(error):
        return False
    if any(
        kind.__module__.startswith("ray.") for kind in type(error).__mro__
    ):  # an actor, an object or a barrier was lost
        return True
    return isinstance(error, _LOST) or (isinstance(error, RuntimeError) and str(error).startswith(_LOADER_DIED))


def may_pass(error: BaseException) -> bool:
    """Return whether a restart may help.

    It may for a lost process (`is_lost`), and for errors of a GPU, except its memory, or of files and devices. If such
    an error occurs again unchanged, the run is given up.
    """
    if is_lost(error):
        return True
    if isinstance(error, OrchestratorError) or is_full(error):
        return False
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    return isinstance(error, torch.AcceleratorError | OSError)


def sentence(error: BaseException) -> str:
    """Return the message for the user; an error that is not ours gets its line and this process's log file."""
    return str(error) if isinstance(error, OrchestratorError) else with_log(message_of(error), log_file())


def last_line(error: BaseException) -> str:
    """Return the last line of a Ray error, the reason; the lines above it are a traceback or a list of ids."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def death(error: BaseException) -> str:
    """Return Ray's reason for an actor's death, without its paragraph on possible causes."""
    return last_line(error).partition(". ")[0]


def with_log(text: str, log: str) -> str:
    """Append the worker's log file, if it is known, to a message."""
    return f"{text}; the worker's log: {log}" if log else text


def message_of(error: BaseException) -> str:
    """Describe the error with its line; every process describes the same error with the same text."""
    if isinstance(error, torch.OutOfMemoryError):
        why = ", ".join(filter(None, [str(error).partition(". ")[0], place(error)]))
        return f"the GPU's memory is too small ({why}): lower batch_size, or ask for more workers"
    return described(error)[:2000]


def log_file() -> str:
    """Return HOST:FILE of this process's standard error, or "" if it is not a file."""
    with contextlib.suppress(OSError):
        file = os.readlink("/proc/self/fd/2")
        if os.path.isfile(file):
            return f"{platform.node()}:{file}"
    return ""
