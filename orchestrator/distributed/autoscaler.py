"""What an autoscaler may still add to the cluster. Ray tells nobody its limits, so it is asked and its answer read."""

from __future__ import annotations

import time

from ray.autoscaler.sdk import request_resources

from orchestrator.distributed.deployment import Workers
from orchestrator.distributed.ray_private import cluster_status

_ANSWER_SECONDS = 20.0  # it looks at what is asked every few seconds


def is_there() -> bool:
    """Whether an autoscaler of version 2 has reported: the cluster may grow."""
    return bool(cluster_status().autoscaling_state.autoscaler_state_version)


def can_hold(workers: Workers) -> bool:
    """Whether the autoscaler can bring the cluster to `workers.minimum` workers, and has begun to.

    False at once where no autoscaler of version 2 has reported (that of version 1 does not tell what it cannot do).
    The cluster has one such request: of two jobs that ask within seconds, one may get the other's answer.
    """
    if not is_there():
        return False
    request_resources(bundles=[workers.resources] * workers.minimum)
    try:
        asked = cluster_status().cluster_resource_state.cluster_resource_state_version
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            state = cluster_status().autoscaling_state
            if state.last_seen_cluster_resource_state_version > asked:
                return not state.infeasible_cluster_resource_constraints
            time.sleep(0.5)
        return False
    finally:
        request_resources(bundles=[])  # nodes on their way still come, and the training asks for its own
