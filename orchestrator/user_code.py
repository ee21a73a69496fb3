"""Describe an error of the user's code in one sentence: its message, and the line that raised it."""

from __future__ import annotations

import contextlib
import inspect
import os
import sysconfig
import traceback
from collections.abc import Iterator

from orchestrator.errors import ConfigError, OrchestratorError

ERRORS = (Exception, SystemExit)  # what the user's code may raise; a KeyboardInterrupt ends the job itself
_OURS = (os.path.dirname(os.path.abspath(__file__)) + os.sep, "<")
_PYTHON = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "ray", "torchvision", "numpy"))


def one_line(error: BaseException) -> str:
    """Return the error's type and message, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def described(error: BaseException, function: object = None) -> str:
    """Return the error's type, message and place: "TypeError: score() takes 1 argument (/home/me/job.py:12)".

    `function`: the called function; the place is its definition if the call itself failed, as for wrong arguments.
    """
    where = place(error, function)
    return f"{one_line(error)} ({where})" if where else one_line(error)


def place(error: BaseException, function: object = None) -> str:
    """Return "file:line" of the innermost frame in the user's own files, or "" for an error that was never raised.

    Without such a frame: the definition of `function`, else the innermost frame of an installed package that is not
    one of our dependencies (`_LIBRARIES`), else the innermost frame.
    """
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    defined = _definition(function)
    chosen = [(file, line) for file, line in frames if _is_installed(file) and not _is_library(file)]
    for found in ([each for each in frames if _is_own(each[0])], defined, chosen, frames):
        if found:
            file, line = found[-1]
            return f"{file}:{line}"
    return ""


def _definition(function: object) -> list[tuple[str, int]]:
    """Return [(file, line)] of a function, a method, or an object's `__call__`; [] if it is not written in Python."""
    if not callable(function):
        return []
    code = getattr(inspect.unwrap(function), "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return [(code.co_filename, code.co_firstlineno)] if code else []


def _is_own(file: str) -> bool:
    """Return whether `file` is neither installed nor a part of Python or of this package."""
    return not (file.startswith((*_OURS, *_PYTHON)) or _is_installed(file))


def _is_library(file: str) -> bool:
    return file.startswith(_OURS) or any(library in file for library in _LIBRARIES)


def _is_installed(file: str) -> bool:
    return any(folder in file for folder in _INSTALLED)


@contextlib.contextmanager
def called(what: str, function: object = None) -> Iterator[None]:
    """Turn an error of the user's `function` in the block into a ConfigError that names `what`, error and line.

    An OrchestratorError is raised unchanged.
    """
    try:
        yield
    except OrchestratorError:
        raise
    except ERRORS as error:
        raise ConfigError(f"{what} failed: {described(error, function)}") from error
