"""Sparse kernels of torch: equal to the dense layers, savable, and chosen only where the whole network gains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orchestrator.export import fast_kernels
from orchestrator.export.kernel_choice import MARGINS, _fastest, choose_kernels, times_by_turns
from orchestrator.export.sparse_layers import SparseConv2d, SparseLinear, SparseRows, as_sparse

CONVOLUTIONS = [
    nn.Conv2d(6, 4, 1),
    nn.Conv2d(6, 4, 1, stride=2, bias=False),
    nn.Conv2d(6, 4, 3, padding=1),
    nn.Conv2d(6, 4, (3, 1), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
]


@torch.no_grad()
def thinned(module: nn.Module, density: float = 0.1) -> nn.Module:
    """Return `module` in evaluation mode with most of its weights zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        if weight.dim() > 1:
            weight.mul_(torch.rand(weight.shape, generator=generator) < density)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=repr)
def test_a_sparse_convolution_is_the_convolution(layer: nn.Conv2d, samples: int) -> None:
    sparse = as_sparse(thinned(copy.deepcopy(layer), 0.3))
    assert isinstance(sparse, SparseConv2d)
    x = torch.randn(samples, 6, 9, 8)
    torch.testing.assert_close(sparse(x), thinned(copy.deepcopy(layer), 0.3)(x))
    torch.testing.assert_close(sparse(x.to(memory_format=torch.channels_last)), sparse(x))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sparse_linear_layer_is_the_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer = thinned(nn.Linear(5, 7, bias=bias), 0.4)
    sparse = as_sparse(layer)
    assert isinstance(sparse, SparseLinear)
    x = torch.randn(shape)
    torch.testing.assert_close(sparse(x), layer(x))
    assert (sparse.rows.dtype, sparse.columns.dtype) == (torch.int32, torch.int32)
    assert sparse.values.numel() == int(layer.weight.count_nonzero())  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv1d(4, 4, 3),
        nn.Linear(4, 4).half(),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    ],
)
def test_layers_without_such_a_kernel_stay(layer: nn.Module) -> None:
    assert as_sparse(layer) is None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.narrow, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.narrow(self.norm(self.conv(x)).relu()).flatten(1))  # type: ignore[no-any-return]


def network() -> nn.Module:
    torch.manual_seed(0)
    module = Net()
    module.norm.running_mean.normal_()  # type: ignore[union-attr,operator]
    return thinned(module, 0.2)


def clock(monkeypatch: pytest.MonkeyPatch, seconds_of: Callable[[nn.Module], float]) -> None:
    """Have every call take the seconds that `seconds_of` says of the module called, without calling it."""

    def times(prepared: Sequence[Callable[[], Any]], rounds: int, seconds: float = 0.0) -> list[list[float]]:
        found = []
        for prepare in prepared:
            calls: list[nn.Module] = []
            with monkeypatch.context() as patch:
                patch.setattr(nn.Module, "__call__", lambda self, x, calls=calls: calls.append(self))
                prepare()()
            found.append([seconds_of(calls[0])])
        return found

    monkeypatch.setattr("orchestrator.export.kernel_choice.times_by_turns", times)


def sparse_in(module: nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if isinstance(part, SparseRows)}


# How long each layer takes alone, sparse, for a second dense; and whole networks by their sparse layers.
ALONE = {"conv": 1.4, "narrow": 0.9, "fc": 0.3}


@pytest.mark.parametrize(
    ("whole", "chosen"),
    [
        ({(): 10.0, ("fc", "narrow"): 9.0, ("fc",): 8.0}, {"fc"}),
        ({(): 10.0, ("fc", "narrow"): 7.0, ("fc",): 8.0}, {"fc", "narrow"}),
        ({(): 10.0, ("fc", "narrow"): 10.5, ("fc",): 9.9}, set()),  # a gain of 1 % may be noise
    ],
)
def test_the_time_of_the_whole_network_decides(
    monkeypatch: pytest.MonkeyPatch, whole: dict[tuple[str, ...], float], chosen: set[str]
) -> None:
    module = network()
    sizes = {(8, 3 * 9): "conv", (8, 8): "narrow", (4, 128): "fc"}

    def seconds(called: nn.Module) -> float:
        if isinstance(called, SparseRows):
            return ALONE[sizes[called.size]]
        return whole[tuple(sorted(sparse_in(called)))] if isinstance(called, Net) else 1.0

    clock(monkeypatch, seconds)
    found = choose_kernels(module, torch.randn(2, 3, 4, 4))
    assert set(found.sparse) == sparse_in(found.module) == chosen
    assert (found.dense_seconds, found.seconds) == (10.0, whole[tuple(sorted(chosen))])
    assert len(MARGINS) == 3


def test_outputs_are_equal_and_the_state_is_savable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, x = network(), torch.randn(2, 3, 4, 4)
    clock(monkeypatch, lambda called: 1.0 if sparse_in(called) else 2.0)
    fast = fast_kernels(module, x)
    assert sparse_in(fast) == {"conv", "narrow", "fc"}
    assert isinstance(fast.norm, nn.Identity), "batch norm is folded"
    with torch.no_grad():
        expected = module(x)
        assert (fast(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert (fast(x[:1]) - expected[:1]).abs().max() <= 1e-5 * expected.abs().max(), "any number of samples"
    assert fast(x).shape == (2, 4), "outside of no_grad, too"
    save_file(fast.state_dict(), tmp_path / "state.safetensors")
    again = copy.deepcopy(fast)
    for tensor in again.state_dict().values():
        tensor.zero_()
    again.load_state_dict(load_file(tmp_path / "state.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(x), fast(x))
    assert sparse_in(module) == set(), "the given module is left as it is"


def test_a_dense_network_stays_dense() -> None:
    assert choose_kernels(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)).sparse == ()


def test_calls_are_timed_by_turns_and_not_their_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr("orchestrator.export.kernel_choice.time.perf_counter", lambda: now[0])

    def prepared(name: str, seconds: list[float]) -> Callable[[], Callable[[], None]]:
        left = iter(seconds)

        def run() -> None:
            order.append(name)
            now[0] += next(left)

        def prepare() -> Callable[[], None]:
            now[0] += 100
            return run

        return prepare

    taken = times_by_turns([prepared("a", [1.0, 5.0, 2.0, 3.0]), prepared("b", [9.0, 2.0, 8.0, 7.0])], 2)
    assert taken == [[5.0, 3.0], [2.0, 7.0]], "the first call of a turn is not timed"
    assert order == ["a", "a", "b", "b"] * 2
    (taken_longer,) = times_by_turns([prepared("c", [1.0] * 9)], 2, seconds=3.5)
    assert len(taken_longer) == 4, "rounds go on until they took so long"


DENSE = [10.0, 10.0, 11.0]


@pytest.mark.parametrize(
    ("other_layout", "sparse", "fastest"),
    [
        ([12.0, 12.0, 12.0], [5.0, 5.0, 6.0], 2),
        ([9.0, 9.0, 9.5], [8.9, 8.9, 9.0], 1),
        ([9.9, 9.9, 9.9], [20.0, 20.0, 20.0], 1),
        ([12.0, 12.0, 12.0], [5.0, 10.5, 12.0], 0),  # its shortest alone gains
        ([12.0, 12.0, 12.0], [9.9, 9.0, 9.0], 2),
    ],
)
def test_dense_kernels_stay_unless_others_clearly_gain(
    other_layout: list[float], sparse: list[float], fastest: int
) -> None:
    assert _fastest([DENSE, other_layout, sparse]) == fastest
