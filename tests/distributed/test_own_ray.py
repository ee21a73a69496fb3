"""A local Ray that is slow, or of which a part dies: a second try, or one sentence and nothing left running."""

from __future__ import annotations

import inspect
import os
import subprocess
import threading

import psutil
import pytest
import ray
from waiting import PATIENCE_S, wait_for

from orchestrator.distributed import cluster, own_ray
from orchestrator.errors import ResourceError

pytestmark = pytest.mark.own_ray  # some tests end whatever Ray this process has
SLOW = "The current node timed out during startup. This could happen because ..."


def sleeper(name: str = "sleep") -> subprocess.Popen[bytes]:
    return subprocess.Popen([name, "600"], executable="/bin/sleep")


@pytest.fixture
def slow_ray(monkeypatch):
    """`ray.init` as it is on a busy machine: it fails as many times as asked for, and leaves a process each time."""

    def slow_ray(times: int) -> list[subprocess.Popen[bytes]]:
        left: list[subprocess.Popen[bytes]] = []

        def init(**options: object) -> None:
            left.append(sleeper())
            if len(left) <= times:
                raise Exception(SLOW)  # as Ray does

        monkeypatch.setattr(own_ray.ray, "init", init)
        monkeypatch.setattr(own_ray.ray, "shutdown", lambda: None)
        return left

    return slow_ray


def test_a_slow_start_is_tried_once_more_and_leaves_nothing(slow_ray):
    left = slow_ray(1)
    assert cluster.connect("local") is False
    first, second = left
    assert first.wait(PATIENCE_S) == -9
    assert second.poll() is None
    second.kill()
    second.wait()


def test_a_start_that_is_too_slow_twice_is_a_sentence(slow_ray):
    left = slow_ray(2)
    with pytest.raises(
        ResourceError, match=r"does not start on this machine \(The current node timed out.*run the sam"
    ):
        cluster.connect("local")
    assert [process.wait(PATIENCE_S) for process in left] == [-9, -9]


def test_a_disk_that_is_full_is_no_slow_start(monkeypatch):
    def init(**options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(own_ray.ray, "init", init)
    with pytest.raises(ResourceError, match=r"its folder must be writable, with free space"):
        cluster.connect("local")


def test_ray_is_given_more_time_than_its_own_limits(monkeypatch):
    seen = {}
    monkeypatch.delenv("RAY_agent_register_timeout_ms", raising=False)
    monkeypatch.setattr(own_ray.ray, "init", lambda **_: seen.update(os.environ))
    cluster.connect("local")
    assert seen["RAY_agent_register_timeout_ms"] == "300000"
    assert "RAY_agent_register_timeout_ms" not in os.environ


def test_paragraphs_on_dead_processes_are_not_printed_and_what_else_ray_says_is(capsys):
    """Through the very function that Ray calls with what its cluster publishes."""
    own_ray.start(lambda: None)
    raylet = "Raylet is terminated. Last 20 lines of the Raylet logs:\n    [state-dump]"
    worker = "A worker died or was killed while executing a task by an unexpected system error.\nLease ID: 0100"
    for text in (raylet, worker, "the disk is 96% full"):
        ray._private.worker.print_to_stdstream({"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    printed = capsys.readouterr().out
    assert "the disk is 96% full" in printed
    assert "state-dump" not in printed
    assert "Lease ID" not in printed
    assert "print_to_stdstream(" in inspect.getsource(ray._private.worker.listen_error_messages)


def test_when_a_part_of_ray_dies_the_rest_is_ended_and_nothing_else(tmp_path, capfd):
    """A process is known by its program, which lies in Ray's folder: here links to one that sleeps."""
    (tmp_path / "ray").mkdir()
    programs = [tmp_path / "ray" / "gcs_server", tmp_path / "ray" / "raylet", tmp_path / "of_the_user"]
    for program in programs:
        program.symlink_to("/bin/sleep")
    head, raylet, other = running = [subprocess.Popen([program, "600"]) for program in programs]
    names = {program.name for program in programs}
    wait_for(lambda: {psutil.Process(process.pid).name() for process in running} == names, "all of them run")
    died, told = threading.Event(), []

    def on_death(part: str) -> None:
        own_ray._give_up(part)
        told.append(part)
        died.set()

    with own_ray.watched(on_death):
        raylet.kill()
        assert died.wait(PATIENCE_S)
        assert head.wait(PATIENCE_S) == -9
    raylet.wait()
    assert other.poll() is None
    other.kill()
    other.wait()
    assert told == ["raylet"]
    assert "error: Ray's raylet on this machine has died" in (said := capfd.readouterr().err)
    assert "run the same command again" in said


def test_ray_is_out_of_reach_of_a_signal_to_the_process_group_of_the_job():
    """Through the very function with which Ray starts the processes of a node."""
    started = []

    def init() -> None:
        started.append(ray._private.services.start_ray_process(["/bin/sleep", "600"], "raylet", fate_share=True))

    own_ray.start(init)
    process = started[0].process
    try:
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
    finally:
        process.kill()
        process.wait()


def test_a_ray_that_is_ended_on_purpose_has_not_died(capfd):
    with own_ray.watched():
        pass
    assert capfd.readouterr().err == ""
