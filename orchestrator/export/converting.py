"""Help every converter: shorten its errors, silence its notes, and check that weights have values."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

from torch import nn

from orchestrator.errors import ExportError
from orchestrator.user_code import one_line


def first_cause(error: BaseException) -> str:
    """Return the error that a chain of errors began with, in up to 300 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence converters, which log and print at length; their errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def no_output() -> Iterator[None]:
    """Discard what C++ prints to the standard output, which `quiet` does not reach."""
    before = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def check_weights(module: nn.Module) -> None:
    """Raise ExportError if a tensor of `module` holds no values, as on the meta device."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    if abstract := next((name for name, tensor in tensors if tensor.is_meta), None):
        raise ExportError(f"{type(module).__name__} has no values to write, as of {abstract}: load them first")
