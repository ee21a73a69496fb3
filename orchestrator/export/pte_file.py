"""Write ExecuTorch files: a network for phones, its layers on XNNPACK where that has them, one sample a call."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export.batch_norm import for_inference, in_float32
from orchestrator.export.converting import first_cause, quiet
from orchestrator.export.example import ExampleInputs, observe
from orchestrator.export.flat import flat
from orchestrator.export.program import traced
from orchestrator.extras import extra
from orchestrator.files import atomic_write


def save_pte(module: nn.Module, path: str | Path, example: ExampleInputs) -> Path:
    """Write `module` as a .pte file that takes the inputs of one sample, in order, and return its path.

    Raises ExportError for a module that torch.export or ExecuTorch does not take, for samples of different sizes, if
    the file cannot be written, or if ExecuTorch is missing.
    """
    with extra("mobile", ".pte files", ExportError), quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    path = Path(path)
    observed = observe(in_float32(module), example)
    exported = flat(for_inference(module, observed), observed.call)
    program = traced(exported, observed.call, observed.one_sample, dynamic=False)
    try:
        with quiet():
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:
        raise ExportError(f"{type(module).__name__} cannot be written for ExecuTorch ({first_cause(error)})") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(lowered.buffer)
    return path
