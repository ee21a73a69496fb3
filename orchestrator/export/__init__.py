"""Write small files that run, and the proof of their size, speed and objective.

The names below are imported when first used: a process that measures an ONNX file must not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.export.batch_norm import fold_batch_norm
    from orchestrator.export.coreml_file import save_coreml
    from orchestrator.export.example import ExampleInputs
    from orchestrator.export.finished_rounds import write
    from orchestrator.export.kernel_choice import fast_kernels
    from orchestrator.export.onnx_file import save_onnx, save_onnx_half, save_onnx_int8
    from orchestrator.export.packed_file import load_packed, save_packed
    from orchestrator.export.pte_file import save_pte

__all__ = [
    "ExampleInputs",
    "fast_kernels",
    "fold_batch_norm",
    "load_packed",
    "save_coreml",
    "save_onnx",
    "save_onnx_half",
    "save_onnx_int8",
    "save_packed",
    "save_pte",
    "write",
]
_PLACES = {
    "batch_norm": ("fold_batch_norm",),
    "coreml_file": ("save_coreml",),
    "example": ("ExampleInputs",),
    "finished_rounds": ("write",),
    "kernel_choice": ("fast_kernels",),
    "onnx_file": ("save_onnx", "save_onnx_half", "save_onnx_int8"),
    "packed_file": ("load_packed", "save_packed"),
    "pte_file": ("save_pte",),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
