"""Which of a machine's addresses its workers talk to each other at: the one that the cluster knows it by."""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig


class OwnAddress(TorchConfig):  # type: ignore[misc]
    """Has Gloo listen at the node's own address.

    By itself it takes the address that the machine's name has, and on Debian that is 127.0.1.1: no other machine
    reaches it there. (NCCL leaves the loopback interface out by itself.)
    """

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_own_address)
        super().on_start(worker_group, backend_config)


def use_own_address() -> None:
    """Name the interface in this process's environment, unless the user did; Gloo looks there."""
    if interface := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Name of the interface that has this IP `address`; None behind a translation of addresses."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, has in interfaces if any(one.address == address for one in has)), None)
