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

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.errors import DamagedError
from orchestrator.rounds import EpochMetrics, Progress, Tensors, TrainState

_MASK = "#mask"
_PARTS = "#parts"


def pack_model(model: Tensors, masks: Tensors) -> bytes:
    """Model tensors as bytes: at most density x dense + 1/32 dense, and a header."""
    tensors = _cut(model, masks)
    for name, mask in masks.items():
        tensors[name + _MASK] = torch.from_numpy(np.packbits(mask.numpy()))
    return save(tensors, {"shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()})})


def unpack_model(blob: bytes, file: str) -> tuple[Tensors, Tensors]:
    """(model, masks) from `pack_model`'s bytes. Raises DamagedError, naming `file`, when they do not fit together."""
    tensors, metadata = _open(blob, file)
    masks: Tensors = {}
    for name, shape in json.loads(metadata.get("shapes", "{}")).items():
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
    cut = {slot: masks.get(_parameter(slot)) for slot in json.loads(metadata.get("cut", "[]"))}
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
    }
    own = {} if progress.parts is None else {_PARTS: progress.parts}
    return _seal(
        TrainState({**progress.state.model, **own}, progress.state.optimizer), {"progress": json.dumps(header)}
    )


def unpack_progress(blob: bytes, file: str) -> Progress:
    """The inverse of `pack_progress`. Raises DamagedError naming `file`."""
    state, metadata = _unseal(blob, file)
    try:
        header = json.loads(metadata["progress"])
        header["history"] = tuple(EpochMetrics(**metrics) for metrics in header["history"])
        return Progress(state=state, parts=state.model.pop(_PARTS, None), **header)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{file}: not a mid-round checkpoint ({error!r})") from error


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
            raise DamagedError(f"{file}: not a state, it holds {path!r}")
        getattr(state, part)[name] = tensor
    return state, metadata


def _open(blob: bytes, file: str) -> tuple[Tensors, dict[str, str]]:
    try:
        tensors = load(blob)
        size = int.from_bytes(blob[:8], "little")
        return tensors, json.loads(blob[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{file}: not a safetensors file ({error})") from error


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
