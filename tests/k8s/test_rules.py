"""Every rule holds for every overlay, and finds what breaks it."""

from __future__ import annotations

import itertools

import job_rules
import pod_rules
import pytest
from manifests import WITH_RAY, clusters, one, render

RULES = [
    pod_rules.locked_down,
    pod_rules.scratch,
    pod_rules.shared_memory,
    pod_rules.bounded,
    pod_rules.drained,
    pod_rules.checked,
    pod_rules.tokens,
    pod_rules.secrets_named,
    pod_rules.in_the_namespace,
    job_rules.versions,
    job_rules.entry_points,
    job_rules.head_trains_nothing,
    job_rules.on_demand_head,
    job_rules.room,
    job_rules.fits_its_node,
    job_rules.retried,
    job_rules.autoscaled,
    job_rules.quota,
]


@pytest.mark.parametrize(("folder", "rule"), itertools.product(WITH_RAY, RULES))
def test_rules_hold(folder, rule):
    assert list(rule(render(folder))) == []


def job(documents):
    return one(documents, "RayJob")["spec"]


def cluster(documents):
    return clusters(documents)[0]


def head(documents):
    return cluster(documents)["headGroupSpec"]["template"]["spec"]


def group(documents):
    return cluster(documents)["workerGroupSpecs"][0]


def worker(documents):
    return group(documents)["template"]["spec"]


def submitter(documents):
    return job(documents)["submitterPodTemplate"]["spec"]


def store(documents):
    return one(documents, "Deployment")["spec"]["template"]["spec"]


def container(spec):
    return spec["containers"][0]


def env(spec, name, value):
    container(spec)["env"] = [e for e in container(spec)["env"] if e["name"] != name]
    if value is not None:
        container(spec)["env"].append({"name": name, "value": value})


def enter(documents, entry_point):
    job(documents)["entrypoint"] = entry_point


def queue(documents):
    return one(documents, "ClusterQueue")["spec"]["resourceGroups"][0]["flavors"][0]["resources"]


IMAGENET, LAPTOP, KUEUE = "overlays/imagenet", "overlays/laptop", "overlays/kueue"
P, J = pod_rules, job_rules

