"""A cluster that an autoscaler grows from a head without CPUs, as on Kubernetes; its nodes are raylets here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import job_runs
import pytest
from s3_server import HOST, free_ports
from waiting import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# What a provider that is none of Ray's has no defaults for.
COMMANDS = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
FILES = ("cluster_synced_files", "rsync_exclude", "rsync_filter")
HEAD_ID = "f" * 51 + "00000"  # what Ray's provider of such nodes calls the head
CONFIG = {
    "cluster_name": "from-zero",
    "max_workers": 2,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
    },
    "auth": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    "docker": {},
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    **{f"{name}_commands": [] for name in COMMANDS},
    **{name: [] for name in FILES},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
}
ASK = """
import sys, time, ray
from orchestrator.distributed import autoscaler, cluster, tuner
from orchestrator.distributed.deployment import Workers
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.storage.opening import open_store
cluster.connect(sys.argv[1])
while not autoscaler.is_present():
    time.sleep(0.1)
try:
    cluster.check_storage_is_shared(open_store("./runs"))
except ConfigError as error:
    print(error)
for count, gpus, wait in (("2:9", 0.0, 30), ("3", 0.0, 0), ("1", 1.0, 0)):
    try:
        cluster.check_capacity(Workers.parse(count, 1.0, gpus), wait_seconds=wait)
        print(count, "fits")
    except ResourceError as error:
        print(error)
asked = (("1", 5), ("1", 1), ("2", 5))
print([tuner.concurrent_paths(Workers.parse(count, 1.0, 0.0), paths) for count, paths in asked])
print(cluster.with_gpus(Workers.parse("2", 1.0, 0.0)).gpus, "GPU")
ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=300)
print("a node came")
"""


def test_what_the_autoscaler_may_add_counts_as_there(tmp_path):
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    port, agent = free_ports(2)
    provider = {**CONFIG["provider"], "gcs_address": f"{HOST}:{port}"}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "provider": provider}))
    head = ("start", "--head", "--block", "--num-cpus=0", "--include-dashboard=false", f"--port={port}")
    head += (f"--node-ip-address={HOST}", f"--dashboard-agent-listen-port={agent}")
    head += (f"--autoscaling-config={tmp_path / 'config.json'}",)
    ray = Path(sys.executable).with_name("ray")
    with job_runs.running(tmp_path / "head.log", *head, script=ray, env=environment) as cluster:
        cluster.wait_for(lambda: "Ray runtime started" in cluster.output(), "the head is up")
        ours = {name: environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        asked = subprocess.run(
            [sys.executable, "-c", ASK, f"{HOST}:{port}"],
            env={**others, **ours, "PYTHONPATH": str(job_runs.REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert asked.returncode == 0, asked.stderr
    folder, fits, three, gpu, paths, without, came = asked.stdout.splitlines()
    assert fits == "2:9 fits"
    assert three.startswith("3 workers of 1 CPU each were asked for, and the cluster holds")
    assert gpu.startswith("1 workers of 1 CPU and 1 GPU each were asked for, and the cluster holds 0 of them")
    assert "is a local folder, and the nodes that the autoscaler adds do not share it: pass --storage s3:" in folder
    assert paths == "[2, 1, 1]", "as many as it may become large enough for"
    assert (without, came) == ("0.0 GPU", "a node came")
