"""Look at samples in a process of its own, so that this one opens nothing that loader processes would share.

A data set may open its file at the first sample. Opened here, before the loader processes are forked, the file would
have one position for all of them, and each would read images that another one has asked for.
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

SILENT_SECONDS = 30.0  # until the log says what is waited for
LOOK_S = 0.5  # between two looks at whether the process still lives
END_S = 5.0  # for the process to end what the data set has started

logger = logging.getLogger(__name__)


def run_apart(look: Callable[[D], T], data: D, name: str) -> T:
    """Return `look(data)`, called where it leaves no trace in `data` or in this process.

    There is no time limit, as a data set may be slow; a warning names it, as `name`, after half a minute.
    Raises the OrchestratorError that `look` raises, DataError for any other exception or if the process dies.
    """
    methods = multiprocessing.get_all_start_methods()  # the default one first
    if (multiprocessing.get_start_method(allow_none=True) or methods[0]) != "fork":
        try:
            return look(_copied(data))  # loaders get `data` pickled, which what is open cannot be
        except OrchestratorError:
            raise
        except ERRORS as error:
            raise DataError(_unchecked(error)) from error
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(there, look, data))
    process.start()  # no daemon: those must not start processes of their own, as a data set may
    there.close()
    try:
        with here:
            _wait(here, process, name)
            failure, answer = here.recv()
        process.join(END_S)
    except EOFError:
        process.join()
        said = f"the process that reads the first samples ended with exit code {process.exitcode}"
        raise DataError(f"{said}: read some samples of the data set in a process of your own") from None
    finally:
        process.kill()
        process.join()
    if failure is not None:
        raise getattr(errors, failure, DataError)(answer)
    result: T = answer
    return result


def _wait(answer: Connection, process: BaseProcess, name: str) -> None:
    """Return when there is an `answer`. Raises EOFError if `process` ends without one.

    The end of `process` alone does not end the connection, which the processes of a data set have inherited.
    """
    began, told = time.monotonic(), False
    while not answer.poll(min(LOOK_S, SILENT_SECONDS)):
        if not (process.is_alive() or answer.poll()):
            raise EOFError
        if not told and time.monotonic() - began >= SILENT_SECONDS:
            logger.warning(
                "still waiting for the first samples of %s, after %.0f s: process %d reads them",
                name,
                SILENT_SECONDS,
                process.pid,
            )
            told = True


def _answer(there: Connection, look: Callable[[D], T], data: D) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, and ends this process
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
    except Exception:  # of the user's samples; loaders will not get these either
        return data
