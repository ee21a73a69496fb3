"""Machines that die, leave and join, a head that dies, a storage that is cut off: what each costs (`make faults`).

Several raylets on one machine stand for several machines: what dies with a machine is killed together, by SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import job_runs
import psutil
import pytest
from fault_table import LONG, OFTEN, SELDOM, Events, check_ledger, cost, events_of, in_mid_round, places, restarts, row
from ray.cluster_utils import Cluster
from ray_head import RAY

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("fault_table")]


@dataclass
class Machines:
    """A head without CPUs and nodes with one each."""

    cluster: Cluster
    nodes: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def node_of(self, process: psutil.Process) -> Any:
        """The node, the head too, that `process` runs on."""
        parents = {parent.pid for parent in process.parents()}
        return next(node for node in [*self.nodes, self.cluster.head_node] if raylet(node) in parents)

    def events(self) -> Events:
        logs = Path(self.cluster.head_node.get_session_dir_path()) / "logs"
        return events_of(logs.glob("worker-*.err"))


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def kill(node: Any) -> float:
    """SIGKILL for all processes of a node at once; returns when."""
    processes = [info.process.pid for infos in node.all_processes.values() for info in infos]
    alive = [psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)]
    alive += psutil.Process(raylet(node)).children(recursive=True)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return time.time()


@contextlib.contextmanager
def started(nodes: int) -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # as this process read it when it imported Ray
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (job_runs.REPOSITORY, Path(__file__).parents[1]))))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        machines = Machines(Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
        try:
            for _ in range(nodes):
                machines.add()
            machines.cluster.wait_for_nodes()
            yield machines
        finally:
            for node in [*machines.nodes, machines.cluster.head_node]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kill(node)


def job(
    tmp_path: Path,
    machines: Machines,
    storage: str,
    *args: str,
    env: dict[str, str] | None = None,
    checkpoints: tuple[str, str] = OFTEN,
) -> Any:
    ray = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    arguments = ("--storage", storage, "--address", machines.address, *checkpoints, *args)
    return job_runs.running(tmp_path / "log", *arguments, env=LONG | ray | (env or {}))


def test_a_worker_node_dies(tmp_path, s3_uri):
    with started(3) as machines, job(tmp_path, machines, s3_uri, "--workers", "2") as run:
        in_mid_round(run, s3_uri)
        fault = kill(machines.node_of(run_worker(machines)))
        assert run.wait() == 0, run.output()
        assert "workers started again" in run.output()
        seconds, repeated = cost(machines.events(), fault)
    check_ledger(s3_uri, [2, 1])
    assert repeated < 10
    row("a worker's node dies", "the group started again with another node", seconds, repeated)


def run_worker(machines: Machines) -> psutil.Process:
    """A training worker that is not on the driver actor's node."""
    taken = raylet(machines.node_of(actor(machines, "ray::DriverActor")))
    workers = [p for node in machines.nodes for p in children(node, "ray::RayTrainWorker") if raylet(node) != taken]
    assert workers
    return workers[0]


def everywhere(machines: Machines, title: str) -> list[psutil.Process]:
    return [p for node in [*machines.nodes, machines.cluster.head_node] for p in children(node, title)]


def actor(machines: Machines, title: str) -> psutil.Process:
    return everywhere(machines, title)[0]


def children(node: Any, title: str) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return job_runs.titled(psutil.Process(raylet(node)).children(recursive=True), title)
    return []


def off_the_head(machines: Machines, run: Any) -> psutil.Process:
    """The driver actor. Ray places actors without CPUs where it likes: from the head, which a test of its own kills,
    it is driven away by killing it."""
    for _ in range(20):
        found = actor(machines, "ray::DriverActor")
        if machines.node_of(found) is not machines.cluster.head_node:
            return found
        found.kill()
        run.wait_for(
            lambda gone=found.pid: [p for p in everywhere(machines, "ray::DriverActor") if p.pid != gone],
            "the actor is started again",
        )
    raise AssertionError("the actor was started again on the head 20 times")


def test_the_driver_actors_node_dies(tmp_path, s3_uri):
    """Its job's script runs on the head."""
    with started(3) as machines, job(tmp_path, machines, s3_uri, "--workers", "2") as run:
        in_mid_round(run, s3_uri)
        fault = kill(machines.node_of(off_the_head(machines, run)))
        assert run.wait() == 0, run.output()
        events = machines.events()
    seconds, repeated = cost(events, fault)
    regrouped = bool(restarts(events, fault))
    check_ledger(s3_uri, [2, 1] if regrouped else [1, 1])
    assert repeated < 10
    what = "the actor, and the group, started again elsewhere" if regrouped else "the actor started again elsewhere"
    row("the driver actor's node dies", what, seconds, repeated)


