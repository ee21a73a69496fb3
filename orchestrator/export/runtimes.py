"""Run a file as its users do: by torch, onnxruntime, ExecuTorch or, on macOS, Core ML; on the CPU.

Nothing heavy is imported before it is known which runtime is wanted, so that each one's memory is its own.
"""

from __future__ import annotations

import platform
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.export.arrays import Array
from orchestrator.export.interface import BATCH, Call

Run: TypeAlias = Callable[[Sequence[Array]], list[Array]]  # inputs to outputs, both in the order of the interface
_COREML = ".mlpackage.zip"


class Runtime(NamedTuple):
    """Run files: `load` returns a function that runs one on that many threads. `sparse_kernels`: it skips zeros."""

    name: str
    load: Callable[[Path, int], Run]
    sparse_kernels: bool = False


class Code(NamedTuple):
    """Name the code of the user's that a packed file may use, "package.module:name" (see `load_packed`)."""

    model: str | None = None
    structure: str | None = None


NO_CODE = Code()


def runtime_of(path: Path, call: Call, code: Code = NO_CODE) -> Runtime:
    """Import and return the runtime for a file. Raises ConfigError for an ending that no runtime has.

    `call`: what goes in and comes out. `code`: what builds the network of a packed file.
    """
    for ending, imported in _IMPORTS.items():
        if path.name.endswith(ending):
            return imported(call, code)
    raise ConfigError(f"a file to run must end in one of {', '.join(_IMPORTS)}, got {path}")


def not_run(path: Path) -> str | None:
    """Return why this machine cannot run a file; None if it can."""
    return "Core ML runs on macOS only" if path.name.endswith(_COREML) and platform.system() != "Darwin" else None


def _torch(call: Call, code: Code) -> Runtime:
    import torch

    from orchestrator.export.batch_norm import in_float32
    from orchestrator.export.flat import arrays_out
    from orchestrator.export.packed_file import load_packed
    from orchestrator.modules import model_call

    def load(path: Path, threads: int) -> Run:
        torch.set_num_threads(threads)
        module = in_float32(load_packed(path, model=code.model, structure=code.structure))

        @torch.inference_mode()
        def run(arrays: Sequence[Array]) -> list[Array]:
            return arrays_out(model_call(module, call.inputs([torch.from_numpy(array) for array in arrays])))

        return run

    return Runtime(f"torch {torch.__version__}", load)


def _onnx(call: Call, _: Code) -> Runtime:
    import onnxruntime

    def load(path: Path, threads: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [info.name for info in call.interface.inputs]

        def run(arrays: Sequence[Array]) -> list[Array]:
            outputs: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
            return outputs

        return run

    return Runtime(f"onnxruntime {onnxruntime.__version__}", load)


def _executorch(call: Call, _: Code) -> Runtime:
    from importlib.metadata import version

    import torch
    from executorch.runtime import Runtime as Executor

    from orchestrator.private_apis import set_executorch_threads

    def load(path: Path, threads: int) -> Run:
        set_executorch_threads(threads)
        program = Executor.get().load_program(path)
        method = program.load_method("forward")

        def one(arrays: Sequence[Array]) -> list[Array]:
            found = method.execute([torch.from_numpy(array) for array in arrays])
            return [tensor.numpy().copy() for tensor in found]

        return one_by_one(one, call)

    return Runtime(f"executorch {version('executorch')}", load)


def _coreml(call: Call, _: Code) -> Runtime:
    """Load a Core ML file. Written without a Mac, from the documentation of coremltools alone."""
    import coremltools

    def load(path: Path, threads: int) -> Run:
        folder = tempfile.TemporaryDirectory()  # lives as long as what runs: it goes with `one`
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder.name)
        package = next(Path(folder.name).glob("*.mlpackage"))
        model = coremltools.models.MLModel(str(package), compute_units=coremltools.ComputeUnit.CPU_ONLY)

        def one(arrays: Sequence[Array], folder: object = folder) -> list[Array]:
            given = {info.name: _for_coreml(array) for info, array in zip(call.interface.inputs, arrays, strict=True)}
            found = model.predict(given)
            return [found[info.name] for info in call.interface.outputs]

        return one_by_one(one, call)

    return Runtime(f"Core ML by coremltools {coremltools.__version__}, as many threads as it likes", load)


def _for_coreml(array: Array) -> Array:
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def one_by_one(run: Run, call: Call) -> Run:
    """Return what runs a batch, by what runs one sample."""
    return sample_by_sample(lambda samples: [run(sample) for sample in samples], call)


def sample_by_sample(run_each: Callable[[list[list[Array]]], list[list[Array]]], call: Call) -> Run:
    """Return what runs a batch, by what runs several samples, each by itself."""
    axes = [info.shape.index(BATCH) if BATCH in info.shape else None for info in call.interface.outputs]

    def all_of(arrays: Sequence[Array]) -> list[Array]:
        samples = next(len(array) for array in arrays if array.ndim)
        each = run_each([[a[place : place + 1] if a.ndim else a for a in arrays] for place in range(samples)])
        return [
            parts[0] if axis is None else np.concatenate(parts, axis=axis)
            for axis, parts in zip(axes, zip(*each, strict=True), strict=True)
        ]

    return all_of


_IMPORTS: dict[str, Callable[[Call, Code], Runtime]] = {
    ".safetensors": _torch,
    ".onnx": _onnx,
    ".pte": _executorch,
    _COREML: _coreml,
}
