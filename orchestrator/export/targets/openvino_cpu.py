"""OpenVINO on the CPU, which reads ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array
from orchestrator.export.originals import Original
from orchestrator.export.targets.target import TargetFile, onnx_of
from orchestrator.extras import install_command
from orchestrator.user_code import one_line


class OpenVino:
    name = "openvino"

    def missing(self) -> str | None:
        if find_spec("openvino") and find_spec("onnx"):
            return None
        return f"openvino is not installed: run {install_command('targets')} in the folder of this project"

    def measured_by(self) -> str:
        return f"measured here, OpenVINO {version('openvino')}, 1 thread"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        openvino: Any = import_module("openvino")
        path = onnx_of(original, folder)
        try:
            options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            _, _, failed = one_line(error).rpartition("Summary: -- ")  # behind pages of details
            raise ExportError(f"OpenVINO cannot take the network ({failed[:200]})") from error

        def run(arrays: Sequence[Array]) -> list[Array]:
            found = compiled(list(arrays))
            return [found[place].copy() for place in range(len(compiled.outputs))]

        return {"float32": TargetFile(path.stat().st_size, run)}
