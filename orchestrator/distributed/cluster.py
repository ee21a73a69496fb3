"""Find or start the cluster, and check that it can hold the requested workers before anything waits for them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import ray

from orchestrator.distributed import autoscaler, own_ray
from orchestrator.distributed.deployment import Deployment, Workers
from orchestrator.distributed.ray_private import TOKEN_LOGGER
from orchestrator.distributed.termination import Terminated
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.storage.store import Store

_NO_CLUSTER = "start one with `ray start --head`, or leave --address and RAY_ADDRESS unset for a local one"
_CHDIR, _TRACKING = "RAY_CHDIR_TO_TRIAL_DIR", "RAY_TRAIN_ENABLE_STATE_TRACKING"
_NOTICES, _NOTICE_LOOKS = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"
WAIT_SECONDS = 20.0  # for the nodes of a cluster that is starting


def connect(address: str | None) -> bool:
    """Join the cluster at `address` or RAY_ADDRESS; without either, start a local one for this process alone.

    Return whether a cluster was joined, whose nodes may still be starting. Raises ConfigError for a malformed address,
    ResourceError for a cluster that does not answer or that refuses this process.
    """
    os.environ.setdefault(_CHDIR, "0")  # so that relative paths and modules are found as in this process
    if address in (None, "", "auto"):  # as in Ray, RAY_ADDRESS decides
        address = os.environ.get("RAY_ADDRESS") or address or "local"
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    joined, environment = address != "local", dict[str, str]()
    os.environ.setdefault(_TRACKING, "1" if joined else "0")  # needed for the API's list of runs
    # Notices of nodes that will be taken away cost a process for each group of workers.
    os.environ.setdefault(_NOTICES, "1" if joined else "0")
    os.environ.setdefault(_NOTICE_LOOKS, "2")  # seconds; Ray's default of 5 may be too long for a short notice
    if not joined:
        # Ray requires a token by default. This one leaves no file in the home folder and ends with the job.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        logging.getLogger(TOKEN_LOGGER).setLevel(logging.ERROR)
        options |= {"include_dashboard": False}
        environment = {name: os.environ.get(name, value) for name, value in own_ray.START_LIMITS.items()}
    if address not in ("local", "auto"):
        _check_reachable(address)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with _restored(*environment):  # the cluster's processes inherit it
            os.environ.update(environment)
            init = partial(ray.init, address=address, **options)
            init() if joined else own_ray.start(init)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray's own handler would end the job without a message
    except SystemExit:  # Ray's reaction to SIGTERM while it starts
        raise Terminated from None
    except ray.exceptions.AuthenticationError as error:
        raise ResourceError(f"the token for the Ray cluster is missing: {str(error).splitlines()[0]}") from None
    except OSError as error:
        if str(error).startswith("Could not find any running Ray instance"):  # auto
            raise ResourceError(f"no Ray cluster runs on this machine; {_NO_CLUSTER}") from None
        if not joined:
            raise ResourceError(
                f"Ray does not start on this machine ({error}): its folder must be writable, with free space and a "
                f"short path; set RAY_TMPDIR, now {os.environ.get('RAY_TMPDIR', '/tmp')}, to choose another"
            ) from None
        raise ResourceError(
            f"the Ray cluster at {address} refuses this process ({error}): check that RAY_AUTH_TOKEN, or the "
            "file that RAY_AUTH_TOKEN_PATH names, is this cluster's token, and that it runs the same version of Ray"
        ) from None
    return joined


@contextlib.contextmanager
def _restored(*names: str) -> Iterator[None]:
    """Restore these environment variables when the block ends."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _check_reachable(address: str) -> None:
    """Raise an error unless a process listens at `address`: Ray itself would try for minutes."""
    parts = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|([^/:\s]+)):(\d{1,5})", address)
    if not parts or not 0 < int(parts[3]) < 65536:
        raise ConfigError(
            "--address (or RAY_ADDRESS) must be HOST:PORT of a Ray head, auto or local, and the job run on a node of "
            f"the cluster, got {address!r}; from elsewhere, `ray job submit --address http://HOST:8265` sends it there"
        )
    try:
        socket.create_connection((parts[1] or parts[2], int(parts[3])), timeout=10).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        raise ResourceError(f"no Ray cluster answers at {address} ({error}); {_NO_CLUSTER}") from None


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """Connect to Ray while the block runs: use an existing connection, else `connect`, and disconnect at the end.

    Gives the block whether a cluster was joined. Raises as `connect` does.
    """
    if ray.is_initialized():
        yield True
        return
    with _restored(_CHDIR, _TRACKING, _NOTICES, _NOTICE_LOOKS):  # the next cluster may need other values
        joined = connect(address)
        try:
            with contextlib.nullcontext() if joined else own_ray.watched():
                yield joined
        finally:
            ray.shutdown()


