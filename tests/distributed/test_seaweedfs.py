"""A whole job and its commands on SeaweedFS."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_runs import REPOSITORY, run

from orchestrator.__main__ import main
from orchestrator.storage.opening import open_store

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_a_job_and_its_commands(tmp_path: Path, seaweedfs_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--smoke", "--storage", seaweedfs_uri, "--workers", "2")
    code, output = run(tmp_path / "job.log", *arguments, script=REPOSITORY / "jobs" / "digits_lr.py")
    assert code == 0, output
    files = open_store(seaweedfs_uri).list()
    assert sum(path.endswith("record.json") for path in files) == 3
    assert not [path for path in files if path.startswith(("train/", "probe-"))]
    assert main(["verify", seaweedfs_uri]) == 0, capsys.readouterr()
    assert main(["report", seaweedfs_uri, "--out", str(tmp_path / "report")]) == 0, capsys.readouterr()
    assert (tmp_path / "report" / "report.html").exists()
    export = ["export", seaweedfs_uri, "--out", str(tmp_path / "deploy"), "--formats", "packed"]
    assert main(export) == 0, capsys.readouterr()
    assert list((tmp_path / "deploy").glob("*.safetensors"))
