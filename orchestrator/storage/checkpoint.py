"""Tensors to bytes and back: safetensors, where a masked tensor is its kept values and one bit a weight.

A masked tensor `w` of shape S is stored as `w` (kept values, flat order) and `w#mask` (bits, packed big-endian into
bytes); S stands in the header. Removed weights are zero and are not stored. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.errors import DamagedError
from orchestrator.work import EpochMetrics, Progress, Tensors, TrainState

Shapes = Mapping[str, tuple[int, ...]]
_MASK = "#mask"
_PARTS = "#parts"
_AVERAGE = "#average/"


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
    masked = _json(metadata.get("shapes", "{}"), file)
    if not (isinstance(masked, dict) and all(map(_is_shape, masked.values()))):
        raise DamagedError(f"{file}: its shapes are not whole numbers by name")
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
    slots = _json(metadata.get("cut", "[]"), file)
    if not (isinstance(slots, list) and all(isinstance(slot, str) for slot in slots)):
        raise DamagedError(f"{file}: its list of what is cut is none")
    if missing := [slot for slot in slots if slot not in tensors]:
        raise DamagedError(f"{file}: it has no tensor {missing[0]!r:.200}")
    cut = {slot: masks.get(_parameter(slot)) for slot in slots}
    if unknown := [slot for slot, mask in cut.items() if mask is None]:
        raise DamagedError(f"{file}: the model beside it has no mask for {unknown[0]!r}")
    return _fill(tensors, {slot: mask for slot, mask in cut.items() if mask is not None}, file)


def pack_progress(progress: Progress) -> bytes:
    """A round in its middle: sha256 and safetensors of whole tensors. It lives for minutes, so size does not count."""
    header = {
        "key": progress.key,
        "epochs_done": progress.epochs_done,
        "history": [asdict(metrics) for metrics in progress.history],
        "seconds": progress.seconds,
        "attempts": progress.attempts,
        "steps_done": progress.steps_done,
        "origin": progress.origin,
    }
    own = {} if progress.parts is None else {_PARTS: progress.parts}
    own |= {_AVERAGE + name: tensor for name, tensor in (progress.average or {}).items()}
    return _seal(
        TrainState({**progress.state.model, **own}, progress.state.optimizer), {"progress": json.dumps(header)}
    )


def unpack_progress(blob: bytes, file: str) -> Progress:
    """The inverse of `pack_progress`. Raises DamagedError naming `file`."""
    state, metadata = _unseal(blob, file)
    try:
        header = json.loads(metadata["progress"])
        header["history"] = tuple(EpochMetrics(**metrics) for metrics in header["history"])
        names = [name for name in state.model if name.startswith(_AVERAGE)]
        average = {name.removeprefix(_AVERAGE): state.model.pop(name) for name in names}
        progress = Progress(state=state, parts=state.model.pop(_PARTS, None), average=average or None, **header)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file}: not a mid-round checkpoint ({error!r:.200})") from error
    if not _is_sound(progress):
        raise DamagedError(f"{file}: not a mid-round checkpoint (its numbers are none that training can have)")
    return progress


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
        return tensors, json.loads(blob[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedError(f"{file}: not a safetensors file ({error!s:.200})") from error


def _json(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{file}: its header is damaged ({error!s:.200})") from error


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 < n < 2**63 for n in value)


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


def _is_sound(progress: Progress) -> bool:
    """Whether the header's values are of their kind and in their range; the round's own limits are its trainer's."""
    metrics = [asdict(epoch) for epoch in progress.history]
    whole = [progress.epochs_done, progress.steps_done, progress.attempts, *(epoch.pop("epoch") for epoch in metrics)]
    numbers = [progress.seconds, *(number for epoch in metrics for number in epoch.values())]
    return (
        isinstance(progress.key, str)
        and all(type(number) is int and 0 <= number < 2**31 for number in whole)
        and all(type(number) in (int, float) and -math.inf < number < math.inf for number in numbers)
        and len(metrics) == progress.epochs_done
        and (progress.parts is not None) == (progress.steps_done > 0)
        and (
            progress.parts is None
            or (progress.parts.dim() == 2 and progress.parts.numel() > 0 and progress.parts.dtype is torch.float64)
        )
    )


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
