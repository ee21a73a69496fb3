"""Plain torch on the CPU, with its sparse kernels where they make the network faster (see `fast_kernels`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from orchestrator.export.arrays import Array
from orchestrator.export.flat import arrays_out
from orchestrator.export.kernel_choice import choose_kernels
from orchestrator.export.originals import Original
from orchestrator.export.targets.target import TargetFile
from orchestrator.modules import model_call

DENSE = "dense kernels kept"


class TorchKernels:
    name = "torch"

    def missing(self) -> str | None:
        return None

    def measured_by(self) -> str:
        return f"measured here, torch {torch.__version__}, 1 thread"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        call = original.observed.call
        chosen = choose_kernels(original.candidate.module, call.inputs(original.observed.inputs[1]))

        @torch.no_grad()
        def run(arrays: Sequence[Array]) -> list[Array]:
            return arrays_out(model_call(chosen.module, call.inputs([torch.from_numpy(array) for array in arrays])))

        if chosen.sparse:
            return {"float32": TargetFile(None, run, detail=f"{len(chosen.sparse)} layers with sparse kernels")}
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in chosen.module.state_dict().items())
        return {"float32": TargetFile(None, run, detail=DENSE, short=DENSE, work=shapes)}
