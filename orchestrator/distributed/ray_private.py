"""Use what Ray keeps private: all of it stands here, read in Ray 2.60, and a test fails when it changes.

Other files import these functions and classes, never Ray's private modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

READ_IN = "2.60"  # the version of Ray
TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"  # tells where it stored a token


def placement_groups() -> list[Any]:
    """Return the cluster's placement groups (PlacementGroupTableData).

    Neither the public table nor the state API says which actor made a group, and the latter needs a dashboard.
    """
    accessor = ray._private.state.state._connect_and_get_accessor()
    return [PlacementGroupTableData.FromString(table) for table in accessor.get_placement_group_table()]


def is_orphan(group: Any, job: str) -> bool:
    """Return whether a dead actor of `job` (hexadecimal id) made a placement group that still holds resources."""
    return bool(
        group.creator_job_id.hex() == job
        and group.creator_actor_dead
        and not ray.ActorID(group.creator_actor_id).is_nil()  # otherwise the job's own process made it
        and not group.is_detached
        and group.state != PlacementGroupTableData.REMOVED
    )


def cluster_status() -> GetClusterStatusReply:
    """Return what the autoscaler has reported to the head node."""
    address = ray.get_runtime_context().gcs_address
    return GetClusterStatusReply.FromString(ray._raylet.GcsClient(address).get_cluster_status())


@contextlib.contextmanager
def processes_in_own_sessions() -> Iterator[None]:
    """Have Ray start its processes in sessions of their own while the block runs.

    SIGTERM to the process group of the job, as `timeout`, systemd and Slurm send it, then reaches the job alone, which
    needs its Ray for the last checkpoint. The kernel still ends them when the job dies.
    """
    services = ray._private.services
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def few_processes() -> Iterator[None]:
    """Have Ray start no process that a Ray for one job does without, while the block runs.

    They are the dashboard, which without its pages only reports usage, the autoscaler, and the reader of logs that are
    not printed. With them a Ray takes about 2 s more to start and 1 s more to end.
    """
    node = ray._private.node.Node
    methods = {name: getattr(node, name) for name in ("start_api_server", "start_monitor", "start_log_monitor")}
    for name in methods:
        setattr(node, name, lambda self, **settings: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(node, name, method)


_print_to_stdstream = ray._private.worker.print_to_stdstream


def filter_printed_lines(is_hidden: Callable[[str], bool]) -> None:
    """Do not print what Ray reports of its processes if one of its lines is hidden."""

    def print_visible(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(is_hidden(str(line)) for line in data["lines"]):
            _print_to_stdstream(data, ignore_prefix)

    ray._private.worker.print_to_stdstream = print_visible


class FixedGroup(FixedScalingPolicy):  # type: ignore[misc]
    """The usual group of workers, without the actor that requests nodes from an autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Request no nodes."""

    def _maybe_send_resource_request(self) -> None:
        """Request no nodes."""


class QuietTorchTrainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer that leaves Ctrl-C to the job and starts two actors fewer; three where the cluster never grows."""

    def __init__(self, *arguments: Any, grows: bool = True, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._grows = grows

    def _initialize_and_run_controller(self, *, scaling_policy: Any, **named: Any) -> Any:
        if not self._grows and type(scaling_policy) is FixedScalingPolicy:
            scaling_policy = FixedGroup(self.scaling_config)
        return super()._initialize_and_run_controller(scaling_policy=scaling_policy, **named)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the job, which ends with a checkpoint; Ray would end the workers at once."""

    def _create_default_callbacks(self) -> list[Any]:
        """Leave out the actor for Ray data sets, which are not used, and the one that waits for the controller's death.

        `orphans` gives back what a dead controller reserved. Each actor imports Ray Train while the workers do.
        """
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, unused)]
