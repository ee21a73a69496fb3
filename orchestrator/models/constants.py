"""Find the constants of a model: what its function loads from a file or computes, and does not draw by seed.

The seed decides the rest, and model, options and seed are in every key. The last bits of what is drawn may differ
between kinds of processors. A constant follows from nothing else in a key: it may be the content of a file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.train_state import raw_bytes

DRAWN_AGAIN = ("model", "drawn again")  # what the seed of a model's second build is derived from
STEP = 1e-2  # to which a floating-point buffer is rounded, as a fraction of its norm
DIRECTIONS = 8  # along which a buffer is measured
ROW = 16  # values of a row that cannot agree by chance


def constants_of(one: nn.Module, other: nn.Module) -> dict[str, str]:
    """Return a digest of each tensor that two builds of one model share although their seeds differ, by name.

    Of a tensor that is partly loaded and partly drawn, the rows (along its first dimension) that both builds share.
    The digest of a parameter or of integers is the sha256 of its bits. A floating-point buffer is often computed, such
    as a table of sines, and its last bits differ between processors: its digest is rounded (see `_rounded`). So a
    buffer that is loaded must differ by about 1 % of its norm to be another one.

    What is not seen: loaded weights with noise of the seed's added, and single values that are loaded into a row or a
    vector whose other values are drawn.
    """
    others = dict(_tensors(other))
    found = {}
    for name, (tensor, is_buffer) in _tensors(one):
        again = others.get(name, (None, is_buffer))[0]
        shared = None if again is None else _shared(tensor, again)
        if shared is not None:
            values, where = shared
            found[name] = where + (_rounded(values) if is_buffer and values.is_floating_point() else _exact(values))
    return found


def check_constants(one: nn.Module, other: nn.Module, constants: Mapping[str, str], model: str) -> None:
    """Raise ConfigError unless these two builds of `model`, by different seeds, share the `constants`."""
    found = constants_of(one, other)
    if wrong := [name for name, digest in constants.items() if not _is_same(found.get(name, ""), digest)]:
        raise ConfigError(
            f"model {model!r} must begin with the same weights on every node as where the job was started, but "
            f"{', '.join(wrong[:5])} differ here: give every node the same file, and start the job again if it changed"
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """Yield the name of every parameter and buffer, its values, and whether it is a buffer."""
    for name, parameter in module.named_parameters():
        yield name, (_dense(parameter), False)
    for name, buffer in module.named_buffers():
        yield name, (_dense(buffer), True)


def _dense(tensor: Tensor) -> Tensor:
    """Return the values as a plain tensor of real numbers."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _shared(one: Tensor, other: Tensor) -> tuple[Tensor, str] | None:
    """Return what two tensors share, and which rows these are ("" for all). None if that is nothing."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return None
    same = np.frombuffer(raw_bytes(one), np.uint8) == np.frombuffer(raw_bytes(other), np.uint8)
    if same.all():
        return one, ""
    if one.dim() < 2 or one[0].numel() < ROW:
        return None
    rows = torch.from_numpy(same.reshape(len(one), -1).all(1))
    return (one[rows], f"rows {_exact(rows)} ") if rows.any() else None


def _exact(tensor: Tensor) -> str:
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()


def _rounded(tensor: Tensor) -> str:
    """Return whole numbers that stay the same, as good as always, while only the last bits of `tensor` change.

    They are its components along fixed directions as fractions of its norm, in units of `STEP`, and the logarithm of
    the norm. Rounding every value would not do: of a million values some always lie where rounding tips over.
    """
    values = tensor.double().reshape(-1).numpy()
    finite = np.isfinite(values)
    odd = "" if finite.all() else " " + hashlib.sha256(np.sign(np.where(finite, 0, values)).tobytes()).hexdigest()
    values = np.where(finite, values, 0)
    largest = float(np.abs(values).max(initial=0))
    if largest == 0:
        return f"zeros {len(values)}{odd}"
    values = values / largest
    norm = float(np.sqrt(np.square(values).sum()))
    directions = np.random.RandomState(0)  # numpy promises this stream for ever
    numbers = [math.log(largest) + math.log(norm)]
    for _ in range(DIRECTIONS):
        numbers.append(math.sqrt(3) * float((directions.random_sample(len(values)) * 2 - 1) @ values) / norm)
    return " ".join(str(round(number / STEP)) for number in numbers) + odd


def _is_same(one: str, other: str) -> bool:
    """Whether two digests are of the same tensor: rounded numbers may differ by 1, where rounding tips over."""
    mine, theirs = one.split(), other.split()
    return len(mine) == len(theirs) and all(map(_is_near, mine, theirs))


def _is_near(one: str, other: str) -> bool:
    try:
        return one == other or (len(one) < 64 and abs(int(one) - int(other)) <= 1)
    except ValueError:
        return False
