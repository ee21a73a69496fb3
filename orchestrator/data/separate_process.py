"""Read samples in a separate process, so that this process opens nothing that loader processes would share.

A data set may open its file at the first sample. If it were opened here, before the loader processes are forked, all
of them would share one file position, and each would read images that another process has requested.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from orchestrator import errors
from orchestrator.errors import DataError, OrchestratorError
from orchestrator.user_code import ERRORS, described

D = TypeVar("D")
T = TypeVar("T")

SILENT_SECONDS = 30.0  # wait before a warning names the data set
LOOK_S = 0.5  # between two checks that the process is alive
END_S = 5.0  # time for the process to end what the data set has started

logger = logging.getLogger(__name__)


def run_apart(look: Callable[[D], T], data: D, name: str) -> T:
    """Return `look(data)`, called where it changes neither `data` nor this process.

    The time is not limited, because a data set may be slow; after half a minute a warning names it as `name`.
    Raises the OrchestratorError that `look` raises, DataError for any other exception or if the process dies.
    """
    methods = multiprocessing.get_all_start_methods()  # the default one first
    if (multiprocessing.get_start_method(allow_none=True) or methods[0]) != "fork":
        try:
            return look(_copied(data))  # loaders get `data` pickled, and an open file cannot be pickled
        except OrchestratorError:
            raise
        except ERRORS as error:
            raise DataError(_unchecked(error)) from error
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(there, look, data))
    process.start()  # not a daemon: daemons cannot start processes, but a data set may
    there.close()
    try:
        with here:
            _wait(here, process, name)
            failure, answer = here.recv()
        process.join(END_S)
    except EOFError:
        process.join()
        reason = f"the process that reads the first samples ended with exit code {process.exitcode}"
        raise DataError(f"{reason}: read some samples of the data set in a script of your own") from None
    finally:
        process.kill()
        process.join()
    if failure is not None:
        raise getattr(errors, failure, DataError)(answer)
    result: T = answer
    return result


def _wait(answer: Connection, process: BaseProcess, name: str) -> None:
    """Wait until there is an `answer`. Raises EOFError if `process` ends without one.

    The end of `process` does not close the connection if the data set has started processes, which inherit it.
    """
    began, warned = time.monotonic(), False
    while not answer.poll(min(LOOK_S, SILENT_SECONDS)):
        if not (process.is_alive() or answer.poll()):
            raise EOFError
        if not warned and time.monotonic() - began >= SILENT_SECONDS:
            logger.warning(
                "still waiting for the first samples of %s, after %.0f s: process %d reads them",
                name,
                SILENT_SECONDS,
                process.pid,
            )
            warned = True


def _answer(there: Connection, look: Callable[[D], T], data: D) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # as in a loader; the parent's threads are not here
    answer: tuple[str | None, Any]
    try:
        answer = None, look(data)
    except OrchestratorError as error:
        answer = type(error).__name__, str(error)
    except ERRORS as error:
        answer = "DataError", _unchecked(error)
    there.send(answer)


def _unchecked(error: BaseException) -> str:
    return f"the data cannot be checked: {described(error)}"


def _copied(data: D) -> D:
    try:
        return copy.deepcopy(data)
    except Exception:  # the user's samples cannot be copied, so loaders cannot get them either
        return data
