"""Find the constants of a model: the values that its function loads from a file or computes, not draws by seed.

The seed decides the other values, and model, options and seed are in every key; their last bits may differ between
kinds of processors. A constant may be the content of a file, so nothing else in a key determines it.
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

DRAWN_AGAIN = ("model", "drawn again")  # from which the seed of a model's second build is derived
STEP = 1e-2  # rounding step of a floating-point buffer, as a fraction of its norm
DIRECTIONS = 8  # number of directions onto which a buffer is projected
ROW = 16  # minimum number of values in a row that cannot agree by chance


def constants_of(one: nn.Module, other: nn.Module) -> dict[str, str]:
    """Return {name: digest} of each tensor that two builds of one model share although their seeds differ.

    For a tensor that is partly loaded and partly drawn, the digest covers the rows (along the first dimension) that
    both builds share. The digest of a parameter or of integers is the sha256 of its bits. A floating-point buffer is
    often computed, such as a table of sines, and its last bits differ between processors: its digest is rounded (see
    `_rounded`). So two loaded buffers have different digests only if they differ by about 1 % of their norm.

    It does not find loaded weights to which the seed adds noise, nor single loaded values in a row or a vector whose
    other values are drawn.
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
    """Raise ConfigError unless these two builds of `model`, with different seeds, share the `constants`."""
    found = constants_of(one, other)
    if wrong := [name for name, digest in constants.items() if not _is_same(found.get(name, ""), digest)]:
        raise ConfigError(
            f"model {model!r} must start with the same weights on every node, but "
            f"{', '.join(wrong[:5])} differ from those of the node that started the job: give every node the same "
            "file, and start the job again if it changed"
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """Yield (name, (values, whether it is a buffer)) of every parameter and buffer."""
    for name, parameter in module.named_parameters():
        yield name, (_dense(parameter), False)
    for name, buffer in module.named_buffers():
        yield name, (_dense(buffer), True)


def _dense(tensor: Tensor) -> Tensor:
    """Return the values as a dense tensor of real numbers."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _shared(one: Tensor, other: Tensor) -> tuple[Tensor, str] | None:
    """Return the rows that two tensors share, and a digest of their numbers ("" for all); None if they share no row."""
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
    """Return whole numbers that almost never change if only the last bits of `tensor` change.

    They are its components along fixed directions as fractions of its norm, in units of `STEP`, and the logarithm of
    the norm. Rounding every value would not work: among a million values some are always halfway between two steps.
    """
    values = tensor.double().reshape(-1).numpy()
    finite = np.isfinite(values)
    not_finite = (
        "" if finite.all() else " " + hashlib.sha256(np.sign(np.where(finite, 0, values)).tobytes()).hexdigest()
    )
    values = np.where(finite, values, 0)
    largest = float(np.abs(values).max(initial=0))
    if largest == 0:
        return f"zeros {len(values)}{not_finite}"
    values = values / largest
    norm = float(np.sqrt(np.square(values).sum()))
    directions = np.random.RandomState(0)  # numpy guarantees that this stream never changes
    numbers = [math.log(largest) + math.log(norm)]
    for _ in range(DIRECTIONS):
        numbers.append(math.sqrt(3) * float((directions.random_sample(len(values)) * 2 - 1) @ values) / norm)
    return " ".join(str(round(number / STEP)) for number in numbers) + not_finite


def _is_same(one: str, other: str) -> bool:
    """Return whether two digests belong to the same tensor: rounded numbers may differ by 1."""
    mine, theirs = one.split(), other.split()
    return len(mine) == len(theirs) and all(map(_is_near, mine, theirs))


def _is_near(one: str, other: str) -> bool:
    try:
        return one == other or (len(one) < 64 and abs(int(one) - int(other)) <= 1)
    except ValueError:
        return False
