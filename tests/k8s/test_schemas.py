"""Every document of every overlay is what its schema allows, and what a schema forbids is found."""

from __future__ import annotations

import pytest
from crd import CEL, complaints, kuberay, rules
from manifests import K8S, RENDERED, one, render


def test_every_kustomization_but_the_part_is_rendered_here():
    folders = {str(file.parent.relative_to(K8S)) for file in K8S.rglob("kustomization.yaml")}
    assert folders - set(RENDERED) == {"job"}


@pytest.mark.parametrize("folder", RENDERED)
def test_documents_are_valid(folder):
    documents = render(folder)
    assert documents
    found = {(d["kind"], d["metadata"]["name"]): complaints(d) for d in documents}
    assert {name: said for name, said in found.items() if said} == {}


def test_every_cel_rule_of_kuberay_is_known():
    texts = {text for schema in kuberay().values() for _, text in rules(schema)}
    assert {text for text in texts if "oldSelf" not in text} == set(CEL)


def broken(kind, folder, change):
    document = one(render(folder), kind)
    assert complaints(document) == []
    change(document["spec"])
    return complaints(document)


def head(spec):
    return spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


def deletion(*rules, **fields):
    return {"deletionStrategy": {**({"deletionRules": list(rules)} if rules else {}), **fields}}


POLICY = {"policy": "DeleteCluster"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(backofLimit=3), "backofLimit"),
        (lambda s: s.update(backoffLimit="3"), "is not of type 'integer'"),
        (lambda s: s.update(preRunningDeadlineSeconds=0), "minimum"),
        (lambda s: head(s).update(nodeSelectors={}), "nodeSelectors"),
        (lambda s: head(s)["containers"][0].pop("name"), "'name' is a required property"),
        (lambda s: head(s)["containers"][0]["resources"]["limits"].update(memory="8 GB"), "does not match"),
        (lambda s: head(s)["securityContext"].update(runAsUser="me"), "is not of type 'integer'"),
        (lambda s: s["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"), "'maxReplicas' is a required"),
        (lambda s: s["rayClusterSpec"]["authOptions"].update(mode="password"), "is not one of"),
        (lambda s: s.update(managedBy="me"), "managedBy: self in"),
        (lambda s: s["rayClusterSpec"].update(managedBy="me"), "rayClusterSpec.managedBy: self in"),
        (lambda s: s.update(deletion()), "deletionStrategy: ((has"),
        (lambda s: s.update(deletion(onSuccess=POLICY)), "deletionStrategy: ((has"),
        (lambda s: s.update(deletion(POLICY | {"condition": {"jobStatus": "FAILED"}}, onSuccess=POLICY)), "!((has"),
        (lambda s: s.update(deletion(POLICY | {"condition": {}})), "condition: has(self.jobStatus)"),
        (
            lambda s: s.update(
                deletion(POLICY | {"condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}})
            ),
            "condition: !(has",
        ),
    ],
)
def test_broken_jobs_are_refused(change, said):
    assert any(said in complaint for complaint in broken("RayJob", "overlays/imagenet", change))


@pytest.mark.parametrize(
    ("kind", "folder", "change"),
    [
        ("Deployment", "overlays/laptop", lambda s: s.update(replica=1)),
        ("Deployment", "overlays/laptop", lambda s: s["template"]["spec"]["containers"][0].update(envfrom=[])),
        ("PodMonitor", "overlays/monitoring", lambda s: s.update(podMetricEndpoints=[])),
        ("ClusterQueue", "overlays/kueue", lambda s: s["resourceGroups"][0]["flavors"][0].update(quota=4)),
        ("LocalQueue", "overlays/kueue", lambda s: s.pop("clusterQueue")),
    ],
)
def test_broken_others_are_refused(kind, folder, change):
    assert broken(kind, folder, change)


def test_valid_deletion_rules_pass():
    assert broken("RayJob", "overlays/imagenet", lambda s: s.update(deletion(onSuccess=POLICY, onFailure=POLICY))) == []
