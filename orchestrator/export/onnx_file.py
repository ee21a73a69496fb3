"""Write ONNX files: checked, batch size free, inputs and outputs by name; float32, float16 and int8."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.errors import ExportError
from orchestrator.export.agreement import RELATIVE
from orchestrator.export.arrays import Array, is_finite
from orchestrator.export.batch_norm import for_inference, in_float32
from orchestrator.export.converting import first_cause, quiet
from orchestrator.export.example import ExampleInputs, Observed, observe
from orchestrator.export.flat import flat, tensors_in
from orchestrator.export.half_weights import halve_weights, has_recurrent_layers
from orchestrator.export.int8_biases import refine_biases
from orchestrator.export.interface import Interface
from orchestrator.export.onnx_recurrent import use_onnx_recurrence
from orchestrator.export.program import traced
from orchestrator.extras import extra
from orchestrator.files import atomic_write
from orchestrator.private_apis import onnx_operators_kept
from orchestrator.training.state import model_tensors
from orchestrator.user_code import one_line

SMALLEST_HALF, LARGEST_HALF = 2.0**-24, 65504.0
LARGEST = 2**31 - 1  # bytes of a protobuf message


def save_onnx(module: nn.Module, path: str | Path, example: ExampleInputs, *, fold: bool = True) -> Path:
    """Write `module` as an ONNX file and return its path.

    Inputs are named after the parameters of forward() or the keys of a dict, outputs after their keys, or "output". Any
    number of samples goes in, and any size in which batches of `example` differ. The file's metadata hold the
    `Interface` as JSON. `fold`: batch norm goes into the convolutions where the flow can be traced. The file is checked
    by onnx, and by onnxruntime against the module on the example. The module is left as it is; weights of 16 bits are
    written as float32, and compared so.

    Raises ExportError for a module that torch.export does not take (such as control flow on data), for a file that
    differs from it or cannot be written, or if a package is missing.
    """
    onnx, _ = _packages()
    path = Path(path)
    original = in_float32(module)
    _check_size(sum(tensor.nbytes for tensor in model_tensors(module).values()), path)
    observed = observe(original, example)
    model = _model_of(for_inference(original, observed) if fold else original, observed)
    _strip(model)
    _describe(model, observed.call.interface)
    with atomic_write(path) as temporary:
        _write(model, temporary, path)
        _check(onnx, temporary, path)
        error = observed.error_of(lambda tensors: run_onnx(temporary, tensors))
        if not error <= RELATIVE:  # nor NaN
            raise ExportError(f"{path.name} differs from the network by {error:.1g} of its largest output")
    return path


def save_onnx_half(source: str | Path, path: str | Path) -> Path:
    """Write the float32 file `source` with float16 weights and arithmetic; inputs and outputs keep their types.

    A network with recurrent layers has float16 weights, and computes in float32.

    Raises ExportError for a weight that float16 cannot hold, a `source` that cannot be read or converted, or if a
    package is missing.
    """
    onnx, _ = _packages()
    with extra("onnx", "ONNX files", ExportError):
        from onnxconverter_common import float16
    path = Path(path)
    with _converting(source, path):
        half = onnx.load(str(source))
        _check_half(onnx, half)
        if has_recurrent_layers(half):
            halve_weights(half)
        else:
            half = float16.convert_float_to_float16(
                half, min_positive_val=SMALLEST_HALF, max_finite_val=LARGEST_HALF, keep_io_types=True
            )
    with atomic_write(path) as temporary:
        _write(half, temporary, path)
        _check(onnx, temporary, path)
    return path


def save_onnx_int8(source: str | Path, path: str | Path, batches: Iterable[Any]) -> Path:
    """Write the float32 file `source` with int8 weights (one scale a channel) and activations.

    Post-training quantization (Jacob et al. 2018, section 3): `batches` are inputs of training samples as the network
    takes them; the range of every activation is what they reach.

    Raises ExportError for no batches or some that are not finite, a `source` that cannot be read or quantized, or if a
    package is missing.
    """
    onnx, _ = _packages()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, names: Sequence[str]) -> None:
            self._names, self._batches = names, iter(batches)

        def get_next(self) -> dict[str, Array] | None:
            if (batch := next(self._batches, None)) is None:
                return None
            arrays = [tensor.numpy() for tensor in tensors_in(batch)]
            if not is_finite(arrays):
                raise ExportError("samples for int8 must be finite, got NaN or infinity")
            return dict(zip(self._names, arrays, strict=True))

    path = Path(path)
    with tempfile.TemporaryDirectory() as folder, _converting(source, path):
        original, made = onnx.load(str(source)), Path(folder, "int8.onnx")
        quantize_static(
            str(source),
            str(made),
            Reader([each.name for each in original.graph.input]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(str(made))
        refine_biases(model, original)
        del model.metadata_props[:]
        model.metadata_props.extend(original.metadata_props)
    with atomic_write(path) as temporary:
        _write(model, temporary, path)
        _check(onnx, temporary, path)
    return path


@contextlib.contextmanager
def _converting(source: str | Path, path: Path) -> Iterator[None]:
    """Raise errors of converters, which are of all kinds, as ExportError."""
    try:
        with quiet():
            yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{path.name} cannot be made of {Path(source).name} ({first_cause(error)})") from error


def _check_half(onnx: Any, model: Any) -> None:
    """Raise ExportError for weights that float16 cannot hold: the converter would clip them."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
            if not largest <= LARGEST_HALF:
                raise ExportError(f"float16 holds values up to {LARGEST_HALF:g}, but {tensor.name} has {largest:g}")


