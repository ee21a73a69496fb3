"""What k8s/README.md tells people to type and to expect is what stands in the manifests."""

from __future__ import annotations

import json
import re

import pytest
from manifests import K8S, REPOSITORY, Pod, clusters, one, pods, render
from quantity import quantity

README = (K8S / "README.md").read_text()


def test_every_folder_that_is_applied_is_there():
    applied = set(re.findall(r"kubectl (?:apply -k|kustomize) (\S+?)[`\s.,]", README))
    assert "k8s/overlays/imagenet" in applied
    assert all((REPOSITORY / folder / "kustomization.yaml").is_file() for folder in applied)


def test_every_overlay_is_in_the_table():
    listed = set(re.findall(r"^\| `([\w/-]+)` \|", README, flags=re.MULTILINE))
    assert listed == {str(file.parent.relative_to(K8S)) for file in K8S.rglob("kustomization.yaml")}


@pytest.mark.parametrize("text", [README, (K8S / "Dockerfile").read_text()])
def test_the_image_that_is_built_is_the_one_that_is_run(text):
    (cluster,) = clusters(render("base"))
    image = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    built = re.findall(r"docker build \S+ \S+ -t (\S+) \.", text)
    assert built == [image]
    assert set(re.findall(r"registry\.example\.com/\S+?:[\w.]+\d", text)) == {image}


def test_names_in_commands_are_names_of_objects():
    laptop = render("overlays/laptop")
    assert f"job/{one(laptop, 'RayJob')['metadata']['name']}" in README
    assert f"service/{one(laptop, 'Service')['metadata']['name']} 8333" in README
    assert "s3://rewind/digits" in one(laptop, "RayJob")["spec"]["entrypoint"]
    title = json.loads(one(render("overlays/monitoring"), "ConfigMap")["data"]["dashboard.json"])["title"]
    assert f'"{title}"' in README


def test_a_laptop_has_room_for_what_its_pods_ask_for():
    laptop = render("overlays/laptop")
    (workers,) = clusters(laptop)[0]["workerGroupSpecs"]

    def asked(resource: str) -> float:
        def of(pod: Pod) -> float:
            requests = sum(quantity(c["resources"]["requests"][resource]) for c in pod.spec["containers"])
            return requests * (workers["replicas"] if pod.role == "worker" else 1)

        return sum(of(pod) for pod in pods(laptop))

    cpus, memory = asked("cpu"), asked("memory")
    assert (
        f"4 CPUs and 12 GB. The pods of the laptop overlay ask for {cpus:g} CPUs and {memory / 2**30:g} GiB" in README
    )
    # KubeRay's operator asks for 0.1 CPU and 0.5 GiB, Kubernetes in one node of kind for 0.95 and 0.3.
    assert cpus + 0.1 + 0.95 <= 4
    assert memory + 0.8 * 2**30 <= 12e9


def test_messages_and_times_are_as_told():
    (cluster,) = clusters(render("overlays/imagenet"))
    pod = cluster["headGroupSpec"]["template"]["spec"]
    (message,) = re.findall(r'echo "(.*)"', pod["initContainers"][0]["args"][0])
    assert f"`{message}`" in README
    assert f"{pod['terminationGracePeriodSeconds']} s (`terminationGracePeriodSeconds`)" in README
    minutes = one(render("overlays/imagenet"), "RayJob")["spec"]["preRunningDeadlineSeconds"] // 60
    assert f"after {minutes} minutes (`preRunningDeadlineSeconds`)" in README
