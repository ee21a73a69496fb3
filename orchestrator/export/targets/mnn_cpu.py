"""MNN on the CPU: a runtime with kernels for zeros, in any pattern from 60 % and in blocks of 4 outputs from 30 %."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array
from orchestrator.export.originals import Original
from orchestrator.export.runtimes import Run
from orchestrator.export.targets.target import TargetFile, onnx_of
from orchestrator.extras import install_command

# The package's own command mnnconvert installs a package with pip and reports each conversion to a server of its
# makers. The extension module behind it does neither.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
_SPARSE = ("--detectSparseSpeedUp",)
# MNN's own PruneParams with SIMD_OC and 4 outputs: field numbers of its MNN_compression.proto, version "0.0.0".
_BLOCKS = bytes.fromhex("0a05302e302e30")
_INT8 = ("--weightQuantBits", "8", "--weightQuantAsymmetric=false")  # asymmetric ones would make zeros non-zero


class Mnn:
    name = "mnn"
    pays_for = "zeros pay, in blocks of 4 outputs most, and removed channels too"

    def missing(self) -> str | None:
        if find_spec("MNN") and find_spec("onnx"):
            return None
        return f"MNN is not installed: run {install_command('targets')} in the folder of this project"

    def measured_by(self) -> str:
        from importlib.metadata import version

        return f"measured here, MNN {version('mnn')}, 1 thread"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        source, found = onnx_of(original, folder), {}
        for form, options in (("sparse float32", _SPARSE), ("int8 weights", (*_SPARSE, *_INT8))):
            path = folder / f"{original.candidate.name}.{form.replace(' ', '-')}.mnn"
            _convert(source, path, options)
            found[form] = TargetFile(path.stat().st_size, _load(path, original), exact=form != "int8 weights")
        return found


def _convert(source: Path, path: Path, options: Sequence[str]) -> None:
    asked = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "orchestrator", *options]
    done = subprocess.run([sys.executable, "-c", _CONVERT, *asked], capture_output=True, text=True)
    if not path.exists():
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ExportError(f"MNN cannot take the network ({said[-1][:200]})")


def _load(path: Path, original: Original) -> Run:
    import MNN
    import MNN.expr
    import MNN.nn

    interface = original.observed.call.interface
    inputs, outputs = [info.name for info in interface.inputs], [info.name for info in interface.outputs]
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1, "precision": "high"},))
    network = MNN.nn.load_module_from_file(str(path), inputs, outputs, runtime_manager=runtime)

    def run(arrays: Sequence[Array]) -> list[Array]:
        expr = MNN.expr
        kinds = {"f": expr.float, "i": expr.int}
        given = [expr.const(np.ascontiguousarray(a), list(a.shape), expr.NCHW, kinds[a.dtype.kind]) for a in arrays]
        answers = network.forward(given)
        several = answers if isinstance(answers, list | tuple) else [answers]
        return [np.array(expr.convert(each, expr.NCHW).read()) for each in several]

    return run
