"""Ask the autoscaler whether it can add workers to the cluster. Ray does not publish its limits."""

from __future__ import annotations

import time

from ray.autoscaler.sdk import request_resources

from orchestrator.distributed.deployment import Workers
from orchestrator.distributed.ray_private import cluster_status

_ANSWER_SECONDS = 20.0  # the autoscaler reads requests every few seconds


def is_present() -> bool:
    """Return whether an autoscaler of version 2 has reported, so that the cluster may grow."""
    return bool(cluster_status().autoscaling_state.autoscaler_state_version)


def can_hold(workers: Workers) -> bool:
    """Request `workers.minimum` workers from the autoscaler. Return whether the cluster can hold them.

    False at once if no autoscaler of version 2 has reported; version 1 does not say what it cannot do. The cluster
    has one such request: if two jobs ask within seconds, one may get the other's answer.
    """
    if not is_present():
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
        request_resources(bundles=[])  # nodes that are starting still join, and the training requests its own
