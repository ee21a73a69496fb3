"""Private names of Ray do what they are used for in the installed version (see also `test_private_apis.py`)."""

import inspect

import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy

from orchestrator.distributed import ray_private


def test_it_was_read_in_the_version_that_is_installed():
    assert ray.__version__.startswith(ray_private.READ_IN), (
        "read each function of ray_private.py against the new version of Ray, then raise READ_IN"
    )


def test_what_is_overridden_or_replaced_is_still_there():
    assert list(inspect.signature(TorchTrainer._register_sigint_handler).parameters) == ["self", "controller"]
    assert list(inspect.signature(TorchTrainer._create_default_callbacks).parameters) == ["self"]
    assert list(inspect.signature(TorchTrainer._initialize_and_run_controller).parameters) == [
        "self",
        "controller_init_kwargs",
    ]
    for name in ("after_controller_start", "_maybe_send_resource_request"):
        of_ray, ours = (getattr(each, name) for each in (ray_private.FixedScalingPolicy, ray_private.FixedGroup))
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(of_ray).parameters)
    assert list(inspect.signature(ray_private._print_to_stdstream).parameters) == ["data", "ignore_prefix"]
    with ray_private.processes_in_own_sessions():
        assert ray._private.services.ConsolePopen.keywords == {"start_new_session": True}
    assert inspect.isclass(ray._private.services.ConsolePopen)
    node = ray._private.node.Node
    parameters = {
        name: list(inspect.signature(getattr(node, name)).parameters)
        for name in ("start_api_server", "start_monitor", "start_log_monitor")
    }
    assert parameters == {
        "start_api_server": ["self", "include_dashboard", "raise_on_failure"],
        "start_monitor": ["self"],
        "start_log_monitor": ["self"],
    }
    with ray_private.few_processes():
        assert all(getattr(node, name)(None) is None for name in parameters)
    assert node.start_monitor.__name__ == "start_monitor"


def test_two_default_callbacks_are_left_out():
    trainer = ray_private.QuietTorchTrainer(lambda: None)
    ours = [type(each) for each in trainer._create_default_callbacks()]
    all_of_them = [type(each) for each in TorchTrainer._create_default_callbacks(trainer)]
    assert sorted(set(all_of_them) - set(ours), key=str) == sorted(
        [ray_private.DatasetsCallback, ray_private.PlacementGroupCleanerCallback], key=str
    )


def test_a_fixed_group_asks_no_autoscaler():
    group = ray_private.FixedGroup(ray.train.ScalingConfig(num_workers=2))
    group.after_controller_start(None)
    assert group.make_decision_for_non_running_worker_group().num_workers == 2
    group.make_decision_for_running_worker_group(None, None)
    group.before_controller_abort()


@pytest.mark.parametrize(
    ("workers", "grows", "fixed"), [(2, False, True), (2, True, False), ((1, 2), False, False), ((1, 2), True, False)]
)
def test_only_a_group_of_one_size_where_the_cluster_never_grows_is_fixed(monkeypatch, workers, grows, fixed):
    chosen = []
    monkeypatch.setattr(
        TorchTrainer,
        "_initialize_and_run_controller",
        lambda self, **settings: chosen.append(settings["scaling_policy"]),
    )
    scaling = ray.train.ScalingConfig(num_workers=workers)
    trainer = ray_private.QuietTorchTrainer(lambda: None, grows=grows, scaling_config=scaling)
    policy = create_scaling_policy(scaling)
    trainer._initialize_and_run_controller(scaling_policy=policy)
    assert (type(chosen[0]) is ray_private.FixedGroup) is fixed
    assert fixed or chosen[0] is policy
