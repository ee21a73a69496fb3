"""The image: what its recipe copies and pins, and the check of it that pods begin with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import K8S, REPOSITORY, one, render
from waiting import PATIENCE_S

DOCKERFILE = (K8S / "Dockerfile").read_text()


def copied():
    return {name for names in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, flags=re.MULTILINE) for name in names.split()}


def test_all_that_is_copied_is_there_and_let_through():
    ignore = (K8S / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[1] == "*", "what is not named stays outside: no runs, no keys"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied()
    assert all((REPOSITORY / name).exists() for name in copied())


def test_what_the_package_and_its_build_read_is_copied():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"} <= copied()
    extras = re.findall(r"o\['(\w+)'\]", DOCKERFILE)
    assert set(extras) == {"channels", "onnx"}, "what the jobs and an export of theirs import beyond the dependencies"
    assert set(extras) <= project["optional-dependencies"].keys()
    assert f"'.[{','.join(extras)}]'" in (REPOSITORY / "cluster.yaml").read_text()


def test_installs_are_pinned_and_nobody_is_root():
    instructions = re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
    installs = [line for line in instructions if "pip install" in line]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line or "--no-deps" in line for line in installs)
    assert [line for line in instructions if line.startswith("USER")] == ["USER 1000:1000"]
    assert instructions[-1].startswith("USER"), "nothing runs as root after it"
    assert "WORKDIR /home/rewind" in instructions


def check_image(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run the init container's very command, with `python` as the image's."""
    spec = one(render("base"), "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]
    command = [*spec["initContainers"][0]["command"], *spec["initContainers"][0]["args"]]
    (folder / "python").write_text(f'#!/bin/sh\n{python} "$@"\n')
    (folder / "python").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_whole_image_passes_its_check(tmp_path):
    process = check_image(tmp_path, f"PYTHONPATH={REPOSITORY} exec {sys.executable}")
    assert (process.returncode, process.stdout) == (0, ""), process.stderr


@pytest.mark.parametrize(
    "python",
    [
        pytest.param(f"exec {sys.executable} -I -S", id="no packages"),
        pytest.param("exec /no/python", id="no python"),
        pytest.param(f"PYTHONPATH={REPOSITORY}:. exec {sys.executable}", id="another Ray"),
    ],
)
def test_an_image_without_the_package_is_told_at_once(tmp_path, python):
    if python.startswith("PYTHONPATH"):
        (tmp_path / "ray.py").write_text("__version__ = '2.9.0'\n")
    process = check_image(tmp_path, python)
    assert process.returncode == 1
    assert process.stdout.splitlines()[-1] == (
        "This image does not hold the orchestrator package with Ray 2.60.0: build it with k8s/Dockerfile."
    )
