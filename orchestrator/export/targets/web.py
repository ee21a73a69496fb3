"""The browser: a folder with a page that runs networks by LiteRT.js, whose kernels skip zeros."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.export.arrays import Array
from orchestrator.export.batch_norm import in_float32
from orchestrator.export.flat import arrays_out, tensors_in
from orchestrator.export.originals import Original
from orchestrator.export.real_samples import real_batches
from orchestrator.export.runtimes import sample_by_sample
from orchestrator.export.targets.litert import ENVIRONMENT, as_litert, ask_litert, missing_litert, tflite_of
from orchestrator.export.targets.target import KEPT, TargetFile
from orchestrator.export.targets.web_browser import Browser, chromium
from orchestrator.modules import model_call
from orchestrator.nested import number_of_samples, rows

_PAGE = Path(__file__).with_name("web_page")
MODULES = ENVIRONMENT / "node_modules" / "@litertjs"
_COPIES = {"core/dist/index.js": "core.js", "wasm-utils/dist/index.js": "wasm-utils.js"}
_KERNELS = "litert_wasm{}_internal.{}"  # with relaxed SIMD, and "_compat" without
_SAMPLES, _SAMPLE_BYTES = 8, 2_000_000  # that a page carries
_NETWORKS = "networks.json"
# What XNNPACK's sparse kernels take (`xnn_check_nchw_compatibility`), and what may follow them. Another operator ends
# the part of a network that they compute; the first convolution may be a 3x3 one.
_SPARSE_OPERATORS = {
    "CONV_2D 1x1", "DEPTHWISE_CONV_2D", "ADD", "MUL", "RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "PAD", "MEAN",
    "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED",
}  # fmt: skip
_FIRST = "CONV_2D 3x3"
_browsers: weakref.WeakValueDictionary[Path, Browser] = weakref.WeakValueDictionary()


class Web:
    name = "web"

    def missing(self) -> str | None:
        if reason := missing_litert():
            return reason
        if not MODULES.exists():
            return f"LiteRT.js is not in {ENVIRONMENT}: install npm, and run make targets again"
        if chromium() is None:
            return "there is no chromium on the PATH to measure in: install it, such as by apt-get install chromium"
        return None

    def measured_by(self) -> str:
        version = json.loads((MODULES / "core" / "package.json").read_text())["version"]
        return f"measured here, {_browser_version()}, LiteRT.js {version}, WebAssembly, 1 thread"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        source, page = tflite_of(original, folder), folder / KEPT / "web"
        _write_page(page)
        path = page / source.name
        made = ask_litert("encode", file=source, to=path)
        _add_network(page, path, original)
        browser = _browsers.get(page) or _open(page)

        def work(samples: Sequence[Sequence[Array]], time: bool) -> dict[str, Any]:
            texts = [[_text_of(array) for array in as_litert(arrays)] for arrays in samples]
            return browser.ask({"file": path.name, "samples": texts, "time": time})

        def run(samples: list[list[Array]]) -> list[list[Array]]:
            return [[_array_of(output) for output in outputs] for outputs in work(samples, time=False)["outputs"]]

        def seconds(arrays: Sequence[Array]) -> float:
            return float(work([arrays], time=True)["seconds"])

        detail = f"{made['encoded']} layers with sparse weights"
        if made["encoded"] and (others := _without_sparse_kernels(made["operators"])):
            detail += f"; without sparse kernels: {', '.join(others)}"
        every = sample_by_sample(run, original.observed.call)
        return {"float32": TargetFile(path.stat().st_size, every, detail=detail, seconds=seconds)}


def _open(page: Path) -> Browser:
    browser = _browsers[page] = Browser(page)
    return browser


def _without_sparse_kernels(operators: Sequence[str]) -> list[str]:
    convolutions = [name for name in operators if name.startswith("CONV_2D")]
    others = [name for name in operators if name not in _SPARSE_OPERATORS]
    if convolutions[:1] == [_FIRST]:
        others.remove(_FIRST)
    return sorted(set(others))


@cache
def _browser_version() -> str:
    program = chromium()
    assert program is not None
    words = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split()
    return " ".join(words[:2])


def _write_page(page: Path) -> None:
    """Write all but the networks, once."""
    if page.exists():
        return
    (page / "litert").mkdir(parents=True)
    for name in ("index.html", "page.js", "network.js"):
        shutil.copyfile(_PAGE / name, page / name)
    kernels = [_KERNELS.format(kind, ending) for kind in ("", "_compat") for ending in ("js", "wasm")]
    for source, name in {**_COPIES, **{f"core/wasm/{kernel}": kernel for kernel in kernels}}.items():
        shutil.copyfile(MODULES / source, page / "litert" / name)


def _add_network(page: Path, path: Path, original: Original) -> None:
    """Add a network to the page's list, with what torch answers to the page's samples."""
    place, call = page / _NETWORKS, original.observed.call
    content = json.loads(place.read_text()) if place.exists() else {**_about(original), "networks": []}
    read = call.read[0]
    module = in_float32(original.candidate.module)
    with torch.no_grad():
        answers = [arrays_out(model_call(module, call.inputs(tensors)))[read] for tensors in _samples(original)]
    content["networks"].append(
        {
            "name": original.candidate.name,
            "file": path.name,
            "bytes": path.stat().st_size,
            "read": read,
            "expected": [_text_of(np.asarray(answer, np.float32)) for answer in answers],
        }
    )
    place.write_text(json.dumps(content))


def _about(original: Original) -> dict[str, Any]:
    """Return the inputs that the page runs on, and what it shows beside them: what the data says, and the task."""
    interface = original.observed.call.interface
    inputs = [as_litert([tensor.numpy() for tensor in tensors]) for tensors in _samples(original)]
    return {
        **asdict(interface),
        "inputs": [{"dtype": array.dtype.name, "shape": array.shape} for array in inputs[0]],
        "classes": _classes(original),
        "samples": [[_text_of(array) for array in sample] for sample in inputs],
    }


def _classes(original: Original) -> int:
    """Return how many classes the last dimension of the answer counts; 0 where it counts something else."""
    call, task = original.observed.call, original.test_set.task if original.test_set else None
    shape, named = original.observed.outputs[1][call.read[0]].shape, call.interface.named_classes
    counts = getattr(task, "class_dim", 1 if named else None) in (-1, len(shape) - 1)
    return shape[-1] if counts and named in (0, shape[-1]) else 0


def _samples(original: Original) -> list[list[Tensor]]:
    """Return the inputs of a few test samples, of the example's where there are no data."""
    size = sum(tensor.nbytes for tensor in original.observed.one_sample)
    count = max(1, min(_SAMPLES, _SAMPLE_BYTES // max(size, 1)))
    if original.test_set is None:
        inputs = original.candidate.example.inputs
        batches = [rows(inputs, place, place + 1) for place in range(min(count, number_of_samples(inputs)))]
    else:
        data = original.test_set.data
        batches = [b.inputs for b in real_batches(data, "test", range(min(count, len(data.test))), 1)]
    return [tensors_in(batch) for batch in batches]


def _text_of(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array_of(output: Mapping[str, Any]) -> Array:
    """Return an output of the browser's, such as {"type": "Float32Array", "shape": [1, 10], "bytes": base64}."""
    kind = np.dtype(output["type"].removesuffix("Array").lower())
    return np.frombuffer(base64.b64decode(output["bytes"]), kind).reshape(output["shape"])
