"""Store tensors as a few streams compressed by zstd: kept values by byte plane, their places as bits or gaps.

Of tensors that are mostly zeros only the other values are stored. All values of one type make one stream, byte plane
by byte plane: exponents compress when they are side by side, mantissas never do. zstd's lowest level is used: its
entropy coder does the work, and the highest level saves 1 to 2 % in a hundred times the time (ResNet-50).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import DamagedError
from orchestrator.export.gaps import decode_gaps, encode_gaps, gap_bytes
from orchestrator.train_state import Tensors

ZSTD_LEVEL = 1
MASKS, GAPS = "masks", "gaps"  # two ways to store the places of values
FEW = 0.2  # density below which gaps are the smaller way


@dataclass(frozen=True)
class Layout:
    """Say how a tensor is stored: type (as `float32`), shape, how many values are kept; None: all, without a mask."""

    dtype: str
    shape: tuple[int, ...]
    kept: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stored(self) -> int:
        return self.size if self.kept is None else self.kept


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Layout], Tensors]:
    """Return (layout of each tensor, compressed streams by name, each a vector of bytes).

    A negative zero, as a mask leaves it of a negative weight, counts as zero where a mask is stored.
    """
    layouts: dict[str, Layout] = {}
    values: dict[str, list[Tensor]] = {}
    masks: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().view(-1)
        dtype = str(flat.dtype).removeprefix("torch.")
        mask = flat != 0
        kept = int(mask.count_nonzero())
        masked = 8 * flat.element_size() * (flat.numel() - kept) > flat.numel()  # bits saved against bits of a mask
        if masked:
            masks[name] = mask
            flat = flat[mask]
        layouts[name] = Layout(dtype, tuple(tensor.shape), kept if masked else None)
        values.setdefault(dtype, []).append(flat)
    streams = {dtype: _compress(_planes(torch.cat(parts))) for dtype, parts in values.items()}
    for stream, names in _masked(layouts).items():
        flags = torch.cat([masks[name] for name in names]).numpy()
        streams[stream] = _compress(torch.from_numpy(encode_gaps(flags) if stream == GAPS else np.packbits(flags)))
    return layouts, streams


def _masked(layouts: Mapping[str, Layout]) -> dict[str, list[str]]:
    """Return the names of the tensors whose masks each stream holds: those with few values as gaps.

    They are in order of density, so that neighbours compress alike.
    """
    found: dict[str, list[str]] = {}
    density = {name: layout.kept / layout.size for name, layout in layouts.items() if layout.kept is not None}
    for name in sorted(density, key=density.__getitem__):
        found.setdefault(GAPS if density[name] < FEW else MASKS, []).append(name)
    return found


def unpack(layouts: Mapping[str, Layout], streams: Mapping[str, Tensor], file: str) -> Tensors:
    """Invert `pack`, bit by bit. `layouts` alone decides how much memory is taken, never what a stream claims.

    Raises DamagedError, naming `file`, where they do not fit together.
    """
    masks = _unpack_masks(layouts, streams, file)
    kinds = {layout.dtype for layout in layouts.values()}
    if streams.keys() - {MASKS, GAPS} != kinds:
        raise DamagedError(f"{file}: it must hold values of {sorted(kinds)}, got {sorted(streams)}")
    values = {kind: _unpack_values(kind, layouts, streams[kind], file) for kind in kinds}
    place = dict.fromkeys(kinds, 0)
    found: Tensors = {}
    for name, layout in layouts.items():
        begin = place[layout.dtype]
        place[layout.dtype] = end = begin + layout.stored
        flat = values[layout.dtype][begin:end]
        if layout.kept is not None:
            flat = torch.zeros(layout.size, dtype=flat.dtype).masked_scatter_(masks[name], flat)
        found[name] = flat.reshape(layout.shape)
    return found


def _unpack_masks(layouts: Mapping[str, Layout], streams: Mapping[str, Tensor], file: str) -> Tensors:
    found: Tensors = {}
    for stream, names in _masked(layouts).items():
        if stream not in streams:
            raise DamagedError(f"{file}: the masks of {', '.join(names[:3])} are missing")
        sizes = [layouts[name].size for name in names]
        count, kept = sum(sizes), sum(layouts[name].stored for name in names)
        if stream == GAPS:
            flags = decode_gaps(_decompress(streams[GAPS], gap_bytes(kept, count), file).numpy(), count)
        else:
            flags = np.unpackbits(_decompress(streams[MASKS], -(-count // 8), file).numpy(), count=count).astype(bool)
        if flags is None:
            raise DamagedError(f"{file}: a mask keeps values beyond the {count} that there are")
        found |= zip(names, torch.from_numpy(flags).split(sizes), strict=True)
    for name, mask in found.items():
        if (kept := int(mask.count_nonzero())) != layouts[name].kept:
            raise DamagedError(f"{file}: {name!r} has {layouts[name].kept} values, its mask keeps {kept}")
    return found


def _unpack_values(kind: str, layouts: Mapping[str, Layout], stream: Tensor, file: str) -> Tensor:
    dtype = getattr(torch, kind, None)
    if not isinstance(dtype, torch.dtype):
        raise DamagedError(f"{file}: {kind!r} is not a type of values")
    count = sum(layout.stored for layout in layouts.values() if layout.dtype == kind)
    planes = _decompress(stream, count * dtype.itemsize, file)
    flat = planes.view(dtype.itemsize, count).t().contiguous().view(-1)
    return _rotated(flat.view(torch.float32), -1) if dtype is torch.float32 and count else flat.view(dtype)


def _planes(flat: Tensor) -> Tensor:
    """Return the first byte of every value, then the second, ...; the exponent of float32 makes one byte."""
    flat = _rotated(flat, 1) if flat.dtype is torch.float32 and flat.numel() else flat
    return flat.view(torch.uint8).view(flat.numel(), flat.element_size()).t().contiguous().view(-1)


def _rotated(flat: Tensor, places: int) -> Tensor:
    """Return float32 values with their bits rotated to the left: by 1, the sign goes from the front to the end."""
    bits = flat.numpy().view(np.uint32)
    left = places % 32
    return torch.from_numpy(((bits << left) | (bits >> (32 - left))).view(np.float32))


def _compress(data: Tensor) -> Tensor:
    import pyarrow

    packed = pyarrow.Codec("zstd", ZSTD_LEVEL).compress(data.numpy(), asbytes=True)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _decompress(stream: Tensor, size: int, file: str) -> Tensor:
    import pyarrow

    try:
        data = pyarrow.Codec("zstd").decompress(stream.numpy(), decompressed_size=size, asbytes=True)
    except (pyarrow.ArrowException, OSError, TypeError) as error:
        raise DamagedError(f"{file}: a stream is not {size} bytes compressed by zstd ({error})") from error
    if len(data) != size:
        raise DamagedError(f"{file}: a stream must have {size} bytes, got {len(data)}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
