"""The workers that train together: one process, or the ranks of torch.distributed, behind the same three calls."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(tensor: Tensor) -> Tensor:
    """`tensor` summed over all workers, in place; every worker must call it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_rank_zero(flag: bool, device: torch.device) -> bool:
    """Rank 0's `flag`, on every worker."""
    tensor = torch.tensor([int(flag)], device=device)
    if world_size() > 1:
        dist.broadcast(tensor, src=0)
    return bool(tensor.item())


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
    return DistributedDataParallel(module, forward_sync_buffers=False, init_sync=False, gradient_as_bucket_view=True)


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
