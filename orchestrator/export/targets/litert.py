"""LiteRT's files (.tflite), made by packages that want other versions than ours: a process of their own makes them."""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array
from orchestrator.export.batch_norm import for_inference, in_float32
from orchestrator.export.flat import Wrapper, flat, tensors_in
from orchestrator.export.originals import Original
from orchestrator.export.program import traced
from orchestrator.export.real_samples import calibration_inputs
from orchestrator.export.runtimes import Run, sample_by_sample
from orchestrator.extras import PROJECT
from orchestrator.nested import number_of_samples, rows

ENVIRONMENT = PROJECT / ".venv-litert"
_CHILD = Path(__file__).with_name("litert_child.py")
_PATIENCE_S = 600  # for one answer


def missing_litert() -> str | None:
    """Return the sentence that says how to get LiteRT's packages, None if they are here."""
    if (ENVIRONMENT / "bin" / "python").exists():
        return None
    return f"LiteRT's packages are not in {ENVIRONMENT}: run make targets in a clone of the project"


def tflite_of(original: Original, folder: Path) -> Path:
    """Return the float32 .tflite file of a network, which takes one sample; it is written once into `folder`.

    Pictures go in as (1, height, width, channels), whole numbers as int32. Raises ExportError for a network that
    torch.export or LiteRT does not take.
    """
    path = folder / f"{original.candidate.name}.tflite"
    if path.exists():
        return path
    observed = original.observed
    network = flat(for_inference(in_float32(original.candidate.module), observed), observed.call)
    program = traced(_AsLiteRT(network), observed.call, [_given(t) for t in observed.one_sample], dynamic=False)
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary, "network.pt2")
        torch.export.save(program, saved)
        ask_litert("convert", program=saved, file=path)
    return path


def int8_of(original: Original, folder: Path) -> Path:
    """Return the same file with int8 weights and activations, calibrated on training samples.

    Raises ExportError as `tflite_of` does, and for a network that has no layer for int8.
    """
    path = folder / f"{original.candidate.name}.int8.tflite"
    if path.exists():
        return path
    source = tflite_of(original, folder)
    with tempfile.TemporaryDirectory() as temporary:
        samples = [
            _save(Path(temporary, f"{number}.safetensors"), arrays)
            for number, arrays in enumerate(_calibration(original))
        ]
        made = ask_litert("quantise", file=source, to=path, samples=samples)
    if not made["int8"]:
        path.unlink()
        raise ExportError("int8 needs a convolution or a linear layer, but the network has none that LiteRT quantises")
    return path


def run_of(path: Path, original: Original) -> Run:
    """Return what runs a .tflite file by LiteRT's kernels for this processor."""

    def each(samples: list[list[Array]]) -> list[list[Array]]:
        with tempfile.TemporaryDirectory() as temporary:
            inputs, outputs = Path(temporary, "inputs.safetensors"), Path(temporary, "outputs.safetensors")
            _save(inputs, [array for sample in samples for array in as_litert(sample)])
            ask_litert("run", file=path, inputs=inputs, outputs=outputs, samples=len(samples))
            found = load_file(outputs)
        count = len(found) // len(samples)
        arrays = [found[str(place)] for place in range(len(found))]
        return [arrays[first : first + count] for first in range(0, len(arrays), count)]

    return sample_by_sample(each, original.observed.call)


def as_litert(arrays: Sequence[Array]) -> list[Array]:
    """Return the inputs of one sample as a .tflite file takes them (see `tflite_of`)."""
    return [_given(torch.from_numpy(array)).numpy() for array in arrays]


def ask_litert(do: str, **request: Any) -> dict[str, Any]:
    """Have a function of `litert_child` called in its process, and return its answer.

    Raises ExportError for what it raises, and if the process dies or does not answer.
    """
    return _Child.running().ask({"do": do, **request})


class _Child:
    """The process of `litert_child`, which ends with this one: it reads requests until there are no more."""

    _running: _Child | None = None

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._says = Path(self._folder.name, "says.txt")  # what the packages print
        with self._says.open("w") as says:
            command = [str(ENVIRONMENT / "bin" / "python"), "-I", str(_CHILD)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=says, text=True)

    @staticmethod
    def running() -> _Child:
        """Return the process, a new one if the last one died."""
        if _Child._running is None or _Child._running._process.poll() is not None:
            _Child._running = _Child()
        return _Child._running

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
            answers, *_ = select.select([self._process.stdout], [], [], _PATIENCE_S)
            if not answers:
                self._process.kill()
                self._process.wait()
                raise ExportError(f"LiteRT did not answer within {_PATIENCE_S} s, so its process was ended")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            words, *_ = " ".join(answer["error"].split()).partition(" While executing ")  # the place in a graph
            raise ExportError(f"LiteRT cannot take the network ({words[:200]})")
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        return f"its process ended with exit code {code}: {self._says.read_text().strip()[-200:]}"


class _AsLiteRT(Wrapper):
    """A network that takes pictures with their channels last, and whole numbers of 32 bits."""

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*map(_taken, tensors))


def _given(tensor: Tensor) -> Tensor:
    tensor = tensor.int() if tensor.dtype == torch.int64 else tensor
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.dim() == 4 else tensor


def _taken(tensor: Tensor) -> Tensor:
    tensor = tensor.long() if tensor.dtype == torch.int32 else tensor
    return tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor


def _calibration(original: Original) -> Iterator[list[Array]]:
    """Yield inputs of training samples one by one; of the example where there are no data."""
    test_set = original.test_set
    for batch in calibration_inputs(test_set.data) if test_set else original.candidate.example.batches():
        for place in range(number_of_samples(batch)):
            yield as_litert([tensor.numpy() for tensor in tensors_in(rows(batch, place, place + 1))])


def _save(path: Path, arrays: Sequence[Array]) -> Path:
    save_file({str(place): array for place, array in enumerate(arrays)}, path)
    return path
