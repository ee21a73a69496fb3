"""What holds of every pod, beyond the schemas. A rule takes all documents and returns complaints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from manifests import K8S, Document, clusters, containers, one, pods
from quantity import quantity
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION

RAY_DRAIN_S = 30.0  # Ray's default of RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
_TEARDOWN_S = 10.0  # what Ray may need after its drain time, before Kubernetes kills it


def locked_down(documents: list[Document]) -> Iterator[str]:
    """Nobody is root, can become root, or can write to the image."""
    for pod in pods(documents):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{pod.name} may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name} has no seccomp profile"
        if {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys() or any("hostPath" in v for v in volumes(pod.spec)):
            yield f"{pod.name} reaches into its host"
    for name, container in containers(documents):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{name} may gain privileges"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} keeps capabilities"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{name} can write to its image"
        if context.keys() & {"runAsUser", "runAsNonRoot", "seccompProfile"}:
            yield f"{name} overrules its pod"


def scratch(documents: list[Document]) -> Iterator[str]:
    """On a read-only root file system, /tmp and the home folder are an empty folder of bounded size."""
    for pod in pods(documents):
        empty = {v["name"] for v in volumes(pod.spec) if "emptyDir" in v}
        if any("sizeLimit" not in v["emptyDir"] for v in volumes(pod.spec) if "emptyDir" in v):
            yield f"{pod.name} may fill its node's disk"
        for container in pod.containers:
            mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
            if mounts.get("/tmp") not in empty or environment(container).get("HOME") != "/tmp":
                yield f"{pod.name}, {container['name']} has nowhere to write"
            if container["name"] in ("ray-head", "ray-worker") and mounts.get("/dev/shm") not in empty:
                yield f"{pod.name} has 64 MiB of shared memory"


def shared_memory(documents: list[Document]) -> Iterator[str]:
    """Ray takes a share of a pod's memory for its objects, and keeps them on disk where /dev/shm is smaller."""
    for pod in pods(documents):
        if pod.role in ("head", "worker"):
            container = pod.spec["containers"][0]
            share = DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * quantity(container["resources"]["limits"]["memory"])
            mounts = {m["name"] for m in container.get("volumeMounts", []) if m["mountPath"] == "/dev/shm"}
            sizes = [quantity(v["emptyDir"].get("sizeLimit", 0)) for v in volumes(pod.spec) if v["name"] in mounts]
            if not sizes or sizes[0] < share:
                yield f"{pod.name} keeps Ray's objects on disk: /dev/shm is smaller than {share / 2**30:.2f} GiB"


def bounded(documents: list[Document]) -> Iterator[str]:
    """Requests and limits of CPU and memory everywhere, and no request above its limit."""
    for name, container in containers(documents):
        requests, limits = (container.get("resources", {}).get(kind, {}) for kind in ("requests", "limits"))
        for resource in ("cpu", "memory"):
            if resource not in requests or resource not in limits:
                yield f"{name} has no request or no limit of {resource}"
        if any(quantity(requests[r]) > quantity(limits[r]) for r in requests.keys() & limits.keys()):
            yield f"{name} asks for more than its limit"


def drained(documents: list[Document]) -> Iterator[str]:
    """Kubernetes lets Ray finish its drain, in which training writes a checkpoint."""
    for pod in pods(documents):
        if pod.role in ("head", "worker"):
            drain = float(
                environment(pod.spec["containers"][0]).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", RAY_DRAIN_S)
            )
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            if grace < drain + _TEARDOWN_S:
                yield f"{pod.name} is killed {grace} s after its notice, and Ray drains for {drain:g} s"


def checked(documents: list[Document]) -> Iterator[str]:
    """An image without the package is told by the first container to start, in `kubectl describe pod`."""
    for pod in pods(documents):
        if pod.role in ("head", "worker"):
            first = pod.spec.get("initContainers", [{}])[0]
            if first.get("name") != "check-image" or first["image"] != pod.spec["containers"][0]["image"]:
                yield f"{pod.name} does not check its image"
            elif first.get("terminationMessagePolicy") != "FallbackToLogsOnError":
                yield f"{pod.name} keeps to itself what is wrong with its image"


