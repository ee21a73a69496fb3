"""Write networks in every format, and measure each file."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from orchestrator.errors import ExportError
from orchestrator.export.agreement import RELATIVE
from orchestrator.export.converting import check_weights
from orchestrator.export.coreml_file import save_coreml
from orchestrator.export.measure import DataSource, Measurement, measure
from orchestrator.export.onnx_file import save_onnx, save_onnx_half, save_onnx_int8
from orchestrator.export.originals import Candidate, Original, TestSet
from orchestrator.export.packed_file import WeightType, save_packed
from orchestrator.export.proof import Artifact, ExportedNetworks, Facts, Skipped, remove_exported
from orchestrator.export.pte_file import save_pte
from orchestrator.export.real_samples import calibration_inputs
from orchestrator.export.runtimes import not_run
from orchestrator.files import atomic_write, check_writable
from orchestrator.validate import one_of

FORMATS = {  # name to the ending of its files
    "packed": ".safetensors",
    "packed-fp16": ".fp16.safetensors",
    "packed-int8": ".int8.safetensors",
    "onnx": ".onnx",
    "onnx-fp16": ".fp16.onnx",
    "onnx-int8": ".int8.onnx",
    "pte": ".pte",
    "coreml": ".mlpackage.zip",
}
PACKED: Mapping[str, WeightType] = {"packed": "exact", "packed-fp16": "float16", "packed-int8": "int8"}
FAITHFUL = ("packed", "onnx", "pte")  # float32: must do what the network does; no Mac has tried Core ML's yet
POINTS = 0.001  # that the objective of a faithful file may differ by, or as a part of it where it is above 1
DOWNLOAD_LEVEL = 9  # of zstd


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
    why. `source` None: the metrics are not measured, and int8 is calibrated on the example.

    Files of an earlier call that lie in `folder` are removed first (see `remove_exported`).

    Raises ConfigError for an unknown format or a folder that cannot be written to; ExportError for a format that was
    asked for and cannot be, for a float32 file that does not do what its network does, and for a network without
    values or with an answer that is not finite.
    """
    check_formats(formats)
    check_writable(folder, "--out")
    wanted = tuple(dict.fromkeys(formats or FORMATS))
    test_set = TestSet.of(source) if source else None
    remove_exported(folder)
    networks: list[Facts] = []
    found: list[Artifact | Skipped] = []
    for candidate in candidates:
        check_weights(candidate.module)
        with Original.of(candidate, test_set) as original:
            networks.append(original.facts())
            for name, path in _written(original, folder, wanted):
                if isinstance(path, ExportError):
                    found.append(Skipped(network=candidate.name, format=name, reason=str(path)))
                else:
                    found.append(_measured(original, name, path))
                if formats and isinstance(found[-1], Skipped):
                    raise ExportError(found[-1].reason)
                on_artifact(found[-1])
    artifacts = tuple(each for each in found if isinstance(each, Artifact))
    skipped = tuple(each for each in found if isinstance(each, Skipped))
    deployment = ExportedNetworks(tuple(networks), artifacts, skipped)
    deployment.save(folder)
    return deployment


def check_formats(formats: Sequence[str]) -> None:
    """Raise ConfigError for an unknown format, ExportError for one that is known and not written."""
    if "litert" in formats:
        raise ExportError(
            "LiteRT files are not written: its converter wants an older torch or typing-extensions than are installed "
            "here; phones with Android run onnx and pte files"
        )
    for name in formats:
        one_of("a format", name, FORMATS)


