"""Wheel and sdist are complete, and the wheel alone runs in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from waiting import PATIENCE_S

import orchestrator

PROJECT = Path(orchestrator.__file__).parents[1]
ADDRESS = "https://example.com/somebody/rewind"

pytestmark = pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="builds what git has committed")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, as `make dist` writes them in a clone of the address."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(PROJECT / ".ci" / "dist.py"), str(folder), "git@example.com:somebody/rewind.git"]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    return folder


def wheel_of(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(dist: Path) -> Message:
    with zipfile.ZipFile(wheel_of(dist)) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(wheel.read(name))


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(wheel_of(dist)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(["git", "ls-files", "orchestrator"], cwd=PROJECT, capture_output=True, text=True).stdout
    committed = {name for name in listed.splitlines() if not name.endswith(".md")}
    assert names == committed
    assert {"orchestrator/py.typed", "orchestrator/report/page.html.j2"} <= names


def test_the_sdist_holds_what_the_wheel_is_built_from(dist: Path) -> None:
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    with zipfile.ZipFile(wheel_of(dist)) as wheel:
        package = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert package | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_description_has_no_relative_link(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all(link.startswith("https://") for link in links), links
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures
    assert all(re.fullmatch(rf"{ADDRESS}/raw/HEAD/\.github/\w+\.png", picture) for picture in pictures)


def test_the_metadata_names_version_python_and_addresses(metadata: Message) -> None:
    assert metadata["Version"] == orchestrator.__version__
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls["Repository"] == ADDRESS
    assert urls["Changelog"] == f"{ADDRESS}/blob/HEAD/.github/CHANGELOG.md"
    assert (PROJECT / ".github" / "CHANGELOG.md").exists()


def test_users_get_no_tools_of_the_tests(metadata: Message) -> None:
    """Extras that users name, and what nobody asks for, want neither pytest nor mypy."""
    wanted = metadata.get_all("Requires-Dist", [])
    tools = {line for line in wanted if re.match(r"(pytest|mypy|ruff|moto|playwright|hypothesis)\b", line)}
    assert tools
    assert all(line.endswith('extra == "dev"') for line in tools)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("demo", ["--editable ."]),
        ("install", ["--editable .", "--quiet --editable '.[all]'"]),
        ("test", ["--editable .", "--quiet --editable '.[all,dev]'"]),
        ("docs", ["--editable .", "--quiet --editable '.[docs]'"]),
    ],
)
def test_make_installs_what_its_target_needs(target: str, wanted: list[str]) -> None:
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(command, cwd=PROJECT, env=outside, capture_output=True, text=True, check=True).stdout
    installs = re.findall(r"pip .* install --constraint constraints.txt (.*)", shown)
    assert installs == wanted
    assert shown.startswith('echo "== '), "it says what it is doing before it does it"


def test_git_ignores_what_jobs_commands_and_examples_write_by_default() -> None:
    sources = [*(PROJECT / "orchestrator").rglob("*.py"), *(PROJECT / "jobs").glob("*.py")]
    code = "".join(source.read_text() for source in sources)
    documents = [PROJECT / "README.md", PROJECT / "jobs" / "README.md", *(PROJECT / "orchestrator").rglob("README.md")]
    shown = "".join(document.read_text() for document in documents)
    places = {*re.findall(r'"\./([\w-]+)"', code), *re.findall(r"--(?:storage|report|out) \./([\w-]+)", code + shown)}
    assert {"runs", "report", "deploy", "tensorboard"} <= places
    asked = ["git", "check-ignore", *(f"{place}/" for place in sorted(places))]
    ignored = subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True).stdout.split()
    assert {place.rstrip("/") for place in ignored} == places


# The wheel in an environment of its own. Its packages are those of this environment, which takes no time to install.


@pytest.fixture(scope="module")
def environment(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=PATIENCE_S)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    install = [*pip, "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel_of(dist))]
    subprocess.run(install, check=True, capture_output=True, timeout=PATIENCE_S)
    return folder


def run_in(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in `folder`; neither the clone nor its path is known there."""
    variables: Mapping[str, str] = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program, *arguments = command
    return subprocess.run(
        [str(environment / "bin" / program), *arguments],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip


# A user's file, beside nothing else: no clone, no Ray, no S3.
TRAIN = """
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator import Cosine, Data, Experiment, Regression, TrainingConfig, run
from orchestrator.pruning import OneShot


def model() -> nn.Module:
    return nn.Linear(8, 1)


def data() -> Data:
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    parts = (x[:32], x[32:40], x[40:])
    return Data(*(TensorDataset(part, part[:, :1]) for part in parts))


EXPERIMENT = Experiment(
    name="alone", model="alone:model", data="alone:data", task=Regression(), path=OneShot(0.5),
    training=TrainingConfig(epochs=2, batch_size=8, schedule=Cosine(0.1)),
)

if __name__ == "__main__":
    print([record.kept for record in run(EXPERIMENT)])
    print("loaded:", *sorted({"ray", "boto3", "botocore"} & sys.modules.keys()))
    print(Path(sys.modules["orchestrator"].__file__).parent)
"""


def test_the_wheel_trains_and_its_command_runs_the_experiment(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(TRAIN)
    trained = run_in(environment, tmp_path, "python", "alone.py")
    assert trained.returncode == 0, trained.stderr
    kept, loaded, place = trained.stdout.splitlines()[-3:]
    assert kept == "[8, 4]"
    assert loaded == "loaded:", "the runner needs neither Ray nor S3"
    assert Path(place).is_relative_to(environment)
    shown = run_in(environment, tmp_path, "orchestrator", "run", "alone:EXPERIMENT", "--storage", "./runs")
    assert shown.returncode == 0, shown.stderr
    assert "2 of 2 rounds are in" in shown.stdout


def test_the_wheel_answers_with_its_version(environment: Path, tmp_path: Path) -> None:
    assert (
        run_in(environment, tmp_path, "orchestrator", "--version").stdout
        == f"orchestrator {orchestrator.__version__}\n"
    )
