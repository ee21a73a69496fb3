"""A machine that is cut off from the network and lives on; an owner of claims that stalls, its clock a day wrong.

Part of `make faults`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import job_runs
import networks
import pytest
from fault_table import LONG, OFTEN, Events, check_ledger, cost, events_of, in_mid_round, row
from networks import Machine, Network
from ray_head import RAY, Head, running_head
from s3_server import running_s3_server
from waiting import wait_for

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("fault_table")]
WRONG_CLOCK = job_runs.REPOSITORY / "tests" / "wrong_clock"


@dataclass
class Cluster:
    """A head on this machine, and nodes with one CPU each on machines of their own; `storage` is on this machine."""

    network: Network
    head: Head
    storage: str

    def events(self) -> Events:
        return events_of((self.head.folder / "session_latest" / "logs").glob("worker-*.err"))


@pytest.fixture
def cluster(tmp_path_factory, tmp_path, s3_uri, monkeypatch) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("r")  # short: the names of Unix sockets have a limit
    with networks.network() as network, contextlib.ExitStack() as stack:
        server = stack.enter_context(running_s3_server(tmp_path / "s3.log", network.address))
        server.admin.create_bucket(Bucket="faults")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        paths = [str(job_runs.REPOSITORY), str(job_runs.REPOSITORY / "tests")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        head = stack.enter_context(running_head(folder, tmp_path, environment, cpus=0, host=network.address))
        for _ in range(3):
            _start_node(network.add(), head, tmp_path)
        yield Cluster(network, head, "s3://faults/runs")


def _start_node(machine: Machine, head: Head, folder: Path) -> None:
    command = [RAY, "start", "--block", "--num-cpus=1", f"--address={head.environment['RAY_ADDRESS']}"]
    command += [f"--node-ip-address={machine.address}"]
    path = folder / f"{machine.name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(machine.command(*command), env=head.environment, cwd=folder, stdout=log, stderr=log)
    wait_for(lambda: process.poll() is not None or "Ray runtime started" in path.read_text(), path.read_text)
    assert process.poll() is None, path.read_text()  # one at a time: they share a folder for their sockets


def test_a_machine_is_cut_off_from_the_network_and_lives_on(tmp_path, cluster):
    """Ray starts again elsewhere what it had; what lives on behind the cut can neither train on nor commit."""
    ray = {n: v for n, v in cluster.head.environment.items() if n.startswith("RAY_") and n != "RAY_ADDRESS"}
    arguments = ("--storage", cluster.storage, "--address", cluster.head.environment["RAY_ADDRESS"], *OFTEN)
    with job_runs.running(tmp_path / "log", *arguments, "--workers", "2", env=LONG | {"EPOCHS": "16"} | ray) as run:
        in_mid_round(run, cluster.storage)
        machines = cluster.network.machines
        victim = next(m for m in machines if job_runs.titled(m.processes(), "ray::RayTrainWorker"))
        victim.cut_off()
        fault = time.time()
        run.wait_for(lambda: went_on(cluster.events(), fault), "training goes on")
        victim.join()
        assert run.wait() == 0, run.output()
        seconds, repeated = cost(cluster.events(), fault)
    check_ledger(cluster.storage, [2, 1])
    assert repeated < 15
    what = "the group started again without it, which lives on"
    row("a machine is cut off from the network", what, seconds, repeated)


def went_on(events: Events, fault: float) -> bool:
    return any(e["message"] == "epoch done" and e["at"] > fault + 5 for e in events)


def test_the_clock_of_an_owner_that_stalls_is_wrong(tmp_path, tmp_path_factory, s3_uri):
    """The claim is taken over when the waiter, by its own clock, has seen no heartbeat for the length of the lease."""
    shift = 86_400.0
    paths = [WRONG_CLOCK, job_runs.REPOSITORY, job_runs.REPOSITORY / "tests"]
    wrong = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "CLOCK_SHIFT": str(shift)}
    folders = [tmp_path_factory.mktemp(name) for name in "ab"]
    logs = [folder.glob("ray/session_2*/logs/worker-*.err") for folder in folders]
    arguments = ("--storage", s3_uri, "--workers", "1", *OFTEN)

    def job(number: int, environment: dict[str, str]) -> contextlib.AbstractContextManager[job_runs.Job]:
        environment = LONG | {"EPOCHS": "50", "RAY_TMPDIR": str(folders[number])} | environment
        return job_runs.running(tmp_path / f"log{number}", *arguments, env=environment)

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(job(0, wrong))
        in_mid_round(first, s3_uri)
        second = stack.enter_context(job(1, {}))
        second.wait_for(lambda: "is being trained by" in second.output(), "the second waits for the first")
        for process in first.processes():
            process.suspend()
        stalled = time.time()
        assert second.wait() == 0, second.output()
        records = Ledger(open_store(s3_uri)).records()
        for process in first.processes():
            process.resume()
        woken = time.time()
        assert first.wait() == 0, first.output()
    assert Ledger(open_store(s3_uri)).records() == records
    own = events_of(logs[0])
    for event in own:
        event["at"] -= shift
    assert min(abs(event["at"] - stalled) for event in own) < 60, "the clock was wrong"
    again = [e for e in own if e["message"] == "epoch done" and e["at"] > woken - 1]
    assert len(again) < 15, "it finds that the round was taken over, and leaves it"
    seconds, repeated = cost(sorted([*own, *events_of(logs[1])], key=lambda event: event["at"]), stalled)
    check_ledger(s3_uri, [2, 1])
    assert 20 < seconds < 90, "a lease is 30 s"
    row("an owner stalls, its clock a day wrong", "taken over when its lease of 30 s had run out", seconds, repeated)
