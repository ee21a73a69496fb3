"""Pack tensors into safetensors bytes and back; of a masked tensor only the kept values and one bit per weight.

A masked tensor `w` of shape S is stored as `w` (kept values, flat order) and `w#mask` (bits, packed big-endian into
bytes); the header holds S. Removed weights are zero and are not stored. No pickle is ever loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.decode import Rule, decode, parse
from orchestrator.errors import DamagedError
from orchestrator.train_state import Tensors, TrainState
from orchestrator.work.train import EpochMetrics, Progress

Shapes = Mapping[str, tuple[int, ...]]
_MASK = "#mask"
_PARTS = "#parts"
_AVERAGE = "#average/"

T = TypeVar("T")
_SmallCount = Annotated[int, Rule("a whole number from 0 to 2^31 - 1", lambda number: 0 <= number < 2**31)]
_Shape = Annotated[list[int], Rule("sizes above 0", lambda shape: len(shape) <= 8 and all(n > 0 for n in shape))]


@dataclass(frozen=True)
class _Header:
    """Hold the fields of a mid-round checkpoint that are not tensors; see `Progress`."""

    key: str
    epochs_done: _SmallCount
    history: tuple[EpochMetrics, ...]
    seconds: float
    attempts: _SmallCount
    steps_done: _SmallCount
    origin: str


def pack_model(model: Tensors, masks: Tensors) -> bytes:
    """Return the model's tensors as bytes: at most (density + 1/32) x the dense size, and a header."""
    tensors = _cut(model, masks)
    for name, mask in masks.items():
        tensors[name + _MASK] = torch.from_numpy(np.packbits(mask.numpy()))
    return save(tensors, {"shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()})})


def unpack_model(blob: bytes, file: str, shapes: Shapes | None = None) -> tuple[Tensors, Tensors]:
    """Return (model, masks) from the bytes of `pack_model`.

    `shapes`: the shapes of the model's prunable weights; either all of them have a mask or none. Raises DamagedError,
    naming `file`, if the tensors do not fit together, before it allocates anything of a wrong size.
    """
    tensors, metadata = _open(blob, file)
    masks: Tensors = {}
    masked = _decoded(dict[str, _Shape], metadata.get("shapes", "{}"), file)
    if shapes is not None:
        _check_shapes(tensors, masked, shapes, file)
    for name, shape in masked.items():
        if name not in tensors:
            raise DamagedError(f"{file}: it has a mask for {name!r:.200}, but no such tensor")
        bits = tensors.pop(name + _MASK, None)
        size = math.prod(shape)
        if bits is None or bits.dtype != torch.uint8 or bits.numel() != -(-size // 8):
            raise DamagedError(f"{file}: the mask of {name!r} does not have the {size} bits of its shape {shape}")
        masks[name] = torch.from_numpy(np.unpackbits(bits.numpy(), count=size)).bool().reshape(shape)
    return _fill(tensors, masks, file), masks


def pack_optimizer(optimizer: Tensors, masks: Tensors) -> bytes:
    """Return the optimizer's tensors as bytes.

    A slot of a masked weight keeps only what that weight's mask keeps; the mask is stored with the model.
    """
    cut = _slot_masks(optimizer, masks)
    return save(_cut(optimizer, cut), {"cut": json.dumps(list(cut))})


def unpack_optimizer(blob: bytes, masks: Tensors, file: str) -> Tensors:
    """Invert `pack_optimizer`, given the masks of the model file beside it. Raises DamagedError naming `file`."""
    tensors, metadata = _open(blob, file)
    slots = _decoded(list[str], metadata.get("cut", "[]"), file)
    if missing := [slot for slot in slots if slot not in tensors]:
        raise DamagedError(f"{file}: it has no tensor {missing[0]!r:.200}")
    cut = {slot: masks.get(_parameter(slot)) for slot in slots}
    if unknown := [slot for slot, mask in cut.items() if mask is None]:
        raise DamagedError(f"{file}: the model beside it has no mask for {unknown[0]!r}")
    return _fill(tensors, {slot: mask for slot, mask in cut.items() if mask is not None}, file)


def pack_progress(progress: Progress) -> bytes:
    """Return a mid-round checkpoint as sha256 and safetensors of whole tensors: it lives minutes, so may be large."""
    header = _Header(**{field.name: getattr(progress, field.name) for field in fields(_Header)})
    own = {} if progress.parts is None else {_PARTS: progress.parts}
    own |= {_AVERAGE + name: tensor for name, tensor in (progress.average or {}).items()}
    state = TrainState({**progress.state.model, **own}, progress.state.optimizer)
    return _seal(state, {"progress": json.dumps(asdict(header))})


def unpack_progress(blob: bytes, file: str) -> Progress:
    """Invert `pack_progress`. Raises DamagedError naming `file`."""
    state, metadata = _unseal(blob, file)
    try:
        header = decode(_Header, parse(metadata.get("progress", "null")))
        parts = state.model.pop(_PARTS, None)
        names = [name for name in state.model if name.startswith(_AVERAGE)]
        average = {name.removeprefix(_AVERAGE): state.model.pop(name) for name in names}
        _check_consistent(header, parts)
    except ValueError as error:
        raise DamagedError(f"{file}: not a mid-round checkpoint ({error!s:.200})") from error
    values = {field.name: getattr(header, field.name) for field in fields(_Header)}
    return Progress(state=state, parts=parts, average=average or None, **values)


def pack_snapshot(state: TrainState) -> bytes:
    """Return a state that is not a round's result as sha256 and safetensors of whole tensors."""
    return _seal(state, {})


def unpack_snapshot(blob: bytes, file: str) -> TrainState:
    """Invert `pack_snapshot`. Raises DamagedError naming `file`."""
    return _unseal(blob, file)[0]


def _seal(state: TrainState, metadata: dict[str, str]) -> bytes:
    model = {f"model/{name}": tensor for name, tensor in state.model.items()}
    optimizer = {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    blob = save({**model, **optimizer}, metadata)
    return hashlib.sha256(blob).digest() + blob


def _unseal(blob: bytes, file: str) -> tuple[TrainState, dict[str, str]]:
    digest, blob = blob[:32], blob[32:]
    if hashlib.sha256(blob).digest() != digest:
        raise DamagedError(f"{file} is damaged: its content does not match the sha256 in its first 32 bytes")
    tensors, metadata = _open(blob, file)
    state = TrainState({}, {})
    for path, tensor in tensors.items():
        part, _, name = path.partition("/")
        if part not in ("model", "optimizer"):
            raise DamagedError(f"{file}: not a training state, it holds {path!r:.200}")
        getattr(state, part)[name] = tensor
    return state, metadata


def _open(blob: bytes, file: str) -> tuple[Tensors, dict[str, str]]:
    try:
        tensors = load(blob)
        size = int.from_bytes(blob[:8], "little")
        return tensors, decode(dict[str, str], parse(blob[8 : 8 + size]).get("__metadata__") or {})
    except (SafetensorError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedError(f"{file}: not a safetensors file ({error!s:.200})") from error


def _decoded(kind: type[T], text: str, file: str) -> T:
    try:
        return decode(kind, parse(text))
    except ValueError as error:
        raise DamagedError(f"{file}: its header is damaged ({error!s:.200})") from error


def _check_shapes(tensors: Tensors, masked: dict[str, list[int]], shapes: Shapes, file: str) -> None:
    """Raise DamagedError unless the prunable tensors are those of the model, and all or none are masked."""
    if masked and masked.keys() != shapes.keys():
        name = min(masked.keys() ^ shapes.keys())
        raise DamagedError(f"{file}: its masks are not those of the model's prunable weights: {name!r:.200}")
    for name, shape in shapes.items():
        found = masked.get(name) or list(tensors[name].shape) if name in tensors else None
        if found != list(shape):
            raise DamagedError(f"{file}: the model's {name!r} has the shape {list(shape)}, this one's is {found}")
        if not tensors[name].is_floating_point():
            raise DamagedError(f"{file}: {name!r} must hold floating-point weights, got {tensors[name].dtype}")


def _check_consistent(header: _Header, parts: Tensor | None) -> None:
    """Raise ValueError unless the values of a checkpoint fit together; the trainer checks the round's own limits."""
    if len(header.history) != header.epochs_done or any(metrics.epoch < 0 for metrics in header.history):
        raise ValueError(f"its history does not have {header.epochs_done} epochs")
    if (parts is not None) != (header.steps_done > 0):
        raise ValueError("the workers' parts must be present exactly if steps_done is above 0")
    if parts is not None and not (parts.dim() == 2 and parts.numel() > 0 and parts.dtype is torch.float64):
        raise ValueError("the workers' parts must be float64 of shape (workers, n)")


def _cut(tensors: Tensors, masks: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor[masks[name]] if name in masks else tensor for name, tensor in tensors.items()}


def _fill(tensors: Tensors, masks: Mapping[str, Tensor], file: str) -> Tensors:
    whole: Tensors = {}
    for name, tensor in tensors.items():
        mask = masks.get(name)
        if mask is not None:
            if tensor.numel() != (kept := int(mask.sum())):
                raise DamagedError(f"{file}: {name!r} has {tensor.numel()} values, its mask keeps {kept}")
            tensor = torch.zeros(mask.shape, dtype=tensor.dtype).masked_scatter_(mask, tensor)
        whole[name] = tensor
    return whole


def _slot_masks(optimizer: Tensors, masks: Tensors) -> Tensors:
    """Return the masks of the slots that have one entry per weight, unlike a step counter."""
    return {
        name: masks[_parameter(name)]
        for name, tensor in optimizer.items()
        if _parameter(name) in masks and tensor.shape == masks[_parameter(name)].shape
    }


def _parameter(slot: str) -> str:
    return slot.rsplit("/", 1)[0]
