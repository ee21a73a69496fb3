"""Machines on one network, as Linux network namespaces: what one sends to another crosses a link that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """A namespace; its link's far end is the interface `name` of this machine's own network."""

    name: str
    address: str

    def command(self, *args: str) -> list[str]:
        """`args`, to be run on it."""
        return ["ip", "netns", "exec", self.name, *args]

    def cut_off(self) -> None:
        """Nothing comes in or out any more; everything on it lives on and is told nothing."""
        _ip("link", "set", self.name, "down")

    def join(self) -> None:
        _ip("link", "set", self.name, "up")

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found


@dataclass
class Network:
    """A bridge that this machine is on too, at `address`."""

    name: str
    subnet: str
    machines: list[Machine] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.subnet}.1"

    def add(self) -> Machine:
        number = len(self.machines) + 2
        machine = Machine(f"{self.name}n{number}", f"{self.subnet}.{number}")
        self.machines.append(machine)
        _ip("netns", "add", machine.name)
        _ip("link", "add", machine.name, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
        _ip("link", "set", machine.name, "master", self.name, "up")
        inside = ("-netns", machine.name)
        _ip(*inside, "address", "add", f"{machine.address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        return machine


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network of its own, in a range that is kept for tests of networks (RFC 2544); skips where that is not allowed.

    What runs on its machines is killed at the end.
    """
    pid = os.getpid()
    made = Network(f"rw{pid}", f"198.{18 + pid // 254 % 2}.{pid % 254 + 1}")
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2)")
    try:
        _ip("netns", "add", made.name)
        _ip("netns", "del", made.name)
        _ip("link", "add", made.name, "type", "bridge")
    except OSError as error:
        pytest.skip(f"needs to make network namespaces, as root: {error}")
    try:
        _ip("address", "add", f"{made.address}/24", "dev", made.name)
        _ip("link", "set", made.name, "up")
        yield made
    finally:
        processes = [process for machine in made.machines for process in machine.processes()]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=20)
        for machine in made.machines:
            _ip("netns", "del", machine.name)
        _ip("link", "del", made.name)