def tokens(documents: list[Document]) -> Iterator[str]:
    """Ray asks everybody for its token; Kubernetes' own goes only where the autoscaler runs."""
    for spec in clusters(documents):
        if spec.get("authOptions", {}).get("mode") != "token":
            yield "a cluster lets in whoever reaches its ports"
    autoscaled = any(spec.get("enableInTreeAutoscaling") for spec in clusters(documents))
    for pod in pods(documents):
        wanted = pod.role == "head" and autoscaled
        if pod.spec.get("automountServiceAccountToken") is not wanted:
            yield f"{pod.name}: automountServiceAccountToken must be {wanted}"


def secrets_named(documents: list[Document]) -> Iterator[str]:
    """No secret stands in a manifest, and the README tells how to make each that is asked for."""
    readme = (K8S / "README.md").read_text()
    yield from (f"Secret {d['metadata']['name']} stands in a manifest" for d in documents if d["kind"] == "Secret")
    for name in sorted(set(references(documents, "Secret"))):
        if f"kubectl create secret generic {name} " not in readme:
            yield f"README.md does not say how to make the Secret {name}"
    for kind in ("ConfigMap", "PersistentVolumeClaim", "ServiceAccount"):
        made = {d["metadata"]["name"] for d in documents if d["kind"] == kind}
        for name in sorted(set(references(documents, kind)) - made):
            if not re.search(rf"claim `{name}`", readme):
                yield f"{kind} {name} is neither made nor in README.md"
    for place, container in containers(documents):
        for name in environment(container):
            if re.search("KEY|TOKEN|SECRET|PASSWORD", name):
                yield f"{place} has {name} in clear"


def in_the_namespace(documents: list[Document]) -> Iterator[str]:
    """All stand in one namespace, which refuses pods that are not locked down."""
    labels = one(documents, "Namespace")["metadata"].get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace takes any pod"
    for d in documents:
        if (
            d["kind"] not in ("Namespace", "ClusterQueue", "ResourceFlavor")
            and d["metadata"].get("namespace") != "rewind"
        ):
            yield f"{d['kind']} {d['metadata']['name']} is in no namespace"


def volumes(spec: Document) -> list[Document]:
    return spec.get("volumes", [])


def environment(container: Document) -> dict[str, str]:
    """The variables whose values stand in the manifest."""
    return {v["name"]: v["value"] for v in container.get("env", []) if "value" in v}


def references(documents: list[Document], kind: str) -> Iterator[str]:
    """Names of the objects of this kind that pods and clusters ask for."""
    source = {"Secret": ("secretRef", "secretKeyRef"), "ConfigMap": ("configMapRef", "configMapKeyRef")}.get(kind, ())
    for _, container in containers(documents):
        for entry in [*container.get("envFrom", []), *(v.get("valueFrom", {}) for v in container.get("env", []))]:
            yield from (entry[name]["name"] for name in source if name in entry)
    for pod in pods(documents):
        for volume in volumes(pod.spec):
            if kind == "Secret" and "secret" in volume:
                yield volume["secret"]["secretName"]
            if kind == "ConfigMap" and "configMap" in volume:
                yield volume["configMap"]["name"]
            if kind == "PersistentVolumeClaim" and "persistentVolumeClaim" in volume:
                yield volume["persistentVolumeClaim"]["claimName"]
        if kind == "ServiceAccount" and "serviceAccountName" in pod.spec:
            yield pod.spec["serviceAccountName"]
    for spec in clusters(documents):
        if kind == "Secret" and "secretName" in spec.get("authOptions", {}):
            yield spec["authOptions"]["secretName"]
