"""Start the workers of a group in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import torch.multiprocessing


def start_together(worker: Callable[[int, str], None], folder: str, count: int) -> None:
    """Run `worker(rank, folder)` in `count` processes; an error in one of them is raised here.

    They are forked from a server that has imported torch once and has not used it: autograd does not survive a fork of
    the test process, and each process that is spawned imports torch for seconds.
    """
    multiprocessing.set_forkserver_preload(["orchestrator.training.trainer"])
    torch.multiprocessing.start_processes(worker, (folder,), nprocs=count, start_method="forkserver")
