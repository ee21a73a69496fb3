"""cluster.yaml by the launcher's own checks, and its node_config by AWS' published model of RunInstances."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate
import job_rules
import jsonschema
import pytest
import tomllib
import yaml
from manifests import REPOSITORY
from ray.autoscaler._private.aws.config import DEFAULT_AMI, _check_ami
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

TEXT = (REPOSITORY / "cluster.yaml").read_text()
COMMON = ("file_mounts", "rsync_exclude", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def aws() -> dict[str, Any]:
    return dict(yaml.safe_load(TEXT))


def on_premise() -> dict[str, Any]:
    """The variant, made as the comment above it says."""
    block = "\n".join(re.findall(r"^#: (.*)$", TEXT, flags=re.MULTILINE))
    common = {name: aws()[name] for name in COMMON}
    *before, start = common["head_start_ray_commands"]
    assert start.count("RAY_enable_autoscaler_v2=1") == 1
    common["head_start_ray_commands"] = [*before, start.replace("autoscaler_v2=1", "autoscaler_v2=0")]
    return {**yaml.safe_load(block), **common}


def test_version_2_of_the_autoscaler_starts_too_few_of_your_own_machines():
    """Why the variant asks for version 1: when Ray mends it, the sentence in cluster.yaml goes."""
    config = on_premise()
    config["auth"].pop("ssh_private_key")  # it would be read
    prepared = prepare_config(config)
    (machines,) = AutoscalingConfig(prepared, skip_content_hash=True).get_node_type_configs().values()
    workers = len(config["provider"]["worker_ips"])
    assert config["min_workers"] == config["max_workers"] == workers
    assert (machines.min_worker_nodes, machines.max_worker_nodes) == (workers, workers + 1), "the head is in the second"


@pytest.mark.parametrize("config", [aws, on_premise])
def test_the_launcher_takes_it(config):
    prepared = prepare_config(config())
    validate_config(prepared)
    for name in COMMON:
        if name != "setup_commands":  # merged into those of head and workers
            assert prepared[name] == config()[name], "no default of Ray's takes its place"


def test_what_is_copied_to_the_nodes_can_be_installed_there_and_is_all_named():
    mounts = aws()["file_mounts"]
    ours = {there: here for there, here in mounts.items() if there.startswith("~/rewind/")}
    assert all(there == f"~/rewind/{here}" and (REPOSITORY / here).exists() for there, here in ours.items())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {
        name.partition(".")[0].rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    needed = {
        "pyproject.toml",
        "constraints.txt",
        "jobs",
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    assert needed | packages == set(ours.values())
    assert mounts.keys() - ours.keys() == {"~/.ray/auth_token"}
    # rsync holds a pattern without a slash against the names of files and folders at any depth.
    ours_in_git = subprocess.run(["git", "ls-files", *ours.values()], cwd=REPOSITORY, check=True, capture_output=True)
    names = {part for path in ours_in_git.stdout.decode().split() for part in path.split("/")}
    assert "report" in names
    assert not [name for pattern in aws()["rsync_exclude"] for name in fnmatch.filter(names, pattern)]


@pytest.mark.parametrize("change", [{"max_worker": 8}, {"head_node_type": 3}, {"auth": {"user": "ubuntu"}}])
def test_the_launcher_refuses_what_it_does_not_know(change):
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**aws(), **change}))


def run_instances_errors(node_config: dict[str, Any]) -> str:
    """What EC2's published model finds wrong with the request that Ray would send."""
    model = botocore.model.ServiceModel(botocore.loaders.create_loader().load_service_model("ec2", "service-2"))
    request = {**node_config, "MinCount": 1, "MaxCount": 1}  # Ray sets both
    shape = model.operation_model("RunInstances").input_shape
    return str(botocore.validate.ParamValidator().validate(request, shape).generate_report())


@pytest.mark.parametrize("node_type", ["head", "gpu"])
def test_ec2_takes_every_node_config(node_type):
    node_config = aws()["available_node_types"][node_type]["node_config"]
    assert run_instances_errors(node_config) == ""
    assert "Unknown parameter" in run_instances_errors({**node_config, "InstanceTypes": "m6i.xlarge"})
    assert "Invalid type" in run_instances_errors({**node_config, "BlockDeviceMappings": {"VolumeSize": 200}})


