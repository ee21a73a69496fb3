"""Which errors of a worker are tried again, and what the user is told of them.

Another start helps where a process, a node or a connection died, and nowhere else: the same code on the same data
raises the same error.
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
    torch.distributed.DistError,  # of collectives that are not ours: in a backward pass on GPUs, in SyncBatchNorm
    ConnectionError,
    EOFError,  # of a pipe whose other end died
)
_LOADER_DIED = "DataLoader worker"  # how torch begins a RuntimeError about a loader process that died


def is_lost(error: BaseException) -> bool:
    """Whether `error` says that another process died or cannot be reached, whatever the code did."""
    if isinstance(error, ray.exceptions.OutOfDiskError) or is_full(error):
        return False
    if any(kind.__module__.startswith("ray.") for kind in type(error).__mro__):  # an actor, an object, a barrier
        return True
    return isinstance(error, _LOST) or (isinstance(error, RuntimeError) and str(error).startswith(_LOADER_DIED))


def may_pass(error: BaseException) -> bool:
    """Whether another start may help; an error of the second kind below is given up if it comes back as it was.

    The second kind: errors of a GPU (its memory apart) and of files and devices, which say nothing of the code.
    """
    if is_lost(error):
        return True
    if isinstance(error, OrchestratorError) or is_full(error):
        return False
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    return isinstance(error, torch.AcceleratorError | OSError)


def sentence(error: BaseException) -> str:
    """What the user must know: an error of ours speaks for itself, any other with its line and this process's log."""
    return str(error) if isinstance(error, OrchestratorError) else with_log(said(error), log_file())


def last_line(error: BaseException) -> str:
    """Return the last line of a Ray error. It says why; the lines above it are a traceback or a list of ids."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def death(error: BaseException) -> str:
    """Why Ray says that an actor died, without the paragraph on what may have ended its process."""
    return last_line(error).partition(". ")[0]


def with_log(text: str, log: str) -> str:
    return f"{text}; the worker's log: {log}" if log else text


def said(error: BaseException) -> str:
    """The error with its line; the same text from every process that meets the same error."""
    if isinstance(error, torch.OutOfMemoryError):
        why = ", ".join(filter(None, [str(error).partition(". ")[0], place(error)]))
        return f"the GPU's memory is too small ({why}): lower batch_size, or ask for more workers"
    return described(error)[:2000]


def log_file() -> str:
    """HOST:FILE of this process's standard error, or "" if it is not a file."""
    with contextlib.suppress(OSError):
        file = os.readlink("/proc/self/fd/2")
        if os.path.isfile(file):
            return f"{platform.node()}:{file}"
    return ""