def fit_deployment(deployment: Deployment, store: Store, joined: bool) -> Deployment:
    """Return `deployment` as it will run on the cluster. Raises OrchestratorError if the cluster cannot hold it."""
    if joined:
        check_storage_is_shared(store)
    workers = with_gpus(deployment.workers) if deployment.gpus_if_there else deployment.workers
    check_capacity(workers, WAIT_SECONDS if joined else 0.0)
    return replace(deployment, workers=workers, home=ray.get_runtime_context().get_node_id(), grows=joined)


def capacity(resources: dict[str, float]) -> int:
    """Return how many workers fit on the nodes; a worker cannot span two nodes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int((node.get(name, 0) + 1e-6) // amount) for name, amount in resources.items()) for node in nodes)


def with_gpus(workers: Workers) -> Workers:
    """Give each worker one GPU if the cluster has enough of them, or can get them."""
    gpu = replace(workers, gpus=1.0)
    return gpu if capacity(gpu.resources) >= workers.minimum or autoscaler.can_hold(gpu) else workers


def check_storage_is_shared(store: Store) -> None:
    """Raise ConfigError for a local folder on a cluster of several nodes, which do not share their disks.

    Processes on a node that joins later, without an autoscaler, check it themselves: see `check_folder_is_here`.
    """
    if not store.is_local:
        return
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    if nodes > 1 or autoscaler.is_present():
        what = f"the {nodes} nodes of this cluster" if nodes > 1 else "the nodes that the autoscaler adds"
        raise ConfigError(
            f"storage {store.uri!r} is a local folder, and {what} do not share it: pass --storage s3://bucket/prefix"
        )


def check_folder_is_here(store: Store, home: str | None) -> None:
    """Raise ConfigError for a local folder if this process runs on another node than the job (`home`, if known)."""
    if store.is_local and home and ray.get_runtime_context().get_node_id() != home:
        raise ConfigError(
            f"storage {store.uri!r} is a local folder, and a part of the job was placed on another node, which does "
            "not share it: pass --storage s3://bucket/prefix"
        )


def check_capacity(workers: Workers, wait_seconds: float) -> None:
    """Raise ResourceError if `workers.minimum` workers can never fit on the cluster's nodes.

    Nodes that an autoscaler may still add count as well.
    """
    deadline = time.monotonic() + wait_seconds
    while (fitting := capacity(workers.resources)) < workers.minimum:
        if autoscaler.can_hold(workers):
            return
        if time.monotonic() >= deadline:
            total = ray.cluster_resources()
            raise ResourceError(
                f"{workers.minimum} workers of {_amounts(workers.resources)} each were asked for, and the cluster "
                f"holds {fitting} of them: it has {_amounts({k: total.get(k, 0) for k in ('CPU', 'GPU')})} on "
                f"{len([n for n in ray.nodes() if n['Alive']])} node(s); "
                "ask for fewer --workers, fewer --cpus-per-worker, or add nodes"
            )
        time.sleep(1)


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
