"""The manifests as Kubernetes would get them, and the pods in them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "k8s"
RENDERED = (
    "base",
    *(f"overlays/{name}" for name in ("imagenet", "imagenet-claim", "kueue", "eks", "laptop", "monitoring")),
)
WITH_RAY = RENDERED[:-1]

Document = dict[str, Any]


def render(folder: str) -> list[Document]:
    """The documents of one folder below k8s/. Skips the test where there is no kubectl."""
    return deepcopy(_render(folder))


@functools.cache
def _render(folder: str) -> list[Document]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: the manifests cannot be rendered")
    command = ["kubectl", "kustomize", str(K8S / folder)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert process.returncode == 0, process.stderr
    return list(yaml.load_all(process.stdout, yaml.CSafeLoader))


def one(documents: list[Document], kind: str, name: str | None = None) -> Document:
    (found,) = (d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"]))
    return found


def clusters(documents: list[Document]) -> list[Document]:
    """The specs of all Ray clusters, standing or inside a job."""
    standing = [d["spec"] for d in documents if d["kind"] == "RayCluster"]
    return standing + [d["spec"]["rayClusterSpec"] for d in documents if d["kind"] == "RayJob"]


@dataclass(frozen=True)
class Pod:
    """A pod template and where it stands. `role`: head, worker, submitter or other."""

    name: str
    role: str
    template: Document

    @property
    def spec(self) -> Document:
        return self.template["spec"]

    @property
    def labels(self) -> dict[str, str]:
        return self.template.get("metadata", {}).get("labels", {})

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(documents: list[Document]) -> Iterator[Pod]:
    for spec in clusters(documents):
        yield Pod("head", "head", spec["headGroupSpec"]["template"])
        for group in spec["workerGroupSpecs"]:
            yield Pod(f"workers {group['groupName']}", "worker", group["template"])
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] == "RayJob":
            yield Pod(f"submitter of {name}", "submitter", document["spec"]["submitterPodTemplate"])
        if document["kind"] == "Deployment":
            yield Pod(name, "other", document["spec"]["template"])


def containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Every container with its place, the one that KubeRay builds of `autoscalerOptions` too."""
    for pod in pods(documents):
        for container in pod.containers:
            yield f"{pod.name}, {container['name']}", container
    for spec in clusters(documents):
        if spec.get("enableInTreeAutoscaling"):
            yield "head, autoscaler", spec["autoscalerOptions"]
