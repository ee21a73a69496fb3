"""Write and read the packed file: a small download that becomes an ordinary module when it is loaded.

It is a safetensors file. Its streams (see `streams`) hold the tensors. Its metadata name the architecture, the channels
that are left of it, and the inputs and outputs. Nothing is unpickled, no code runs that the
caller did not name, and nothing but the architecture's own sizes decides how much memory is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from orchestrator.decode import Count, Rule, decode, format_of, parse
from orchestrator.errors import ConfigError, DamagedError, ExportError
from orchestrator.export.batch_norm import fold_batch_norm, folded, in_float32
from orchestrator.export.converting import check_weights
from orchestrator.export.example import ExampleInputs, observe
from orchestrator.export.interface import Interface
from orchestrator.export.streams import Layout, pack, unpack
from orchestrator.files import atomic_write
from orchestrator.lookup import find
from orchestrator.models.build import build_model
from orchestrator.models.imagenet import imagenet_example
from orchestrator.models.spec import is_classifier, names_known_code
from orchestrator.pruning.channels.graph import Kept
from orchestrator.structures import build_network, own_class
from orchestrator.train_state import Tensors
from orchestrator.training.int8_weights import SCALE, quantised, restored
from orchestrator.training.state import model_tensors
from orchestrator.validate import json_options, one_of

PACKED_FORMAT = 3  # 1: of classifiers alone; 2: masks as bits, float32 as it is in memory
WeightType: TypeAlias = Literal["exact", "float16", "int8"]
WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)

_Tensor = Annotated[
    tuple[str, tuple[Count, ...], Count | None],
    Rule("[type, shape, how many values it keeps, at most all]", lambda tensor: _fits(tensor)),
]


@dataclass(frozen=True)
class Network:
    """Hold what a packed file says of its network: how to build it, its inputs and its outputs.

    `arguments`: what the data tells the model's function (see `Data.model_arguments`). `channels`: the configuration of
    those that are left; {} is the whole architecture. `structure`: the fields of a structure of your own.
    """

    model: str
    options: Mapping[str, Any]
    arguments: Mapping[str, Any]
    channels: Kept
    interface: Interface
    folded: bool
    structure: Mapping[str, Any] | None = None

    def build(self) -> nn.Module:
        """Return the architecture in evaluation mode, without its weights. Raises ConfigError, ExportError."""
        arguments = {name: _with_tuples(value) for name, value in self.arguments.items()}
        dense = partial(build_model, self.model, self.options, arguments, seed=0)
        module = build_network(self.structure, self.channels, dense).eval()
        if self.folded:
            fold_batch_norm(module)
        return module

    def to_json(self) -> dict[str, Any]:
        """Return the fields; a structure only where there is one."""
        content = asdict(self)
        return content if self.structure else {name: content[name] for name in content if name != "structure"}


def save_packed(
    module: nn.Module,
    path: str | Path,
    *,
    model: str,
    options: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    channels: Kept | None = None,
    structure: Mapping[str, Any] | None = None,
    example: ExampleInputs | None = None,
    weights: WeightType = "exact",
    fold: bool = False,
) -> Path:
    """Write `module` as a packed file and return its path; the module is left as it is.

    `model` and `options` name the architecture, as in an Experiment; `arguments` are what the data tells its function
    (see `Data.model_arguments`); `channels` is the configuration of those that are left where some were removed (as
    `fewer_channels` gives it), `structure` the fields of a structure of your own (see `Record.structure`). `example`:
    real inputs, of which the file says names, types and shapes; without it the file says nothing of them. Of a
    classifier of torchvision or timm for ImageNet both may be left out.
    `weights`: those of two or more dimensions as "float16", or as "int8" with a scale a channel (see `quantised`);
    biases and statistics of norms stay as they are. `fold`: batch norm is folded into the convolutions first, which is
    checked on the example. Without either the loaded module is equal bit by bit, but for the sign of zeros.

    Raises ConfigError if `model` builds another network or JSON cannot hold its options or arguments, ExportError for
    a weight that float16 or int8 cannot hold, an example that the network does not take, a flow that cannot be traced
    or a function that would change (`fold`), or a file that cannot be written.
    """
    path = Path(path)
    store = _STORED[one_of("weights", weights, WEIGHT_TYPES)]
    check_weights(module)
    if example is None and arguments is None and is_classifier(model):
        inputs, about, arguments = imagenet_example(module)
        example = ExampleInputs(inputs, about=about)
    interface = observe(in_float32(module), example).call.interface if example else Interface()
    given = [json_options(name, dict(value or {})) for name, value in (("options", options), ("arguments", arguments))]
    network = Network(model, given[0], given[1], channels or {}, interface, fold, structure)
    if fold:
        if example is None:
            raise ExportError(
                "fold needs an example, on which the folded network is checked: pass example=ExampleInputs(...)"
            )
        module = folded(module, example)
    whole = model_tensors(module)
    if problem := _difference(_whole(whole), _whole(model_tensors(network.build()))):
        raise ConfigError(f"model, options, arguments and channels must build the network, got {model!r}: {problem}")
    layouts, streams = pack(store(whole))
    tensors = {name: [layout.dtype, layout.shape, layout.kept] for name, layout in layouts.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(_sealed({"format": PACKED_FORMAT, **network.to_json(), "tensors": tensors}, streams))
    return path


def load_packed(path: str | Path, *, model: str | None = None, structure: str | None = None) -> nn.Module:
    """Return the network of a packed file in evaluation mode, with weights in the types of its architecture.

    A file does not decide which code runs: one of a function of your own (`package.module:function`) is read only if
    `model` names that function, and one with a structure of your own only if `structure` names its class.

    Raises DamagedError for a file that is cut short, changed, or of a newer format; ConfigError for one that is not
    there, whose model is not the one named, or whose model this installation cannot build.
    """
    network, layouts, streams = _open(path)
    _check_trusted(path, network.model, model)
    if (own := own_class(network.structure)) is not None:
        if own != structure:
            raise ConfigError(
                f"{path} holds a structure of {own!r}: pass structure={own!r} if that class is to build it"
            )
        find(own, "structure", callable)  # its module defines the class
    try:
        module = network.build()
    except (ConfigError, ExportError) as error:
        raise ConfigError(f"{path} cannot be built by this installation: {error}") from error
    mine = model_tensors(module)
    expected = _whole(mine)
    scales = {name + SCALE for name, layout in layouts.items() if layout.dtype == "int8"}
    stored = {name: replace(layout, kept=None) for name, layout in layouts.items() if name not in scales}
    for name, layout in stored.items():
        if name in mine and (layout.dtype == "float16" or name + SCALE in scales & layouts.keys()):
            stored[name] = replace(layout, dtype=expected[name].dtype)
    if problem := _difference(stored, expected):
        raise DamagedError(f"{path}: this installation's {network.model!r} is another network: {problem}")
    with torch.no_grad():
        for name, tensor in restored(unpack(layouts, streams, str(path)), str(path)).items():
            mine[name].copy_(tensor)
    return module


def _check_trusted(path: str | Path, found: str, expected: str | None) -> None:
    if found != expected and (expected is not None or not names_known_code(found)):
        raise ConfigError(f"{path} holds a network of {found!r}: pass model={found!r} if that function is to build it")


def _open(path: str | Path) -> tuple[Network, dict[str, Layout], Tensors]:
    try:
        blob = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}): give a file that save_packed wrote") from None
    broken = f"{path} is cut short or damaged, or is not a packed file: download it again"
    try:
        streams = load(blob)
        header = parse(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        metadata = header.get("__metadata__", {})
        if "packed" not in metadata and "shapes" in metadata:
            raise ConfigError(
                f"{path} holds the stored weights of a round, and not how its network is built: "
                "orchestrator.load(STORAGE, KEY) returns the network, orchestrator export writes a packed file of it"
            )
        content = parse(metadata["packed"])
        digest = content.pop("sha256")
        _check_format(path, format_of(content))
        if _digest(content, streams) != digest:
            raise DamagedError(f"{broken} (its content does not have the sha256 that it names)")
        tensors = decode(dict[str, _Tensor], content["tensors"])
        network = decode(Network, content, more_fields=True)
        return network, {name: Layout(*tensor) for name, tensor in tensors.items()}, streams
    except ConfigError:
        raise
    except (SafetensorError, AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise DamagedError(f"{broken} ({str(error)[:200]})") from error


def _check_format(path: str | Path, number: int) -> None:
    if number > PACKED_FORMAT:
        raise DamagedError(
            f"{path} has format {number}, this one reads up to {PACKED_FORMAT}: update rewind-orchestrator"
        )
    if number < PACKED_FORMAT:
        raise DamagedError(
            f"{path} was written by an earlier version, whose format {number} is not read any more: export its network "
            "again"
        )


def _with_tuples(value: Any) -> Any:
    """Return a value from JSON with tuples in the place of lists, as data states shapes."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _fits(tensor: tuple[str, tuple[int, ...], int | None]) -> bool:
    layout = Layout(*tensor)
    return layout.stored <= layout.size


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Layout]:
    return {n: Layout(str(t.dtype).removeprefix("torch."), tuple(t.shape), None) for n, t in tensors.items()}


