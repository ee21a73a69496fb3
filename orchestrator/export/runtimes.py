"""Run a file as its users do: by torch, onnxruntime, ExecuTorch or, on macOS, Core ML; on the CPU.

Nothing heavy is imported before it is known which runtime is wanted, so that each one's memory is its own.
"""

from __future__ import annotations

import platform
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from orchestrator.errors import ConfigError, ExportError

Array: TypeAlias = np.ndarray[Any, Any]
Run: TypeAlias = Callable[[Array], Array]  # images (n, C, H, W) float32 to logits (n, classes) float32
INPUT, OUTPUT = "images", "logits"  # as every format that names them names them
_COREML = ".mlpackage.zip"


class Runtime(NamedTuple):
    """`load` gives what runs a file on that many threads. `sparse_kernels`: whether zeros are left out of the work."""

    name: str
    load: Callable[[Path, int], Run]
    sparse_kernels: bool = False


def runtime_of(path: Path, model: str | None = None) -> Runtime:
    """The runtime for a file, imported. Raises ConfigError for an ending that nobody runs.

    `model` names what builds the network of a packed file (see `load_packed`).
    """
    for ending, imported in _IMPORTS.items():
        if path.name.endswith(ending):
            return imported(model)
    raise ConfigError(f"a file to run must end in one of {', '.join(_IMPORTS)}, got {path}")


def not_run(path: Path) -> str | None:
    """Why this machine cannot run a file; None if it can."""
    return "Core ML runs on macOS only" if path.name.endswith(_COREML) and platform.system() != "Darwin" else None


def _torch(model: str | None) -> Runtime:
    import torch

    from orchestrator.export.batch_norm import in_float32
    from orchestrator.export.packed_file import load_packed
    from orchestrator.modules import logits_of

    def load(path: Path, threads: int) -> Run:
        torch.set_num_threads(threads)
        module = in_float32(load_packed(path, model=model))

        @torch.inference_mode()
        def run(images: Array) -> Array:
            answer = logits_of(module(torch.from_numpy(images)), ExportError)
            logits: Array = answer.float().numpy()
            return logits

        return run

    return Runtime(f"torch {torch.__version__}", load)


def _onnx(_: str | None) -> Runtime:
    import onnxruntime

    def load(path: Path, threads: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(images: Array) -> Array:
            logits: Array = session.run(None, {name: images})[0]
            return logits

        return run

    return Runtime(f"onnxruntime {onnxruntime.__version__}", load)


def _executorch(_: str | None) -> Runtime:
    from importlib.metadata import version

    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime as Executor

    def load(path: Path, threads: int) -> Run:
        _unsafe_reset_threadpool(threads)
        program = Executor.get().load_program(path)
        method = program.load_method("forward")

        def run(images: Array) -> Array:
            logits = [method.execute([torch.from_numpy(image[None])])[0].numpy().copy() for image in images]
            return np.concatenate(logits)

        return run

    return Runtime(f"executorch {version('executorch')}", load)


def _coreml(_: str | None) -> Runtime:
    """Written without a Mac: what coremltools does is known from its documentation alone."""
    import coremltools

    def load(path: Path, threads: int) -> Run:
        folder = tempfile.TemporaryDirectory()  # lives as long as what runs: it goes with `run`
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder.name)
        package = next(Path(folder.name).glob("*.mlpackage"))
        model = coremltools.models.MLModel(str(package), compute_units=coremltools.ComputeUnit.CPU_ONLY)

        def run(images: Array, folder: object = folder) -> Array:
            return np.concatenate([model.predict({INPUT: image[None]})[OUTPUT] for image in images])

        return run

    return Runtime(f"Core ML by coremltools {coremltools.__version__}, as many threads as it likes", load)


_IMPORTS: dict[str, Callable[[str | None], Runtime]] = {
    ".safetensors": _torch,
    ".onnx": _onnx,
    ".pte": _executorch,
    _COREML: _coreml,
}