def test_a_node_is_drained_with_notice(tmp_path, s3_uri):
    """Checkpoints are hours apart: those that there are were made because of the notice."""
    with (
        started(2) as machines,
        job(tmp_path, machines, s3_uri, "--workers", "1:2", env={"EPOCHS": "40"}, checkpoints=SELDOM) as run,
    ):
        run.wait_for(lambda: [e for e in machines.events() if e.get("epochs_done") == 4], "some epochs are done")
        assert not places(open_store(s3_uri))
        node = machines.node_of(run_worker(machines))
        command = [RAY, "drain-node", "--address", machines.address, "--node-id", node.node_id]
        command += [
            "--reason",
            "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message",
            "spot",
            "--deadline-remaining-seconds",
        ]
        asked = time.time()
        subprocess.run([*command, "20"], check=True, capture_output=True, timeout=60)
        notice = time.time()
        time.sleep(10)
        fault = kill(node)
        assert run.wait() == 0, run.output()
        seconds, repeated = cost(machines.events(), fault)
        saved = [e["at"] for e in machines.events() if e["message"] == "checkpoint" and e["at"] < fault]
        assert saved
        assert asked < min(saved) < notice + 6, "a checkpoint on notice: Ray looks for one every two seconds, so do we"
        assert len(saved) > 1
    assert 0 < repeated < 5, "and others until the node goes, so that little is lost"
    check_ledger(s3_uri, [2, 1])
    assert Ledger(open_store(s3_uri)).records()[0].workers == 1
    row("a node is drained, gone 10 s later", "checkpoint on notice, then on with one worker of two", seconds, repeated)


def test_a_node_joins(tmp_path, s3_uri):
    with started(1) as machines, job(tmp_path, machines, s3_uri, "--workers", "1:2", env={"EPOCHS": "70"}) as run:
        in_mid_round(run, s3_uri)
        alone = actor(machines, "ray::RayTrainWorker")
        machines.add()
        joined = time.time()
        run.wait_for(lambda: not alone.is_running(), "the smaller group is ended")
        ended = time.time()
        assert run.wait() == 0, run.output()
        (seconds, _), (_, repeated) = (cost(machines.events(), since) for since in (joined, ended))
        assert "images/s on 2 worker(s)" in run.output()
    records = Ledger(open_store(s3_uri)).records()
    assert records[-1].workers == 2
    assert 0 < repeated < 10, "the group does not know that it ends, so the last checkpoint is the last one in time"
    row("a node joins an elastic run", "the group started again, larger (Ray looks every 60 s)", seconds, repeated)


def test_the_head_dies_and_the_job_is_submitted_again(tmp_path, s3_uri):
    with started(2) as machines, job(tmp_path, machines, s3_uri, "--workers", "2") as run:
        in_mid_round(run, s3_uri)
        before = sorted(places(open_store(s3_uri)))[-1]
        fault = time.time()
        for node in [machines.cluster.head_node, *machines.nodes]:
            kill(node)
        assert run.wait() != 0
        events = machines.events()
    with started(2) as machines, job(tmp_path, machines, s3_uri, "--workers", "2") as run:
        assert run.wait() == 0, run.output()
        events += machines.events()
    assert f"{restarts(events, fault)[0]['epochs_done']:06d}" >= before[:6]
    seconds, repeated = cost(events, fault)
    check_ledger(s3_uri, [2, 1])
    assert repeated < 10
    row("the head and all nodes die", "the job submitted again to a new cluster", seconds, repeated)


def test_the_storage_is_cut_off_for_thirty_seconds(tmp_path, s3_uri, fault_proxy):
    with started(2) as machines, job(tmp_path, machines, s3_uri, "--workers", "2") as run:
        in_mid_round(run, s3_uri)
        fault_proxy.cut_off(30.0)
        fault = time.time()
        assert run.wait() == 0, run.output()
        assert "workers started again" not in run.output()
        seconds, repeated = cost(machines.events(), fault)
        meanwhile = [e for e in machines.events() if fault < e["at"] < fault + 30]
        assert any("trying again" in e["message"] and e["process"] == "worker 0" for e in meanwhile), (
            "a checkpoint met the outage"
        )
    check_ledger(s3_uri, [1, 1])
    row("the storage is cut off for 30 s", "waited out, training goes on meanwhile", seconds, repeated)


def test_two_jobs_on_one_experiment(tmp_path, s3_uri):
    (tmp_path / "second").mkdir()
    with (
        started(2) as machines,
        job(tmp_path, machines, s3_uri, "--workers", "1") as first,
        job(tmp_path / "second", machines, s3_uri, "--workers", "1") as second,
    ):
        assert first.wait() == 0, first.output()
        assert second.wait() == 0, second.output()
        waited = [run.output() for run in (first, second) if "is being trained by" in run.output()]
        assert waited
        epochs = [(e["round_key"], e["epochs_done"]) for e in machines.events() if e["message"] == "epoch done"]
        assert len(epochs) == len(set(epochs)) == 2 * 25, "no epoch was trained twice"
    check_ledger(s3_uri, [1, 1])
    row("two jobs on one experiment", "one waits for the other's rounds", None, 0.0)
