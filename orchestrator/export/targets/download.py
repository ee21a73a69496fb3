"""The download: how many bytes a network is on its way, by how it is packed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import torch
from safetensors.torch import save

from orchestrator.errors import OrchestratorError
from orchestrator.export.batch_norm import in_float32
from orchestrator.export.deploy import PACKED
from orchestrator.export.originals import Original
from orchestrator.export.packed_file import save_packed
from orchestrator.export.runtimes import runtime_of
from orchestrator.export.targets.target import TargetFile
from orchestrator.training.state import model_tensors

ZSTD = 19


class DownloadTarget:
    name = "download"

    def missing(self) -> str | None:
        return None

    def measured_by(self) -> str:
        return "measured here"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        tensors = model_tensors(in_float32(original.candidate.module))
        plain = save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()})
        smaller = {"zip": zlib.compress(plain, 6), f"zstd -{ZSTD}": _zstd(plain)}
        found = {"plain": TargetFile(len(plain), None)}
        found |= {name: TargetFile(len(blob), None) for name, blob in smaller.items()}
        for form in PACKED:
            try:
                found[form] = self._packed(original, folder, form)
            except OrchestratorError as error:  # such as a weight that float16 cannot hold
                found[form] = TargetFile(None, None, reason=str(error))
        return found

    def _packed(self, original: Original, folder: Path, form: str) -> TargetFile:
        candidate = original.candidate
        path = save_packed(
            candidate.module,
            folder / f"{candidate.name}.{form}.safetensors",
            model=candidate.model,
            options=candidate.options,
            arguments=candidate.arguments,
            channels=candidate.channels,
            structure=candidate.structure,
            example=candidate.example,
            weights=PACKED[form],
        )
        run = runtime_of(path, original.observed.call, candidate.code).load(path, torch.get_num_threads())
        return TargetFile(path.stat().st_size, run, exact=PACKED[form] == "exact")


def _zstd(data: bytes) -> bytes:
    packed: bytes = pyarrow.Codec("zstd", ZSTD).compress(data, asbytes=True)
    return packed