def images(config: dict[str, Any]) -> list[str]:
    """The image of each node type as EC2 is asked for it: Ray puts its own in place of some words."""
    _check_ami(config)
    return [node["node_config"]["ImageId"] for node in config["available_node_types"].values()]


def test_ray_leaves_the_image_to_ec2():
    named = {node["node_config"]["ImageId"] for node in aws()["available_node_types"].values()}
    assert set(images(aws())) == named
    (image,) = named
    # The form that EC2 resolves: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/finding-an-ami.html
    assert re.fullmatch(
        r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-\S+-ubuntu-2[4-9]\.04/latest/ami-id", image
    )
    old = aws()
    old["available_node_types"]["gpu"]["node_config"]["ImageId"] = "latest_dlami"
    assert images(old) == [image, DEFAULT_AMI[old["provider"]["region"]]]


def complaints(config: dict[str, Any]) -> list[str]:
    """What the schemas do not see."""
    found = []
    head, workers = config["available_node_types"]["head"], config["available_node_types"]["gpu"]
    if head["resources"].get("CPU") != 0 or "InstanceMarketOptions" in head["node_config"]:
        found.append("the head is on demand and trains nothing")
    if workers["min_workers"] != 0 or workers["node_config"].get("InstanceMarketOptions") != {"MarketType": "spot"}:
        found.append("workers are spot instances, from none")
    for name, node in config["available_node_types"].items():
        if "IamInstanceProfile" not in node["node_config"]:
            found.append(f"{name} has no instance profile")
        if node["node_config"].get("MetadataOptions") != {"HttpTokens": "required"}:
            found.append(f"{name} hands its role to whoever can make it fetch an address")
    start = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    if not all("RAY_AUTH_MODE=token" in command for command in start):
        found.append("a node starts without the token")
    if "RAY_enable_autoscaler_v2=1" not in start[0]:
        found.append("a job cannot know what the autoscaler may add")
    if "--dashboard-host=127.0.0.1" not in start[0]:
        found.append("the dashboard listens to others")
    installs = [command for command in config["setup_commands"] if "install" in command]
    if not all(
        "--constraint constraints.txt" in c or re.search(r"/uv/\d+\.\d+\.\d+/install\.sh ", c) for c in installs
    ):
        found.append("what is installed is not pinned")
    if any("pip install" in c and "uv pip install" not in c for c in installs):
        found.append("pip of a system's Python refuses to install")
    if re.search("AKIA|aws_secret|AWS_SECRET", str(config)):
        found.append("a secret stands in it")
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["available_node_types"]["head"].update(resources={}), "trains nothing"),
        (lambda c: c["available_node_types"]["gpu"].update(min_workers=1), "from none"),
        (lambda c: c["available_node_types"]["gpu"]["node_config"].pop("IamInstanceProfile"), "gpu has no instance"),
        (lambda c: c["available_node_types"]["head"]["node_config"].pop("MetadataOptions"), "hands its role"),
        (lambda c: c.update(worker_start_ray_commands=["ray start"]), "without the token"),
        (lambda c: c.update(head_start_ray_commands=["RAY_AUTH_MODE=token ray start --head"]), "listens to others"),
        (lambda c: c.update(head_start_ray_commands=["ray start --head"]), "what the autoscaler may add"),
        (lambda c: c["setup_commands"].append("uv pip install ray"), "not pinned"),
        (lambda c: c["setup_commands"].append("curl https://astral.sh/uv/install.sh | sh"), "not pinned"),
        (lambda c: c["setup_commands"].append("python3 -m pip install --user uv==0.13.9"), "refuses"),
        (lambda c: c["setup_commands"].append("export AWS_SECRET_ACCESS_KEY=x"), "a secret"),
    ],
)
def test_what_the_schemas_do_not_see(change, said):
    config = aws()
    assert complaints(config) == []
    change(config)
    assert any(said in complaint for complaint in complaints(config))


def test_the_workers_of_the_example_fit():
    lines = re.findall(r"^#   (.*)$", TEXT, flags=re.MULTILINE)
    command = " ".join(line.strip().rstrip("\\") for line in lines)
    asked = job_rules.parse(re.findall(r"-- (python jobs.*?) +ray down", command)[0])
    gpu = aws()["available_node_types"]["gpu"]
    assert not isinstance(asked, str), asked
    assert (asked["gpus"], asked["maximum"]) == (1, gpu["max_workers"])
    assert asked["cpus"] <= gpu["resources"]["CPU"]
    assert aws()["max_workers"] >= gpu["max_workers"]