class _Writer:
    """Write one candidate. The float32 ONNX file, which others are made of, is written once."""

    def __init__(self, original: Original, folder: Path, spare: Path) -> None:
        self._candidate, self._folder, self._spare = original.candidate, folder, spare
        self._data = original.test_set.data if original.test_set else None

    def path(self, name: str) -> Path:
        return self._folder / f"{self._candidate.name}{FORMATS[name]}"

    def write(self, name: str) -> Path:
        candidate, path = self._candidate, self.path(name)
        if name in PACKED:
            return save_packed(
                candidate.module,
                path,
                model=candidate.model,
                options=candidate.options,
                arguments=candidate.arguments,
                channels=candidate.channels,
                structure=candidate.structure,
                example=candidate.example,
                weights=PACKED[name],
            )
        if name == "pte":
            return save_pte(candidate.module, path, candidate.example)
        if name == "coreml":
            return save_coreml(candidate.module, path, candidate.example)
        if name == "onnx-fp16":
            return save_onnx_half(self._onnx, path)
        if name == "onnx-int8":
            batches = calibration_inputs(self._data) if self._data else candidate.example.batches()
            return save_onnx_int8(self._onnx, path, batches)
        with atomic_write(path) as temporary:
            temporary.write_bytes(self._onnx.read_bytes())
        return path

    @cached_property
    def _onnx(self) -> Path:
        return save_onnx(self._candidate.module, self._spare / "source.onnx", self._candidate.example)


def _written(original: Original, folder: Path, formats: Sequence[str]) -> Iterator[tuple[str, Path | ExportError]]:
    with tempfile.TemporaryDirectory() as spare:
        writer = _Writer(original, folder, Path(spare))
        for name in formats:
            try:
                yield name, writer.write(name)
            except ExportError as error:
                with contextlib.suppress(OSError):  # an earlier run's, of another network
                    writer.path(name).unlink()
                yield name, error


def _measured(original: Original, name: str, path: Path) -> Artifact | Skipped:
    blob, reason, candidate = path.read_bytes(), not_run(path), original.candidate
    found: Measurement | None = None
    if reason is None:
        found = measure(
            path,
            original.observed.call,
            original.sample,
            original.test_set.source if original.test_set else None,
            expected=original.expected,
            code=candidate.code,
        )
    if found and (problem := _problem(original, found)):
        path.unlink()
        return Skipped(network=candidate.name, format=name, reason=f"{path.name} {problem}")
    if found and original.test_set and name in FAITHFUL and not _is_faithful(original, found):
        path.unlink()
        raise ExportError(
            f"{path.name} does not do what the network does: it differs by {found.relative_error:.1g} of the largest "
            f"output, {RELATIVE:g} is allowed, and its {original.test_set.objective.name} is "
            f"{original.test(found.metrics):.6g}, that of the network {original.test(original.metrics):.6g}"
        )
    return Artifact(
        network=candidate.name,
        format=name,
        file=path.name,
        sha256=hashlib.sha256(blob).hexdigest(),
        bytes=len(blob),
        download_bytes=_download_bytes(blob),
        objective=original.objective if found else None,
        metrics=found.metrics if found else {},
        relative_error=found.relative_error if found else None,
        equal_predictions=found.equal_predictions if found else None,
        speed=found.speed if found else None,
        not_run=reason,
    )


def _problem(original: Original, found: Measurement) -> str | None:
    """Return why a file is of no use, in words."""
    if not found.finite:
        return "answers NaN or infinity to test samples, which its network does not"
    if original.objective and original.test(found.metrics) is None:
        return f"has no finite {original.objective.name} on the test set, which its network has"
    return None


def _is_faithful(original: Original, found: Measurement) -> bool:
    """Return whether a file's outputs and its objective are those of the network."""
    mine, other = original.test(found.metrics), original.test(original.metrics)
    assert mine is not None
    assert other is not None
    assert found.relative_error is not None
    return found.relative_error <= RELATIVE and abs(mine - other) <= POINTS * max(1.0, abs(other))


def _download_bytes(blob: bytes) -> int:
    """Return the bytes of a download by HTTP compression; a compressed file is not compressed again."""
    import pyarrow

    return min(len(blob), len(pyarrow.Codec("zstd", DOWNLOAD_LEVEL).compress(blob, asbytes=True)))
