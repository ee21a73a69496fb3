"""Compute with all workers that train together: one process, or the ranks of torch.distributed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# How long a worker polls for the others before it sleeps: in short steps, waking up takes longer than the wait.
_AWAKE_SECONDS = 0.02
_ALONE = ContextVar("alone", default=False)

P = ParamSpec("P")
R = TypeVar("R")


class PeerError(RuntimeError):
    """A worker cannot reach the others: one of them died, or the network between them failed."""


def _collective(call: Callable[P, R]) -> Callable[P, R]:
    """Have `call` raise PeerError where the backend, whose errors have no type of their own, fails."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except RuntimeError as error:
            raise PeerError(f"{call.__name__}: {' '.join(str(error).split())}") from error

    return wrapped


@contextmanager
def alone() -> Iterator[None]:
    """Have this process compute as the only worker: nothing inside waits for the others, or is seen by them."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def in_group() -> bool:
    """Return whether this process computes together with others."""
    return dist.is_initialized() and not _ALONE.get()


def rank() -> int:
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    return dist.get_world_size() if in_group() else 1


@_collective
def sum_over_workers(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all workers, in place, and return it; every worker must call it."""
    if world_size() > 1:
        _wait(dist.all_reduce(tensor, async_op=True))
    return tensor


def divisor(count: Tensor) -> Tensor:
    """Return `count` as what a sum is divided by: 1 in place of 0, as padding alone has the loss and gradient 0."""
    return torch.where(count > 0, count, 1)


class Computed(Protocol):
    """A metric that adds up over the workers what each has seen, when it is asked for its value."""

    def compute(self) -> Tensor: ...


@_collective
def value_of(metric: Computed) -> float:
    """Return the value of a metric; every worker must call it."""
    return float(metric.compute())


@_collective
def same_everywhere(values: Sequence[int], device: torch.device) -> bool:
    """Return whether every worker holds the same `values`."""
    both = torch.tensor([values, [-value for value in values]], device=device)
    if world_size() > 1:
        dist.all_reduce(both, op=dist.ReduceOp.MIN)
    return bool((both[0] == -both[1]).all())


@_collective
def gather(values: Tensor) -> Tensor:
    """Return the `values` (n,) of all workers, as (workers, n), on each of them."""
    if world_size() == 1:
        return values.unsqueeze(0)
    rows = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)


@_collective
def from_rank_zero(values: list[int], device: torch.device) -> list[int]:
    """Return the `values` of rank 0 on every worker."""
    tensor = torch.tensor(values, device=device)
    if world_size() > 1:
        _wait(dist.broadcast(tensor, src=0, async_op=True))
    result: list[int] = tensor.tolist()
    return result


@_collective
@torch.no_grad()
def start_alike(module: nn.Module) -> None:
    """Give every worker the parameters and buffers of rank 0: a user's model may ignore the seed."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole.view(-1).view(torch.uint8), src=0)  # some types are known to no backend
            tensor.copy_(whole)


def data_parallel(module: nn.Module) -> nn.Module:
    """Return `module`; on GPUs wrapped, so that gradients are averaged while they are computed.

    A step may leave parameters out, as a branch that is not taken does. Wrapped anew for every epoch:
    DistributedDataParallel reorders its buckets after its first step.
    """
    if not _averages_in_backward():
        return module
    return DistributedDataParallel(
        module, forward_sync_buffers=False, init_sync=False, gradient_as_bucket_view=True, find_unused_parameters=True
    )


def average_gradients(module: nn.Module) -> None:
    """Replace the gradient of every trained parameter by its mean over the workers; a missing gradient counts as zero.

    This is one message: on CPUs no computation could overlap with it, and a step of several networks has one
    gradient at its end. What `data_parallel` has wrapped is averaged already.

    Its order of summation is the same in every step, so training that resumes in mid-epoch gives the same bits.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:  # of a branch that was not taken: zero, for any number of workers
            parameter.grad = torch.zeros_like(parameter)
    if world_size() == 1 or isinstance(module, DistributedDataParallel):
        return
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
    parts = sum_over_workers(flat.div_(world_size())).split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = _laid_out_as(parameter, part.view_as(parameter))


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return `gradient` in the memory layout of `parameter`: a fused optimizer reads both in order, without strides."""
    if (gradient.stride(), gradient.dtype) == (parameter.stride(), parameter.dtype):
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _averages_in_backward() -> bool:
    return world_size() > 1 and dist.get_backend() != "gloo"


def _wait(work: dist.Work | None) -> None:
    assert work is not None  # it is None only outside the group
    _stay_awake(work)
    work.wait()


def _stay_awake(work: dist.Work) -> None:
    deadline = time.perf_counter() + _AWAKE_SECONDS
    while not work.is_completed() and time.perf_counter() < deadline:
        os.sched_yield()


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return the buffers that each worker may have computed from its own part of the batches."""
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def average_over_workers(statistics: Sequence[Tensor]) -> None:
    """Replace `statistics` by their mean over the workers; in float64, so that equal ones do not change."""
    if world_size() > 1 and statistics:
        flat = torch.cat([tensor.reshape(-1).double() for tensor in statistics])
        put_flat(sum_over_workers(flat).div_(world_size()), statistics)


@torch.no_grad()
def put_flat(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy `flat` (n,) into `tensors` of n elements in all, one after another."""
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
