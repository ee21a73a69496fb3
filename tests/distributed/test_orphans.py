"""What a killed path had reserved is given back, and nothing else."""

import pytest
import ray as ray_module
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from reserving import Inhabitant, Maker
from waiting import PATIENCE_S, wait_for

from orchestrator.distributed import orphans

pytestmark = pytest.mark.ray


def states_of_groups() -> dict[str, str]:
    return {group: entry["state"] for group, entry in ray_module.util.placement_group_table().items()}


def test_only_what_a_dead_actor_reserved_is_given_back(ray, monkeypatch):
    monkeypatch.setattr(orphans, "_POLL_SECONDS", 0.2)
    maker_class = ray_module.remote(num_cpus=0)(Maker)
    living, killed = maker_class.remote(), maker_class.remote()
    kept, lost = ray_module.get([living.reserve.remote(), killed.reserve.remote()])
    ours = placement_group([{"CPU": 0.5}])  # made by this process, as Tune makes a trial's
    strategy = PlacementGroupSchedulingStrategy(ours)
    inhabitant = ray_module.remote(num_cpus=0.5)(Inhabitant).options(scheduling_strategy=strategy).remote()
    assert ray_module.get(inhabitant.ping.remote())
    assert orphans.orphans() == []
    with orphans.orphans_removed():
        ray_module.kill(killed)
        wait_for(lambda: states_of_groups()[lost] == "REMOVED", "what the killed actor had reserved is given back")
    states = states_of_groups()
    assert states[kept] == states[ours.id.hex()] == "CREATED"
    assert ray_module.get([living.reserve.remote(), inhabitant.ping.remote()], timeout=PATIENCE_S)[1]
    for actor in (living, inhabitant):
        ray_module.kill(actor)
    ray_module.util.remove_placement_group(ours)
