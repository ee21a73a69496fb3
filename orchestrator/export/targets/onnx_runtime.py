"""onnxruntime on the CPU: the runtime where zeros gain nothing and removed channels do."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from orchestrator.export.originals import Original
from orchestrator.export.runtimes import runtime_of
from orchestrator.export.targets.target import TargetFile, onnx_of
from orchestrator.extras import install_command


class OnnxRuntime:
    name = "onnxruntime"

    def missing(self) -> str | None:
        if find_spec("onnxruntime") and find_spec("onnx"):
            return None
        return f"onnxruntime is not installed: run {install_command('onnx')} in the folder of this project"

    def measured_by(self) -> str:
        import onnxruntime

        return f"measured here, onnxruntime {onnxruntime.__version__}, 1 thread"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        path = onnx_of(original, folder)
        run = runtime_of(path, original.observed.call).load(path, 1)
        return {"float32": TargetFile(path.stat().st_size, run)}
