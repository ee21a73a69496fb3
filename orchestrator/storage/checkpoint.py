"""Tensors to bytes and back: safetensors, where a masked tensor is its kept values and one bit a weight.

A masked tensor `w` of shape S is stored as `w` (kept values, flat order) and `w#mask` (bits, packed big-endian into
bytes); S stands in the header. Removed weights are zero and are not stored. Nothing is ever unpickled.
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
from orchestrator.work import EpochMetrics, Progress

Shapes = Mapping[str, tuple[int, ...]]
_MASK = "#mask"
_PARTS = "#parts"
_AVERAGE = "#average/"

T = TypeVar("T")
_SmallCount = Annotated[int, Rule("a whole number from 0 to 2^31 - 1", lambda number: 0 <= number < 2**31)]
_Shape = Annotated[list[int], Rule("sizes above 0", lambda shape: len(shape) <= 8 and all(n > 0 for n in shape))]


@dataclass(frozen=True)
class _Header:
    """What a mid-round checkpoint holds beside tensors; see `Progress`."""

    key: str
    epochs_done: _SmallCount
    history: tuple[EpochMetrics, ...]
    seconds: float
    attempts: _SmallCount
    steps_done: _SmallCount
    origin: str


def pack_model(model: Tensors, masks: Tensors) -> bytes:
    """Model tensors as bytes: at most density x dense + 1/32 dense, and a header."""
    tensors = _cut(model, masks)
    for name, mask in masks.items():
        tensors[name + _MASK] = torch.from_numpy(np.packbits(mask.numpy()))
    return save(tensors, {"shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()})})


def unpack_model(blob: bytes, file: str, shapes: Shapes | None = None) -> tuple[Tensors, Tensors]:
    """(model, masks) from `pack_model`'s bytes; `shapes`: of the weights that have a mask, if any has one.

    Raises DamagedError, naming `file`, when they do not fit together, before anything of a wrong size is made.
    """
    tensors, metadata = _open(blob, file)
    masks: Tensors = {}
    masked = _decoded(dict[str, _Shape], metadata.get("shapes", "{}"), file)
    if shapes is not None:
        _check_shapes(tensors, masked, shapes, file)
    for name, shape in masked.items():
        if name not in tensors:
            raise DamagedError(f"{file}: it has a mask of {name!r:.200}, and no such tensor")
        bits = tensors.pop(name + _MASK, None)
        size = math.prod(shape)
        if bits is None or bits.dtype != torch.uint8 or bits.numel() != -(-size // 8):
            raise DamagedError(f"{file}: the mask of {name!r} does not have the {size} bits of its shape {shape}")
        masks[name] = torch.from_numpy(np.unpackbits(bits.numpy(), count=size)).bool().reshape(shape)
    return _fill(tensors, masks, file), masks


def pack_optimizer(optimizer: Tensors, masks: Tensors) -> bytes:
    """Optimizer tensors as bytes; a slot of a masked weight is cut by the same mask, which is stored with the model."""
    cut = _slot_masks(optimizer, masks)
    return save(_cut(optimizer, cut), {"cut": json.dumps(list(cut))})


def unpack_optimizer(blob: bytes, masks: Tensors, file: str) -> Tensors:
    """The inverse of `pack_optimizer`, given the masks of the model file beside it."""
    tensors, metadata = _open(blob, file)
    slots = _decoded(list[str], metadata.get("cut", "[]"), file)
    if missing := [slot for slot in slots if slot not in tensors]:
        raise DamagedError(f"{file}: it has no tensor {missing[0]!r:.200}")
    cut = {slot: masks.get(_parameter(slot)) for slot in slots}
    if unknown := [slot for slot, mask in cut.items() if mask is None]:
        raise DamagedError(f"{file}: the model beside it has no mask for {unknown[0]!r}")
    return _fill(tensors, {slot: mask for slot, mask in cut.items() if mask is not None}, file)


def pack_progress(progress: Progress) -> bytes:
    """A round in its middle: sha256 and safetensors of whole tensors. It lives for minutes, so size does not count."""
    header = _Header(**{field.name: getattr(progress, field.name) for field in fields(_Header)})
    own = {} if progress.parts is None else {_PARTS: progress.parts}
    own |= {_AVERAGE + name: tensor for name, tensor in (progress.average or {}).items()}
    state = TrainState({**progress.state.model, **own}, progress.state.optimizer)
    return _seal(state, {"progress": json.dumps(asdict(header))})


def unpack_progress(blob: bytes, file: str) -> Progress:
    """The inverse of `pack_progress`. Raises DamagedError naming `file`."""
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
    """A state that is no round's result: sha256 and safetensors of whole tensors."""
    return _seal(state, {})


def unpack_snapshot(blob: bytes, file: str) -> TrainState:
    """The inverse of `pack_snapshot`. Raises DamagedError naming `file`."""
    return _unseal(blob, file)[0]


def _seal(state: TrainState, metadata: dict[str, str]) -> bytes:
    model = {f"model/{name}": tensor for name, tensor in state.model.items()}
    optimizer = {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    blob = save({**model, **optimizer}, metadata)
    return hashlib.sha256(blob).digest() + blob


def _unseal(blob: bytes, file: str) -> tuple[TrainState, dict[str, str]]:
    digest, blob = blob[:32], blob[32:]
    if hashlib.sha256(blob).digest() != digest:
        raise DamagedError(f"{file} is damaged: it does not have the sha256 that it begins with")
    tensors, metadata = _open(blob, file)
    state = TrainState({}, {})
    for path, tensor in tensors.items():
        part, _, name = path.partition("/")
        if part not in ("model", "optimizer"):
            raise DamagedError(f"{file}: not a state, it holds {path!r:.200}")
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
    """Raise DamagedError unless the prunable tensors are those of the model, all of them masked or none."""
    if masked and masked.keys() != shapes.keys():
        name = min(masked.keys() ^ shapes.keys())
        raise DamagedError(f"{file}: its masks are not those of the model's prunable weights: {name!r:.200}")
    for name, shape in shapes.items():
        found = masked.get(name) or list(tensors[name].shape) if name in tensors else None
        if found != list(shape):
            raise DamagedError(f"{file}: the model's {name!r} has the shape {list(shape)}, this one's is {found}")
        if not tensors[name].is_floating_point():
            raise DamagedError(f"{file}: {name!r} holds {tensors[name].dtype}, which are no weights")


def _check_consistent(header: _Header, parts: Tensor | None) -> None:
    """Raise ValueError unless the values of a checkpoint fit together; the round's own limits are its trainer's."""
    if len(header.history) != header.epochs_done or any(metrics.epoch < 0 for metrics in header.history):
        raise ValueError(f"its history is not that of {header.epochs_done} epochs")
    if (parts is not None) != (header.steps_done > 0):
        raise ValueError("steps and the workers' parts belong together")
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
    """Masks of the slots that have one entry a weight (a step counter has not)."""
    return {
        name: masks[_parameter(name)]
        for name, tensor in optimizer.items()
        if _parameter(name) in masks and tensor.shape == masks[_parameter(name)].shape
    }


def _parameter(slot: str) -> str:
    return slot.rsplit("/", 1)[0]
