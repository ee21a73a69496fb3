"""What holds of the Ray clusters and jobs: versions, entry points, and where their parts find room."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from manifests import REPOSITORY, Document, clusters, containers, pods
from quantity import quantity

from orchestrator.distributed import job
from orchestrator.distributed.flags import Flags
from orchestrator.errors import OrchestratorError


def ray_version() -> str:
    (version,) = re.findall(r"^ray==(.*)$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)
    return str(version)


def versions(documents: list[Document]) -> Iterator[str]:
    """One Ray: of constraints.txt, of the cluster, of the image and of the check of the image."""
    version = ray_version()
    for spec in clusters(documents):
        if spec.get("rayVersion") != version:
            yield f"rayVersion must be {version} as in constraints.txt, got {spec.get('rayVersion')}"
    for name, container in containers(documents):
        if "store" not in name and not container.get("image", f":ray{version}").endswith(f":ray{version}"):
            yield f"{name}: the tag of the image must be ray{version}, got {container['image']}"
        if container.get("name") == "check-image" and container["args"][0].count(version) != 2:
            yield f"{name} does not ask for Ray {version}"


def entry_points(documents: list[Document]) -> Iterator[str]:
    """Each names a job of the image and flags that it takes; storage is shared, data in a bucket or mounted."""
    for document in documents:
        if document["kind"] == "RayJob":
            asked = parse(document["spec"].get("entrypoint", ""))
            if isinstance(asked, str):
                yield asked
                continue
            if not asked["storage"].startswith("s3://"):
                yield f"--storage must be a bucket, got {asked['storage']}"
            data = asked["data"] or "s3://"
            for pod in pods([document]):
                for container in pod.spec["containers"]:
                    mounts = [m["mountPath"] + "/" for m in container["volumeMounts"] if m.get("readOnly")]
                    if pod.role != "submitter" and not data.startswith(("s3://", *mounts)):
                        yield f"{pod.name} does not mount {data}"


@functools.cache
def parse(entry_point: str) -> dict[str, Any] | str:
    """Storage, data and workers that an entry point asks for, or what is wrong with it."""
    interpreter, file, *flags = [*shlex.split(entry_point), "", ""][: max(2, len(shlex.split(entry_point)))]
    if interpreter != "python" or not re.fullmatch(r"jobs/\w+\.py", file) or not (REPOSITORY / file).is_file():
        return f"an entry point must be `python jobs/NAME.py ...`, got {entry_point!r}"
    asked: dict[str, Any] = {}

    def stop_here(parsed: Flags, *_: object) -> int:
        asked.update(storage=parsed.storage, data=parsed.data, **dataclasses.asdict(parsed.deployment().workers))
        return 0

    # The job itself parses its flags, and stops where it would begin.
    said = io.StringIO()
    with (
        mock.patch.object(job, "run_job", stop_here),
        mock.patch.object(sys, "argv", [file, *flags]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            runpy.run_path(str(REPOSITORY / file), run_name="__main__")
        except (SystemExit, OrchestratorError) as end:
            if isinstance(end, OrchestratorError) or end.code:
                return f"{file} does not take {shlex.join(flags)}: {end} {said.getvalue()}"
    return asked


def head_trains_nothing(documents: list[Document]) -> Iterator[str]:
    """The head offers no CPU, so no worker lands there; whoever asks for a CPU of the head waits for ever."""
    for spec in clusters(documents):
        head = spec["headGroupSpec"]
        if head["rayStartParams"].get("num-cpus") != "0" or head.get("resources"):
            yield f'the head must have num-cpus "0", got {head["rayStartParams"]}'
        if any("gpu" in r for c in head["template"]["spec"]["containers"] for r in c["resources"]["limits"]):
            yield "the head holds a GPU"
    for document in documents:
        if document["kind"] == "RayJob" and document["spec"].keys() & {
            "entrypointNumCpus",
            "entrypointNumGpus",
            "entrypointResources",
        }:
            yield "the entry point runs on the head, which has no resources to give it"


def on_demand_head(documents: list[Document]) -> Iterator[str]:
    """Where workers are on spot nodes, the head and the submitter are not, by each cloud's label."""
    submitters = [pod.template for pod in pods(documents) if pod.role == "submitter"]
    for spec in clusters(documents):
        spot = {key for group in spec["workerGroupSpecs"] for key, _ in _node_terms(group["template"], "In")}
        lasting = [("head", spec["headGroupSpec"]["template"]), *(("submitter", template) for template in submitters)]
        for who, template in lasting:
            avoided = {key for key, alternatives in _node_terms(template, "NotIn") if alternatives == 1}
            if spot - avoided:
                yield f"the {who} may land on a spot node: {sorted(spot - avoided)}"
        for group in spec["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            tolerated = {t["key"] for t in pod.get("tolerations", [])}
            if (
                any("gpu" in r for r in pod["containers"][0]["resources"]["limits"])
                and "nvidia.com/gpu" not in tolerated
            ):
                yield f"workers {group['groupName']} do not tolerate the taint of GPU nodes"
            if "cloud.google.com/gke-spot" in spot - tolerated:
                yield f"workers {group['groupName']} do not tolerate the taint of spot nodes"


def _node_terms(template: Document, operator: str) -> Iterator[tuple[str, int]]:
    """Labels of nodes that a pod insists on, and how many alternatives there are to each."""
    affinity = template["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    for term in terms:
        yield from ((e["key"], len(terms)) for e in term["matchExpressions"] if e["operator"] == operator)


def fits_its_node(documents: list[Document]) -> Iterator[str]:
    """A GPU worker leaves an eighth of a node of 8 CPUs and 32 GiB to the kubelet, the driver and the node's agents."""
    for spec in clusters(documents):
        for group in spec["workerGroupSpecs"]:
            requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
            if "nvidia.com/gpu" in requests and (
                quantity(requests["cpu"]) > 7 or quantity(requests["memory"]) > quantity("28Gi")
            ):
                yield f"workers {group['groupName']} fill a whole node: nothing is ever as empty as that"


def room(documents: list[Document]) -> Iterator[str]:
    """The workers that a job asks for fit into the pods that its cluster may have, node by node."""
    for document in documents:
        asked = parse(document["spec"]["entrypoint"]) if document["kind"] == "RayJob" else ""
        if isinstance(asked, str):
            continue
        spec = document["spec"]["rayClusterSpec"]
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            gpus = quantity(limits.get("nvidia.com/gpu", 0))
            fit = int(min(quantity(limits["cpu"]) // asked["cpus"], gpus // asked["gpus"] if asked["gpus"] else 1e9))
            if fit * group["maxReplicas"] < asked["maximum"]:
                yield f"{asked['maximum']} workers are asked for, and {fit * group['maxReplicas']} fit"
            standing = {group.get("replicas"), group["minReplicas"], group["maxReplicas"]}
            if not spec.get("enableInTreeAutoscaling") and len(standing) > 1:
                yield f"nobody scales workers {group['groupName']}, and their numbers differ"


def retried(documents: list[Document]) -> Iterator[str]:
    """A job's attempts are limited, its cluster goes away, and one that cannot start is told; a queued one may wait."""
    for document in documents:
        if document["kind"] == "RayJob":
            spec, queued = document["spec"], "kueue.x-k8s.io/queue-name" in document["metadata"].get("labels", {})
            if not spec.get("backoffLimit") or not spec.get("shutdownAfterJobFinishes"):
                yield "a job must be tried again, and its cluster taken down"
            if spec.get("submitterConfig", {}).get("backoffLimit", 2) < 10:
                yield "a job of days outlives some submitters: submitterConfig.backoffLimit must be 10 or more"
            if ("preRunningDeadlineSeconds" in spec) == queued:
                yield "a job has a deadline to start exactly when it is in no queue"
            if "suspend" in spec:
                yield "to apply the job again would suspend it while it runs: Kueue suspends new jobs by itself"
            if len(document["metadata"]["name"]) > 47:
                yield "KubeRay takes names of up to 47 characters"


def autoscaled(documents: list[Document]) -> Iterator[str]:
    """From zero, by the autoscaler of version 2, which wants pods that are never restarted."""
    for spec in clusters(documents):
        if spec.get("enableInTreeAutoscaling"):
            if spec["autoscalerOptions"].get("version") != "v2":
                yield "the autoscaler must be v2"
            if any(group["minReplicas"] != 0 for group in spec["workerGroupSpecs"]):
                yield "workers stand idle when there is no work"
            templates = [spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])]
            if any(t["spec"].get("restartPolicy", "Never") != "Never" for t in templates):
                yield "the autoscaler wants pods that are never restarted"


def quota(documents: list[Document]) -> Iterator[str]:
    """A job that waits in a queue fits into it, and is of one size."""
    queues = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "ClusterQueue"}
    local = {
        d["metadata"]["name"]: queues.get(d["spec"]["clusterQueue"]) for d in documents if d["kind"] == "LocalQueue"
    }
    for document in documents:
        name = document["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        if name is None:
            continue
        queue = local.get(name)
        if queue is None:
            yield f"the queue {name} is not there"
            continue
        if document["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling"):
            yield "Kueue admits a job of one size"
        needed = _needed(document)
        for resource in (
            r for group in queue["resourceGroups"] for flavor in group["flavors"] for r in flavor["resources"]
        ):
            if needed.pop(resource["name"], 0.0) > quantity(resource["nominalQuota"]):
                yield f"the queue never has enough {resource['name']}"
        if needed:
            yield f"the queue does not know {sorted(needed)}"


def _needed(document: Document) -> dict[str, float]:
    needed: dict[str, float] = {}
    replicas = {f"workers {g['groupName']}": g["replicas"] for g in clusters([document])[0]["workerGroupSpecs"]}
    for pod in pods([document]):
        for resource, amount in (i for c in pod.spec["containers"] for i in c["resources"]["requests"].items()):
            needed[resource] = needed.get(resource, 0.0) + quantity(amount) * replicas.get(pod.name, 1)
    return needed