def _difference(given: Mapping[str, Layout], expected: Mapping[str, Layout]) -> str | None:
    """Return the first difference, in words, or None."""
    if names := sorted(given.keys() ^ expected.keys()):
        return f"only one of the two has {', '.join(names[:3])}"
    for name, layout in given.items():
        if layout != expected[name]:
            there = expected[name]
            return f"{name} is {layout.dtype} {layout.shape}, there it is {there.dtype} {there.shape}"
    return None


def _halved(tensors: Mapping[str, Tensor]) -> Tensors:
    found: Tensors = {}
    for name, tensor in tensors.items():
        found[name] = tensor
        if tensor.dtype == torch.float32 and tensor.ndim >= 2:
            found[name] = tensor.half()
            if not found[name].isfinite().all():
                raise ExportError(f"float16 holds finite values up to 65504, but {name} has others: leave it out")
    return found


_STORED: Mapping[WeightType, Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]] = {
    "exact": lambda tensors: tensors,
    "float16": _halved,
    "int8": quantised,
}


def _sealed(content: dict[str, Any], streams: Tensors) -> bytes:
    """Return the file, with one metadata text: safetensors writes several in an order that varies."""
    sealed = {**content, "sha256": _digest(content, streams)}
    return save(streams, {"packed": json.dumps(sealed, separators=(",", ":"))})


def _digest(content: Mapping[str, Any], streams: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(streams):
        digest.update(f"{name} {streams[name].dtype} {tuple(streams[name].shape)}".encode())
        digest.update(streams[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
