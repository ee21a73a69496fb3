"""Small files that run, and the proof of their size, speed and accuracy."""

from orchestrator.export.fold import fold_batch_norm
from orchestrator.export.onnx_file import save_onnx, save_onnx_half, save_onnx_int8
from orchestrator.export.packed import load_packed, save_packed
from orchestrator.export.preprocessing import Preprocessing

__all__ = [
    "Preprocessing",
    "fold_batch_norm",
    "load_packed",
    "save_onnx",
    "save_onnx_half",
    "save_onnx_int8",
    "save_packed",
]
