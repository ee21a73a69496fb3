"""Give back what a killed trial, or a killed controller, left reserved.

Ray ends a placement group with its job, not with the actor that made it, and Ray Train's own cleaner hears of a group
only when its workers have started: who is killed before that leaves CPUs behind that nobody can use.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import ray
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

logger = logging.getLogger(__name__)
_POLL_SECONDS = 5.0


@contextlib.contextmanager
def orphans_removed() -> Iterator[None]:
    """Until the block ends, remove this job's placement groups whose maker is dead."""
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
        except Exception as error:  # Ray's head may be restarting; the sweep goes on without
            logger.warning("cannot look for what killed processes had reserved: %s", error)


def orphans() -> list[ray.PlacementGroupID]:
    """This job's placement groups that an actor made which is dead."""
    # Neither the public table nor the state API says who made a group, and the latter needs a dashboard.
    accessor = ray._private.state.state._connect_and_get_accessor()
    job = ray.get_runtime_context().get_job_id()
    tables = map(PlacementGroupTableData.FromString, accessor.get_placement_group_table())
    return [
        ray.PlacementGroupID(table.placement_group_id)
        for table in tables
        if table.creator_job_id.hex() == job
        and table.creator_actor_dead
        and not ray.ActorID(table.creator_actor_id).is_nil()  # else the job's own process made it
        and not table.is_detached
        and table.state != PlacementGroupTableData.REMOVED
    ]
