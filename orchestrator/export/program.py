"""The graph of a network, which every runtime's format begins with."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from orchestrator.errors import ExportError
from orchestrator.export.preprocessing import Preprocessing
from orchestrator.user_code import one_line


def traced(module: nn.Module, preprocessing: Preprocessing, *, batch: int, dynamic: bool) -> ExportedProgram:
    """What `module`, in evaluation mode, does with `batch` images, or with any number of them (`dynamic`).

    Raises ExportError for a module that torch.export does not take, such as one with control flow on data.
    """
    images = torch.zeros((batch, *preprocessing.input_shape))
    try:
        with quiet():
            return torch.export.export(
                module, (images,), dynamic_shapes=({0: Dim("batch")},) if dynamic else None, strict=False
            )
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be exported: torch.export must be able to follow one flow for all images "
            f"of shape {preprocessing.input_shape} ({first_cause(error)})"
        ) from error


def first_cause(error: BaseException) -> str:
    """The error that a chain began with, in a few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantizers explain themselves at length; what they fail with is raised anyhow."""
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


def check_weights(module: nn.Module) -> None:
    """Raise ExportError if a tensor of `module` holds no values, as on the meta device."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    if abstract := next((name for name, tensor in tensors if tensor.is_meta), None):
        raise ExportError(f"{type(module).__name__} has no values to write, as of {abstract}: load them first")
