"""Give back the resources that a killed trial, or a killed controller, left reserved.

Ray ends a placement group with its job, not with the actor that made it. Ray Train's own cleaner learns of a group
only when its workers have started. So an actor that is killed earlier would leave CPUs reserved for ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from orchestrator.distributed.ray_private import is_orphan, placement_groups

logger = logging.getLogger(__name__)
_POLL_SECONDS = 5.0


@contextlib.contextmanager
def orphans_removed() -> Iterator[None]:
    """Remove this job's placement groups whose maker is dead, until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(stop: threading.Event) -> None:
    while not stop.wait(_POLL_SECONDS):
        try:
            for group in orphans():
                remove_placement_group(PlacementGroup(group))
                logger.warning("gave back the CPUs and GPUs that a killed process had reserved")
        except Exception as error:  # Ray's head may be restarting, and the sweep can continue
            logger.warning("cannot find the resources that killed processes had reserved: %s", error)


def orphans() -> list[ray.PlacementGroupID]:
    """Return this job's placement groups whose maker is a dead actor."""
    job = ray.get_runtime_context().get_job_id()
    return [ray.PlacementGroupID(group.placement_group_id) for group in placement_groups() if is_orphan(group, job)]
