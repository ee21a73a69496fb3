"""Make workers communicate through the address of a machine that the cluster knows."""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig


class OwnAddress(TorchConfig):  # type: ignore[misc]
    """Make Gloo listen at the node's own address.

    By default it uses the address of the machine's name. On Debian that is 127.0.1.1, which other machines cannot
    reach. (NCCL avoids the loopback interface by itself.)
    """

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_own_address)
        super().on_start(worker_group, backend_config)


def use_own_address() -> None:
    """Set Gloo's network interface in this process's environment, unless the user has set it."""
    if interface := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Return the name of the interface with this IP `address`, or None (behind network address translation)."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, has in interfaces if any(one.address == address for one in has)), None)
