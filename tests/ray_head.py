"""A Ray cluster as people start one, `ray start --head`, on ports of its own and with a token."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from s3_server import HOST, free_ports
from waiting import PATIENCE_S, RAY_STARTS, wait_for

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass
class Head:
    """`environment` is what a client of this cluster needs; `log` is what `ray start` printed."""

    port: int
    dashboard: str
    metrics_port: int
    environment: dict[str, str]
    folder: Path
    log: Path

    def ray(self, *args: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the `ray` command against this cluster; what it printed is shown when it takes too long."""
        out, both = subprocess.PIPE, subprocess.STDOUT
        environment = self.environment | changes
        try:
            return subprocess.run(
                [RAY, *args], cwd=cwd, env=environment, stdout=out, stderr=both, text=True, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired as hung:  # whose output is bytes, whatever was asked for
            printed = (hung.output or b"").decode(errors="replace")
            raise AssertionError(f"still running after {PATIENCE_S:g} s:\n{printed}") from None

    def get(self, path: str) -> Any:
        """JSON of the dashboard."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        with urllib.request.urlopen(urllib.request.Request(self.dashboard + path, headers=headers), timeout=60) as page:
            return json.loads(page.read())

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics", timeout=60) as page:
            return str(page.read().decode())


@contextlib.contextmanager
def running_head(
    folder: Path, cwd: Path, environment: Mapping[str, str], cpus: int = 2, host: str = HOST
) -> Iterator[Head]:
    """Start a head whose jobs run in `cwd` with `environment`; it ends with everything that it started.

    Its token is RAY_AUTH_TOKEN of `environment`, or a new one.
    """
    ports = free_ports(7, host)
    token = environment.get("RAY_AUTH_TOKEN") or secrets.token_hex(16)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names += ("metrics-export-port", "runtime-env-agent-port", "ray-client-server-port")
    flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    kept = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_DISABLE_USAGE_STATS": "1"}
    kept |= RAY_STARTS
    kept["RAY_JOB_STOP_WAIT_TIME_S"] = "60"  # as in k8s/ and cluster.yaml
    kept["RAY_metrics_report_interval_ms"] = "1000"  # Ray's own are ten seconds
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"  # `python` of a job
    log = folder / "head.log"
    command = [RAY, "start", "--head", "--block", f"--num-cpus={cpus}", f"--temp-dir={folder}", *flags]
    command.append("--object-store-memory=200000000")  # a test reads all of it
    if host != HOST:
        command += [f"--node-ip-address={host}", f"--dashboard-host={host}"]
    with log.open("wb") as output:
        process = psutil.Popen(command, cwd=cwd, env=kept, stdout=output, stderr=output)
    dashboard = f"http://{host}:{ports[1]}"
    client = kept | {"RAY_API_SERVER_ADDRESS": dashboard, "RAY_ADDRESS": f"{host}:{ports[0]}"}
    head = Head(ports[0], dashboard, ports[4], client, folder, log)
    try:
        wait_for(
            lambda: _answers(head, ports[2], process), lambda: f"the Ray head answers; it said:\n{head.log.read_text()}"
        )
        yield head
    finally:
        processes = [process, *process.children(recursive=True)]
        for one in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(processes, timeout=20)


def _answers(head: Head, agent_port: int, process: psutil.Popen) -> bool:
    """Whether it takes jobs: the dashboard hands them to an agent, which starts later."""
    assert process.poll() is None, f"the Ray head ended; it said:\n{head.log.read_text()}"
    with contextlib.suppress(OSError):
        head.get("/api/jobs/")
        socket.create_connection((urlsplit(head.dashboard).hostname, agent_port), timeout=1).close()
        return True
    return False