def run_onnx(path: str | Path, tensors: Sequence[Tensor]) -> list[Array]:
    """Return the outputs of a file for `tensors`, its inputs in order, by onnxruntime on the CPU."""
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {each.name: tensor.numpy() for each, tensor in zip(session.get_inputs(), tensors, strict=True)}
    outputs: list[Array] = session.run(None, given)
    return outputs


def _model_of(module: nn.Module, observed: Observed) -> Any:
    call = observed.call
    exported = use_onnx_recurrence(flat(module, call))
    program = traced(exported, call, observed.to_trace, dynamic=True)
    try:
        with quiet(), onnx_operators_kept():
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[info.name for info in call.interface.inputs],
                output_names=[info.name for info in call.interface.outputs],
                verbose=False,
            )
        assert made is not None
        return made.model_proto
    except Exception as error:
        raise ExportError(f"{type(module).__name__} cannot be written as ONNX ({first_cause(error)})") from error


def _strip(model: Any) -> None:
    """Take out what says nothing to a user: the exporter's notes hold file names of this machine."""
    graphs = [model.graph]
    del model.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        graphs.append(function)
    for graph in graphs:
        for attribute in ("metadata_props", "doc_string"):
            if hasattr(graph, attribute):
                graph.ClearField(attribute)
        parts = [getattr(graph, name, ()) for name in ("node", "input", "output", "value_info", "initializer")]
        for part in (item for items in parts for item in items):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
            graphs += [a.g for a in getattr(part, "attribute", ()) if a.HasField("g")]


def _describe(model: Any, interface: Interface) -> None:
    """Write the interface into the metadata, and its names of free axes in the place of the exporter's."""
    for name, value in interface.metadata().items():
        model.metadata_props.add(key=name, value=value)
    names: dict[str, str] = {}
    for value, info in zip(model.graph.input, interface.inputs, strict=True):
        for axis, dim in zip(info.shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str) and dim.dim_param:
                names.setdefault(dim.dim_param, axis)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _write(model: Any, place: Path, path: Path) -> None:
    _check_size(model.ByteSize(), path)
    place.write_bytes(model.SerializeToString(deterministic=True))


def _check_size(size: int, path: Path) -> None:
    if size > LARGEST:
        raise ExportError(f"an ONNX file holds at most {LARGEST:,} bytes, {path.name} would have {size:,}")


def _check(onnx: Any, place: Path, path: Path) -> None:
    try:
        onnx.checker.check_model(str(place), full_check=True)
    except Exception as error:
        raise ExportError(f"{path.name} is not a valid ONNX file: {one_line(error)[:300]}") from error


def _packages() -> tuple[Any, Any]:
    with extra("onnx", "ONNX files", ExportError):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    return onnx, onnxruntime
