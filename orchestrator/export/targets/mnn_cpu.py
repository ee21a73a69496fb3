"""MNN on the CPU: a runtime with kernels for zeros, in any pattern from 60 % and in blocks of 4 outputs from 30 %."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array
from orchestrator.export.converting import no_output
from orchestrator.export.originals import Original
from orchestrator.export.runtimes import Run
from orchestrator.export.targets.target import TargetFile, onnx_of, sentence
from orchestrator.extras import install_command

# The package's own command mnnconvert installs a package with pip and reports each conversion to a server of its
# makers. The extension module behind it does neither.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
_UNKNOWN = re.compile(r"These Op Not Support: (.*\S)")
_SPARSE = ("--detectSparseSpeedUp",)
# A message of MNN_compression.proto: version "0.0.0", one algorithm of type PRUNE, by SIMD_OC with oc_blocks = 4.
_BLOCKS = bytes.fromhex("0a05302e302e30 120a 0801 1a06 0801 1a02 2004")
_IN_BLOCKS = 0.9  # part of a network's zeros that lie in whole blocks, from which on they are taken for blocks
_THREADS = {1: "1 thread", 2: "2 threads"}
_INT8 = ("--weightQuantBits", "8", "--weightQuantAsymmetric=false")  # asymmetric ones would make zeros non-zero


class Mnn:
    name = "mnn"

    def missing(self) -> str | None:
        if find_spec("MNN") and find_spec("onnx"):
            return None
        return f"MNN is not installed: run {install_command('targets')} in the folder of this project"

    def measured_by(self) -> str:
        return f"measured here, MNN {version('mnn')}"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        source, found = onnx_of(original, folder), {}
        blocks: tuple[str, ...] = ()
        if zeros_in_blocks(original.candidate.module) > _IN_BLOCKS:
            (folder / "blocks.bin").write_bytes(_BLOCKS)
            blocks = ("--compressionParamsFile", str(folder / "blocks.bin"))
        for form, options in (("sparse float32", (*_SPARSE, *blocks)), ("int8 weights", (*_SPARSE, *_INT8))):
            path = folder / f"{original.candidate.name}.{form.replace(' ', '-')}.mnn"
            for threads, where in _THREADS.items():
                name = form if threads == 1 else f"{form}, {where}"
                try:
                    if not path.exists():
                        _convert(source, path, options)
                    run, exact = _load(path, original, threads), form != "int8 weights"
                    found[name] = TargetFile(path.stat().st_size, run, exact, where=where)
                except Exception as error:  # MNN raises all kinds
                    if not found:  # not even float32
                        raise
                    found[name] = TargetFile(None, None, where=where, reason=sentence(error))
        return found


def zeros_in_blocks(module: nn.Module, outputs: int = 4) -> float:
    """Return the part of the zero weights of `module` that lie in whole blocks of that many outputs."""
    weights = [w for w in module.parameters() if w.dim() in (2, 4) and w.shape[0] % outputs == 0]
    zeros = sum(int((w == 0).sum()) for w in weights)
    blocks = sum(int((w == 0).unflatten(0, (-1, outputs)).all(1).sum()) for w in weights)
    return outputs * blocks / zeros if zeros else 0.0


def _convert(source: Path, path: Path, options: Sequence[str]) -> None:
    asked = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "orchestrator", *options]
    done = subprocess.run([sys.executable, "-c", _CONVERT, *asked], capture_output=True, text=True)
    if not path.exists():
        unknown = _UNKNOWN.search(done.stdout)
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        why = f"it does not know the operators {unknown[1]}" if unknown else lines[-1][:200]
        raise ExportError(f"MNN cannot take the network ({why})")


def _load(path: Path, original: Original, threads: int) -> Run:
    with no_output():  # it prints what the processor can do
        network_api, expr = (import_module(f"MNN.{name}") for name in ("nn", "expr"))
    interface = original.observed.call.interface
    inputs, outputs = [info.name for info in interface.inputs], [info.name for info in interface.outputs]
    runtime = network_api.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "normal"},))
    network = network_api.load_module_from_file(str(path), inputs, outputs, runtime_manager=runtime)

    def run(arrays: Sequence[Array]) -> list[Array]:
        kinds = {"f": (expr.float, np.float32), "i": (expr.int, np.int32)}  # MNN reads whole numbers of 32 bits
        given = []
        for array in arrays:
            kind, stored = kinds[array.dtype.kind]
            given.append(expr.const(np.ascontiguousarray(array, stored), list(array.shape), expr.NCHW, kind))
        answers = network.forward(given)
        several = answers if isinstance(answers, list | tuple) else [answers]
        return [np.array(expr.convert(each, expr.NCHW).read()) for each in several]

    return run
