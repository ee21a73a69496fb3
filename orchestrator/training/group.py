"""The workers that train together: one process, or the ranks of torch.distributed, behind the same three calls."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# How long a worker stays awake for the others: in small steps, waking up costs more than waiting does.
_AWAKE_SECONDS = 0.02


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(tensor: Tensor) -> Tensor:
    """`tensor` summed over all workers, in place; every worker must call it."""
    if world_size() > 1:
        _wait(dist.all_reduce(tensor, async_op=True))
    return tensor


def same_everywhere(value: int, device: torch.device) -> bool:
    """Whether every worker holds the same `value`."""
    both = torch.tensor([value, -value], device=device)
    if world_size() > 1:
        dist.all_reduce(both, op=dist.ReduceOp.MIN)
    least, greatest = both[0].item(), -both[1].item()
    return bool(least == greatest)


@torch.no_grad()
def start_alike(module: nn.Module) -> None:
    """Give every worker rank 0's parameters and buffers, whatever a model of the user's was initialised from."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor, src=0)


def data_parallel(module: nn.Module) -> nn.Module:
    """`module` with gradients averaged over the workers.

    Wrapped anew for every epoch: DistributedDataParallel reorders its buckets after its first step, which changes
    the order of summation from three workers on, so a resumed epoch must begin with the buckets of a fresh one.
    """
    if world_size() == 1:
        return module
    parallel = DistributedDataParallel(
        module, forward_sync_buffers=False, init_sync=False, gradient_as_bucket_view=True
    )
    if dist.get_backend() == "gloo":
        parallel.register_comm_hook(None, lambda _, bucket: _average(bucket))
    return parallel


def _average(bucket: Any) -> torch.futures.Future[Tensor]:
    """DistributedDataParallel's averaging of one bucket; after the last one there is nothing to do but wait."""
    work = dist.all_reduce(bucket.buffer().div_(world_size()), async_op=True)
    if bucket.is_last():
        _stay_awake(work)
    return work.get_future().then(lambda future: future.value()[0])


def _wait(work: dist.Work | None) -> None:
    assert work is not None  # None is for a process outside the group
    _stay_awake(work)
    work.wait()


def _stay_awake(work: dist.Work) -> None:
    deadline = time.perf_counter() + _AWAKE_SECONDS
    while not work.is_completed() and time.perf_counter() < deadline:
        os.sched_yield()


def average_buffers(module: nn.Module) -> None:
    """Replace running statistics by their mean over the workers, each of which saw its own part of the batches."""
    if world_size() == 1:
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if buffers:
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        sum_over_workers(flat).div_(world_size())
        for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))
