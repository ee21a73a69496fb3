"""Write Core ML files: an ML program for Apple's systems in a zip, float32, zeros stored sparsely, one sample a call.

A package is a folder. It is zipped here so that it is one file with one sha256; Xcode takes what it unzips to.
"""

from __future__ import annotations

import json
import shutil
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from orchestrator.errors import ExportError
from orchestrator.export.batch_norm import for_inference, in_float32
from orchestrator.export.converting import first_cause, quiet
from orchestrator.export.example import ExampleInputs, observe
from orchestrator.export.flat import flat
from orchestrator.export.interface import Interface
from orchestrator.export.program import traced
from orchestrator.extras import extra
from orchestrator.files import atomic_write

PACKAGE = ".mlpackage"
_PRUNING = "compression::prune_weights"
_SPARSE = {"threshold": 0.0, "minimum_sparsity_percentile": 0.25, "weight_threshold": 512}  # below: smaller as it is
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # no time of its making: the same network is the same file


def save_coreml(module: nn.Module, path: str | Path, example: ExampleInputs) -> Path:
    """Write `module` as a zipped .mlpackage that takes the inputs of one sample by name, and return its path.

    Names are those of an ONNX file (see `save_onnx`). Whole numbers are of 32 bits. Runs on iOS 16, macOS 13 and later.
    Nothing here can run the file: what it holds is not compared with the module.

    Raises ExportError for a module that torch.export or Core ML does not take, for samples of different sizes, if the
    file cannot be written, or if coremltools is missing.
    """
    with extra("coreml", "Core ML files", ExportError), quiet():
        import coremltools
        from coremltools.optimize.coreml import OpThresholdPrunerConfig, OptimizationConfig
    path = Path(path)
    observed = observe(in_float32(module), example)
    interface, tensors = observed.call.interface, observed.one_sample
    exported = flat(for_inference(module, observed), observed.call)
    program = traced(exported, observed.call, tensors, dynamic=False)
    try:
        with quiet():
            passes = coremltools.PassPipeline.DEFAULT
            passes.append_pass(_PRUNING)
            sparse = OptimizationConfig(global_config=OpThresholdPrunerConfig(**_SPARSE))
            passes.set_options(_PRUNING, {"config": sparse})
            model = coremltools.convert(
                program.run_decompositions({}),
                inputs=[
                    coremltools.TensorType(name=info.name, shape=tuple(tensor.shape), dtype=_type_of(tensor))
                    for info, tensor in zip(interface.inputs, tensors, strict=True)
                ],
                outputs=[coremltools.TensorType(name=info.name) for info in interface.outputs],
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
            _describe(model, package, interface)
            _zip(package, temporary, path.name.partition(PACKAGE)[0] + PACKAGE)
    finally:
        shutil.rmtree(package, ignore_errors=True)
    return path


def _type_of(tensor: Tensor) -> type[np.generic]:
    """Return the type that Core ML takes for a tensor of numbers."""
    return np.float32 if tensor.is_floating_point() else np.int32


def _describe(model: Any, package: Path, interface: Interface) -> None:
    """Write the interface instead of the converter's notes, and the same bytes every time."""
    spec = model.get_spec()
    notes = spec.description.metadata.userDefined
    notes.clear()
    notes.update(interface.metadata())
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