MUTATIONS = [
    # Nobody is root, can become root, or can write to the image
    (P.locked_down, IMAGENET, lambda d: head(d)["securityContext"].pop("runAsNonRoot"), "head may run as root"),
    (P.locked_down, IMAGENET, lambda d: worker(d)["securityContext"].update(runAsUser=0), "workers gpu may run as"),
    (P.locked_down, IMAGENET, lambda d: submitter(d)["securityContext"].pop("seccompProfile"), "no seccomp"),
    (P.locked_down, IMAGENET, lambda d: worker(d).update(hostNetwork=True), "reaches into its host"),
    (P.locked_down, IMAGENET, lambda d: worker(d)["volumes"].append({"name": "x", "hostPath": {}}), "its host"),
    (P.locked_down, IMAGENET, lambda d: container(head(d)).pop("securityContext"), "ray-head keeps capabilities"),
    (P.locked_down, IMAGENET, lambda d: head(d)["initContainers"][0].pop("securityContext"), "check-image may gain"),
    (P.locked_down, IMAGENET, lambda d: cluster(d)["autoscalerOptions"].pop("securityContext"), "autoscaler keeps"),
    (P.locked_down, IMAGENET, lambda d: container(submitter(d)).pop("securityContext"), "submitter can write"),
    (
        P.locked_down,
        LAPTOP,
        lambda d: container(store(d)).update(securityContext={"runAsUser": 0}),
        "overrules its pod",
    ),
    (P.scratch, IMAGENET, lambda d: container(worker(d)).update(volumeMounts=[]), "has nowhere to write"),
    (P.scratch, IMAGENET, lambda d: env(submitter(d), "HOME", None), "has nowhere to write"),
    (P.scratch, IMAGENET, lambda d: container(worker(d))["volumeMounts"].pop(1), "64 MiB of shared memory"),
    (P.scratch, IMAGENET, lambda d: worker(d)["volumes"][0]["emptyDir"].pop("sizeLimit"), "fill its node's disk"),
    (
        P.shared_memory,
        LAPTOP,
        lambda d: head(d)["volumes"][1]["emptyDir"].update(sizeLimit="1Gi"),
        "head keeps Ray's objects on disk: /dev/shm is smaller than 1.20 GiB",
    ),
    (P.shared_memory, IMAGENET, lambda d: container(worker(d))["volumeMounts"].pop(1), "on disk"),
    # Requests, limits, grace
    (
        P.bounded,
        IMAGENET,
        lambda d: container(head(d))["resources"].pop("limits"),
        "ray-head has no request or no limit",
    ),
    (P.bounded, IMAGENET, lambda d: cluster(d)["autoscalerOptions"].pop("resources"), "head, autoscaler has no"),
    (P.bounded, LAPTOP, lambda d: container(store(d))["resources"]["requests"].pop("memory"), "limit of memory"),
    (
        P.bounded,
        IMAGENET,
        lambda d: container(worker(d))["resources"]["requests"].update(memory="64Gi"),
        "asks for more",
    ),
    (P.drained, IMAGENET, lambda d: worker(d).pop("terminationGracePeriodSeconds"), "workers gpu is killed 30 s"),
    (P.drained, IMAGENET, lambda d: head(d).update(terminationGracePeriodSeconds=60), "head is killed 60 s after"),
    (P.drained, IMAGENET, lambda d: env(worker(d), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "85"), "drains for 85 s"),
    (P.checked, IMAGENET, lambda d: worker(d).pop("initContainers"), "workers gpu does not check its image"),
    (P.checked, IMAGENET, lambda d: head(d)["initContainers"][0].pop("terminationMessagePolicy"), "keeps to itself"),
    # Access
    (P.tokens, IMAGENET, lambda d: cluster(d).pop("authOptions"), "lets in whoever"),
    (P.tokens, "base", lambda d: cluster(d)["authOptions"].update(mode="disabled"), "lets in whoever"),
    (P.tokens, IMAGENET, lambda d: worker(d).update(automountServiceAccountToken=True), "must be False"),
    (P.tokens, IMAGENET, lambda d: head(d).update(automountServiceAccountToken=False), "must be True"),
    (P.secrets_named, IMAGENET, lambda d: cluster(d)["authOptions"].update(secretName="other"), "the Secret other"),
    (
        P.secrets_named,
        IMAGENET,
        lambda d: container(head(d))["envFrom"].append({"secretRef": {"name": "x"}}),
        "Secret x",
    ),
    (
        P.secrets_named,
        IMAGENET,
        lambda d: worker(d)["volumes"].append({"name": "x", "secret": {"secretName": "mounted"}}),
        "the Secret mounted",
    ),
    (P.secrets_named, IMAGENET, lambda d: d.remove(one(d, "ConfigMap")), "ConfigMap rewind is neither"),
    (P.secrets_named, IMAGENET, lambda d: d.remove(one(d, "ServiceAccount")), "ServiceAccount rewind is neither"),
    (P.secrets_named, LAPTOP, lambda d: d.remove(one(d, "PersistentVolumeClaim")), "Claim store is neither"),
    (P.secrets_named, IMAGENET, lambda d: env(head(d), "AWS_SECRET_ACCESS_KEY", "abc"), "in clear"),
    (P.secrets_named, IMAGENET, lambda d: d.append({"kind": "Secret", "metadata": {"name": "s"}}), "Secret s stands"),
    (P.in_the_namespace, IMAGENET, lambda d: one(d, "Namespace")["metadata"].pop("labels"), "takes any pod"),
    (P.in_the_namespace, IMAGENET, lambda d: one(d, "RayJob")["metadata"].pop("namespace"), "RayJob imagenet is in no"),
    # Versions and entry points
    (J.versions, IMAGENET, lambda d: cluster(d).update(rayVersion="2.59.0"), "got 2.59.0"),
    (J.versions, IMAGENET, lambda d: container(worker(d)).update(image="rewind:latest"), "ray-worker: the tag"),
    (J.versions, IMAGENET, lambda d: container(submitter(d)).update(image="rewind"), "submitter: the tag"),
    (J.versions, IMAGENET, lambda d: head(d)["initContainers"][0].update(args=["true"]), "does not ask for Ray"),
    (J.entry_points, IMAGENET, lambda d: job(d).pop("entrypoint"), "must be `python jobs/NAME.py"),
    (J.entry_points, IMAGENET, lambda d: enter(d, "python jobs/imagenet.py --storage s3://b"), "must be `python jobs"),
    (J.entry_points, IMAGENET, lambda d: enter(d, "bash jobs/imagenet_lr.py"), "must be `python jobs/NAME.py"),
    (J.entry_points, IMAGENET, lambda d: enter(d, "python jobs/digits_lr.py --epochs 3"), "does not take --epochs"),
    (J.entry_points, IMAGENET, lambda d: enter(d, "python jobs/digits_lr.py --workers 4:2"), "does not take"),
    (J.entry_points, IMAGENET, lambda d: enter(d, "python jobs/digits_lr.py"), "--storage must be a bucket"),
    (
        J.entry_points,
        LAPTOP,
        lambda d: enter(d, "python jobs/imagenet_lr.py --storage s3://b --data /data/imagenet"),
        "does not mount /data/imagenet",
    ),
    # Placement
    (J.head_trains_nothing, "base", lambda d: cluster(d)["headGroupSpec"].update(rayStartParams={}), "num-cpus"),
    (
        J.head_trains_nothing,
        IMAGENET,
        lambda d: container(head(d))["resources"]["limits"].update({"nvidia.com/gpu": "1"}),
        "the head holds a GPU",
    ),
    (J.head_trains_nothing, IMAGENET, lambda d: job(d).update(entrypointNumCpus=1), "the entry point runs on the head"),
    (J.on_demand_head, IMAGENET, lambda d: head(d).pop("affinity"), "the head may land on a spot node"),
    (J.on_demand_head, IMAGENET, lambda d: submitter(d).pop("affinity"), "the submitter may land on a spot node"),
    (
        J.on_demand_head,
        IMAGENET,
        lambda d: head(d)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ].append({"matchExpressions": [{"key": "x", "operator": "Exists"}]}),
        "the head may land on a spot node",
    ),
    (J.on_demand_head, IMAGENET, lambda d: worker(d)["tolerations"].pop(0), "the taint of GPU nodes"),
    (J.on_demand_head, IMAGENET, lambda d: worker(d)["tolerations"].pop(1), "the taint of spot nodes"),
    (
        J.fits_its_node,
        IMAGENET,
        lambda d: container(worker(d))["resources"]["requests"].update(cpu="8"),
        "a whole node",
    ),
    (
        J.fits_its_node,
        KUEUE,
        lambda d: container(worker(d))["resources"]["requests"].update(memory="32Gi"),
        "a whole node",
    ),
    (J.room, IMAGENET, lambda d: group(d).update(maxReplicas=7), "8 workers are asked for, and 7 fit"),
    (J.room, IMAGENET, lambda d: container(worker(d))["resources"]["limits"].update(cpu="4"), "and 0 fit"),
    (J.room, IMAGENET, lambda d: container(worker(d))["resources"]["limits"].pop("nvidia.com/gpu"), "and 0 fit"),
    (J.room, LAPTOP, lambda d: group(d).update(replicas=0), "nobody scales workers cpu"),
    # Life of a job
    (J.retried, IMAGENET, lambda d: job(d).pop("backoffLimit"), "tried again"),
    (J.retried, IMAGENET, lambda d: job(d).pop("submitterConfig"), "outlives some submitters"),
    (J.retried, IMAGENET, lambda d: job(d).update(shutdownAfterJobFinishes=False), "taken down"),
    (J.retried, IMAGENET, lambda d: job(d).pop("preRunningDeadlineSeconds"), "a deadline to start"),
    (J.retried, KUEUE, lambda d: job(d).update(suspend=True), "suspend it while it runs"),
    (J.retried, IMAGENET, lambda d: one(d, "RayJob")["metadata"].update(name="n" * 48), "47 characters"),
    (J.autoscaled, IMAGENET, lambda d: cluster(d)["autoscalerOptions"].update(version="v1"), "must be v2"),
    (J.autoscaled, "base", lambda d: group(d).update(minReplicas=1), "stand idle"),
    (J.autoscaled, "base", lambda d: worker(d).update(restartPolicy="Always"), "never restarted"),
    (J.quota, KUEUE, lambda d: d.remove(one(d, "LocalQueue")), "the queue rewind is not there"),
    (J.quota, KUEUE, lambda d: cluster(d).update(enableInTreeAutoscaling=True), "one size"),
    (J.quota, KUEUE, lambda d: queue(d)[0].update(nominalQuota="28"), "never has enough cpu"),
    (J.quota, KUEUE, lambda d: queue(d).pop(), "does not know ['nvidia.com/gpu']"),
]


@pytest.mark.parametrize(
    ("rule", "folder", "change", "said"), MUTATIONS, ids=[f"{m[0].__name__}-{i}" for i, m in enumerate(MUTATIONS)]
)
def test_what_breaks_a_rule_is_found(rule, folder, change, said):
    documents = render(folder)
    change(documents)
    found = list(rule(documents))
    assert any(said in complaint for complaint in found), found


def test_every_rule_is_broken_above():
    assert {rule for rule, *_ in MUTATIONS} == set(RULES)
