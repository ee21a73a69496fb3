"""A cluster of two nodes: what fits on it, and that a local folder is no storage for it."""

from __future__ import annotations

import inspect
import math
import os
import re
import threading
import time
from unittest import mock

import job_runs
import psutil
import pytest
import ray
import tiny
from ray._private import services
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.distributed import cluster, path_trainer
from orchestrator.distributed.actor import answer
from orchestrator.distributed.deployment import Workers
from orchestrator.distributed.network import interface_of, use_own_address
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.problem import load_problem
from orchestrator.storage.opening import open_store

pytestmark = [pytest.mark.ray, pytest.mark.own_ray]


@pytest.fixture(scope="module")
def two_nodes():
    """A head with one CPU and a node with two, each a raylet of its own."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    cluster.connect(nodes.address)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_a_local_folder_is_refused_and_s3_is_not(two_nodes, tmp_path):
    with pytest.raises(ConfigError, match=r"the 2 nodes of this cluster do not share it: pass --storage s3://"):
        cluster.check_storage_is_shared(open_store(str(tmp_path)))
    cluster.check_storage_is_shared(open_store("s3://bucket/runs"))


def test_nothing_on_a_node_that_came_later_writes_to_its_own_disk(two_nodes, tmp_path):
    home = ray.get_runtime_context().get_node_id()
    check = ray.remote(num_cpus=0)(cluster.check_folder_is_here)
    drivers = [
        path_trainer.start_driver(tiny.EXPERIMENT, str(tmp_path), load_problem(tiny.EXPERIMENT)[0]) for _ in range(2)
    ]
    where = lambda actor: ray.get_runtime_context().get_node_id()  # noqa: E731
    assert {ray.get(driver.__ray_call__.remote(where)) for driver in drivers} == {home}
    away = NodeAffinitySchedulingStrategy(two_nodes.list_all_nodes()[1].node_id, soft=False)
    for where, uri in ((NodeAffinitySchedulingStrategy(home, soft=False), str(tmp_path)), (away, "s3://bucket/runs")):
        ray.get(check.options(scheduling_strategy=where).remote(open_store(uri), home))
    with pytest.raises(
        ConfigError, match=r"^storage .* is a local folder, and a part of the job was placed on another node"
    ):
        answer(check.options(scheduling_strategy=away).remote(open_store(str(tmp_path)), home))


@pytest.mark.parametrize(
    ("count", "cpus", "gpus", "holds"),
    [("3", 1.0, 0.0, None), ("4", 1.0, 0.0, 3), ("2", 2.0, 0.0, 1), ("1", 1.5, 0.0, None), ("1", 1.0, 1.0, 0)],
)
def test_workers_must_fit_node_by_node(two_nodes, count, cpus, gpus, holds):
    workers = Workers.parse(count, cpus, gpus)
    if holds is None:
        cluster.check_capacity(workers, wait_seconds=0)
        return
    with pytest.raises(ResourceError, match=rf"the cluster holds {holds} of them: it has 3 CPU and 0 GPU on 2 node"):
        cluster.check_capacity(workers, wait_seconds=0)


def test_an_elastic_group_needs_room_for_its_least(two_nodes):
    cluster.check_capacity(Workers.parse("2:50", 1.0, 0.0), wait_seconds=0)


def test_no_gpu_is_asked_for_where_there_is_none(two_nodes):
    assert cluster.with_gpus(Workers.parse("2", 1.0, 0.0)).gpus == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "[fe80::1%lo]:1", "head..x:1"])
def test_an_address_where_nobody_answers_is_told(address):
    with pytest.raises(ResourceError, match=rf"no Ray cluster answers at {re.escape(address)} \("):
        cluster.connect(address)


def test_auto_is_the_cluster_of_the_environment_or_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ResourceError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 \("):
        cluster.connect("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    refused = ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379.")
    nobody = ConnectionError("Could not find any running Ray instance. Please specify the one to connect to.")
    # Really looking would find the clusters of other tests; so at least these are the words of the Ray that is here.
    assert "Could not find any running Ray instance. " in inspect.getsource(services)
    for error, words in ((refused, "refuses this process"), (nobody, "no Ray cluster runs on this machine")):
        monkeypatch.setattr(ray, "init", mock.Mock(side_effect=error))
        with pytest.raises(ResourceError, match=words):
            cluster.connect("auto")


def test_a_local_ray_that_cannot_start_is_told_with_the_way_out(tmp_path):
    """In a process of its own: this one has joined a cluster."""
    environment = {"RAY_TMPDIR": str(tmp_path / ("long" * 20))}
    code, output = job_runs.run(tmp_path / "log", "--storage", "./runs", env=environment)
    assert code == 1
    assert re.search(r"error: Ray does not start on this machine \(.*short path; set RAY_TMPDIR, now ", output), output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "address", ["head", "http://127.0.0.1:8265", "ray://head:10001", "head:0", "head:65536", "::1:6379"]
)
def test_what_cannot_be_an_address_is_told(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=rf"must be HOST:PORT of a Ray head.* got '{re.escape(address)}'"):
        cluster.connect(None)


def test_gloo_listens_at_the_address_that_the_cluster_knows_a_node_by(two_nodes, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "the user's")
    use_own_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "the user's"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    use_own_address()
    addresses = [one.address for one in psutil.net_if_addrs()[os.environ["GLOO_SOCKET_IFNAME"]]]
    assert ray.util.get_node_ip_address() in addresses


def test_an_address_that_this_machine_does_not_have_is_at_no_interface():
    assert interface_of("203.0.113.7") is None
    assert interface_of("127.0.0.1") in psutil.net_if_addrs()


@ray.remote(num_cpus=0)
class Slow:
    """A driver whose workers need some seconds for their checkpoint."""

    def __init__(self, seconds):
        self._seconds, self._asked = seconds, None

    def stop(self):
        self._asked = self._asked or time.monotonic()
        return time.monotonic() - self._asked > self._seconds


def test_a_stop_waits_for_each_driver_whatever_became_of_the_others(two_nodes):
    slow, dead = Slow.remote(2), Slow.remote(2)
    ray.get(dead.stop.remote())
    ray.kill(dead)
    began = time.monotonic()
    path_trainer.stop([dead, slow], threading.Event())
    assert time.monotonic() - began > 2
    late = threading.Event()
    threading.Timer(0.5, late.set).start()
    path_trainer.stop([Slow.remote(math.inf)], late)  # when it is too late nobody is waited for
