"""Write networks in every format, and measure each file."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Data
from orchestrator.errors import ExportError
from orchestrator.export.agreement import RELATIVE, relative_error
from orchestrator.export.batch_norm import in_float32
from orchestrator.export.coreml_file import save_coreml
from orchestrator.export.measure import DataSource, labels_of, logits_of, measure
from orchestrator.export.onnx_file import save_onnx, save_onnx_half, save_onnx_int8
from orchestrator.export.packed_file import save_packed
from orchestrator.export.preprocessing import Preprocessing
from orchestrator.export.program import check_weights
from orchestrator.export.proof import Artifact, ExportedNetworks, Facts, Skipped, remove_exported
from orchestrator.export.pte_file import save_pte
from orchestrator.export.runtimes import Array, not_run
from orchestrator.files import atomic_write, check_writable
from orchestrator.modules import logits_of as tensor_of
from orchestrator.pruning.channels.graph import Kept
from orchestrator.pruning.macs import count_macs
from orchestrator.training.state import model_tensors
from orchestrator.validate import one_of

FORMATS = {  # name to the ending of its files
    "packed": ".safetensors",
    "packed-fp16": ".fp16.safetensors",
    "onnx": ".onnx",
    "onnx-fp16": ".fp16.onnx",
    "onnx-int8": ".int8.onnx",
    "pte": ".pte",
    "coreml": ".mlpackage.zip",
}
FAITHFUL = ("packed", "onnx", "pte")  # float32: must do what the network does; no Mac has tried Core ML's yet
POINTS = 0.001  # of accuracy that a faithful file may differ by
CALIBRATION = 256  # training images
DOWNLOAD_LEVEL = 9  # of zstd


@dataclass(frozen=True)
class Candidate:
    """A network to export: `model` and `options` build its architecture, `origin` is what the ledger says of it.

    `channels`: the configuration of those that are left, {} if all are.
    """

    name: str
    module: nn.Module
    model: str
    options: Mapping[str, Any]
    preprocessing: Preprocessing
    channels: Kept = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


def deploy(
    candidates: Sequence[Candidate],
    folder: Path,
    *,
    formats: Sequence[str] = (),
    source: DataSource | None = None,
    on_artifact: Callable[[Artifact | Skipped], None] = lambda artifact: None,
) -> ExportedNetworks:
    """Write every candidate in each of `formats` into `folder`, measure every file, and write deploy.json.

    A file that cannot run on this machine is written all the same, and its `Artifact` says why there are no figures.
    No `formats`: all that this installation has; one that a network cannot be written in is then left out and says
    why. `source` None: accuracy is not measured, and int8 is calibrated on noise.

    Files of an earlier call that lie in `folder` are removed first (see `remove_exported`).

    Raises ConfigError for an unknown format or a folder that cannot be written to; ExportError for a format that was
    asked for and cannot be, for a float32 file that does not do what its network does, and for a network without
    values or with an answer that is not finite.
    """
    if "litert" in formats:
        raise ExportError(
            "LiteRT files are not written: its converter wants an older torch or typing-extensions than are installed "
            "here; phones with Android run onnx and pte files"
        )
    for name in formats:
        one_of("a format", name, FORMATS)
    check_writable(folder, "--out")
    wanted = tuple(dict.fromkeys(formats or FORMATS))
    data = source.load() if source else None
    remove_exported(folder)
    networks: list[Facts] = []
    found: list[Artifact | Skipped] = []
    for candidate in candidates:
        check_weights(candidate.module)
        reference = _reference(candidate.module, data) if data else None
        if reference is not None and not np.isfinite(reference).all():
            raise ExportError(f"{candidate.name} answers NaN or infinity to test images: it is of no use as a file")
        networks.append(_facts(candidate, reference, data))
        for name, path in _written(candidate, folder, wanted, data):
            if isinstance(path, ExportError):
                found.append(Skipped(network=candidate.name, format=name, reason=str(path)))
            else:
                found.append(_measured(candidate, name, path, source, data, reference))
            if formats and isinstance(found[-1], Skipped):
                raise ExportError(found[-1].reason)
            on_artifact(found[-1])
    artifacts = tuple(each for each in found if isinstance(each, Artifact))
    skipped = tuple(each for each in found if isinstance(each, Skipped))
    deployment = ExportedNetworks(tuple(networks), artifacts, skipped)
    deployment.save(folder)
    return deployment


class _Writer:
    """Writes one candidate; the float32 ONNX file, which others are made of, once."""

    def __init__(self, candidate: Candidate, folder: Path, spare: Path, data: Data | None) -> None:
        self._candidate, self._folder, self._spare, self._data = candidate, folder, spare, data

    def path(self, name: str) -> Path:
        return self._folder / f"{self._candidate.name}{FORMATS[name]}"

    def write(self, name: str) -> Path:
        candidate, path = self._candidate, self.path(name)
        if name.startswith("packed"):
            return save_packed(
                candidate.module,
                path,
                model=candidate.model,
                options=candidate.options,
                channels=candidate.channels,
                preprocessing=candidate.preprocessing,
                half=name == "packed-fp16",
            )
        if name == "pte":
            return save_pte(candidate.module, path, candidate.preprocessing)
        if name == "coreml":
            return save_coreml(candidate.module, path, candidate.preprocessing)
        if name == "onnx-fp16":
            return save_onnx_half(self._onnx, path)
        if name == "onnx-int8":
            return save_onnx_int8(self._onnx, path, _calibration(candidate.preprocessing, self._data))
        with atomic_write(path) as temporary:
            temporary.write_bytes(self._onnx.read_bytes())
        return path

    @cached_property
    def _onnx(self) -> Path:
        return save_onnx(self._candidate.module, self._spare / "source.onnx", self._candidate.preprocessing)


def _written(
    candidate: Candidate, folder: Path, formats: Sequence[str], data: Data | None
) -> Iterator[tuple[str, Path | ExportError]]:
    with tempfile.TemporaryDirectory() as spare:
        writer = _Writer(candidate, folder, Path(spare), data)
        for name in formats:
            try:
                yield name, writer.write(name)
            except ExportError as error:
                with contextlib.suppress(OSError):  # an earlier run's, of another network
                    writer.path(name).unlink()
                yield name, error


def _measured(
    candidate: Candidate, name: str, path: Path, source: DataSource | None, data: Data | None, reference: Array | None
) -> Artifact | Skipped:
    blob, reason = path.read_bytes(), not_run(path)
    speed = logits = accuracy = error = None
    if reason is None:
        speed, logits = measure(path, candidate.preprocessing.input_shape, source, model=candidate.model)
    if data and logits is not None and reference is not None:
        if not np.isfinite(logits).all():
            path.unlink()
            said = f"{path.name} answers NaN or infinity to test images, which its network does not"
            return Skipped(network=candidate.name, format=name, reason=said)
        accuracy, error = _accuracy(logits, data), relative_error(logits, reference)
        if name in FAITHFUL and (not error <= RELATIVE or abs(accuracy - _accuracy(reference, data)) > POINTS):
            path.unlink()
            raise ExportError(
                f"{path.name} does not do what the network does: it differs by {error:.1g} of the largest logit, "
                f"{RELATIVE:g} is allowed"
            )
    return Artifact(
        network=candidate.name,
        format=name,
        file=path.name,
        sha256=hashlib.sha256(blob).hexdigest(),
        bytes=len(blob),
        download_bytes=_download_bytes(blob),
        accuracy=accuracy,
        relative_error=error,
        speed=speed,
        not_run=reason,
    )


def _facts(candidate: Candidate, reference: Array | None, data: Data | None) -> Facts:
    parameters = list(candidate.module.parameters())  # a shared one once
    macs = count_macs(in_float32(candidate.module), torch.zeros((1, *candidate.preprocessing.input_shape)))
    return Facts(
        name=candidate.name,
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero=sum(int(parameter.count_nonzero()) for parameter in parameters),
        raw_bytes=sum(tensor.nbytes for tensor in model_tensors(candidate.module).values()),
        macs=macs.dense,
        effective_macs=macs.effective,
        accuracy=_accuracy(reference, data) if data and reference is not None else None,
        origin=dict(candidate.origin),
    )


def _reference(module: nn.Module, data: Data) -> Array:
    module = in_float32(module)

    def run(images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = tensor_of(module(torch.from_numpy(images)), ExportError).float().numpy()
        return logits

    return logits_of(run, data)


def _accuracy(logits: Array, data: Data) -> float:
    return float((logits.argmax(axis=1) == labels_of(data)).mean())


def _calibration(preprocessing: Preprocessing, data: Data | None) -> Iterator[Tensor]:
    """Training images from all over the split, in batches; noise without data."""
    if data is None:
        yield torch.randn((8, *preprocessing.input_shape), generator=torch.Generator().manual_seed(0))
        return
    places = torch.linspace(0, len(data.train) - 1, min(CALIBRATION, len(data.train))).long().tolist()
    some: Subset[Any] = Subset(data.train, places)  # type: ignore[arg-type]
    batches = Batches(replace(data, val=some), batch_size=1, device=torch.device("cpu"))
    for images, _ in batches.evaluate("val"):
        yield from images.split(32)


def _download_bytes(blob: bytes) -> int:
    """What a download takes that is compressed on its way; a file that is compressed already stays as it is."""
    import pyarrow

    return min(len(blob), len(pyarrow.Codec("zstd", DOWNLOAD_LEVEL).compress(blob, asbytes=True)))
