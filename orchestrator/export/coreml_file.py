"""Core ML files: an ML program for Apple's systems in a zip, float32, zeros stored sparsely. One image at a time.

A package is a folder. It is zipped here so that it is one file with one sha256; Xcode takes what it unzips to.
"""

from __future__ import annotations

import json
import shutil
import uuid
import zipfile
from pathlib import Path
from typing import Any

from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export.batch_norm import for_inference
from orchestrator.export.preprocessing import Preprocessing
from orchestrator.export.program import first_cause, quiet, traced
from orchestrator.export.runtimes import INPUT, OUTPUT
from orchestrator.extras import extra
from orchestrator.files import atomic_write

PACKAGE = ".mlpackage"
_PRUNING = "compression::prune_weights"
_SPARSE = {"threshold": 0.0, "minimum_sparsity_percentile": 0.25, "weight_threshold": 512}  # below: smaller as it is
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # no time of its making: the same network is the same file


def save_coreml(module: nn.Module, path: str | Path, preprocessing: Preprocessing) -> Path:
    """Write `module` as a zipped .mlpackage from (1, *input_shape) `images` to (1, classes) `logits`, return its path.

    Runs on iOS 16, macOS 13 and later. Nothing here can run the file: what it holds is not compared with the module.

    Raises ExportError for a module that torch.export or Core ML does not take, if the file cannot be written, or if
    coremltools is missing.
    """
    with extra("coreml", "Core ML files", ExportError), quiet():
        import coremltools
        from coremltools.optimize.coreml import OpThresholdPrunerConfig, OptimizationConfig
    path = Path(path)
    program = traced(for_inference(module, preprocessing.input_shape), preprocessing, batch=1, dynamic=False)
    try:
        with quiet():
            passes = coremltools.PassPipeline.DEFAULT
            passes.append_pass(_PRUNING)
            sparse = OptimizationConfig(global_config=OpThresholdPrunerConfig(**_SPARSE))
            passes.set_options(_PRUNING, {"config": sparse})
            model = coremltools.convert(
                program.run_decompositions({}),
                inputs=[coremltools.TensorType(name=INPUT, shape=(1, *preprocessing.input_shape))],
                outputs=[coremltools.TensorType(name=OUTPUT)],
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT32,
                pass_pipeline=passes,
                skip_model_load=True,
            )
    except Exception as error:
        raise ExportError(f"{type(module).__name__} cannot be written for Core ML ({first_cause(error)})") from error
    package = Path(model.package_path)
    try:
        with atomic_write(path) as temporary:
            _describe(model, package, preprocessing)
            _zip(package, temporary, path.name.partition(PACKAGE)[0] + PACKAGE)
    finally:
        shutil.rmtree(package, ignore_errors=True)
    return path


def _describe(model: Any, package: Path, preprocessing: Preprocessing) -> None:
    """Labels and preprocessing instead of the converter's notes, and the same bytes every time."""
    spec = model.get_spec()
    notes = spec.description.metadata.userDefined
    notes.clear()
    notes.update(preprocessing.metadata())
    place = package / "Manifest.json"
    manifest = json.loads(place.read_bytes())
    items, root = manifest["itemInfoEntries"], manifest["rootModelIdentifier"]
    names = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for name, item in items.items()}
    (package / "Data" / items[root]["path"]).write_bytes(spec.SerializeToString(deterministic=True))
    manifest["itemInfoEntries"] = {names[name]: item for name, item in items.items()}
    manifest["rootModelIdentifier"] = names[root]
    place.write_text(json.dumps(manifest, indent=4, sort_keys=True))


def _zip(package: Path, place: Path, name: str) -> None:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.rglob("*")):
            inner = f"{name}/{file.relative_to(package).as_posix()}"
            if file.is_dir():
                archive.writestr(_entry(f"{inner}/", 0o40755), b"")
            else:
                archive.writestr(_entry(inner, 0o100644), file.read_bytes(), zipfile.ZIP_DEFLATED)


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.external_attr = mode << 16
    return entry
