"""The NetworkPolicies select the pods that there are, and let through what Ray needs and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from manifests import WITH_RAY, Document, one, pods, render
from network import End, may_connect, may_enter

GCS, DASHBOARD, CLIENT, AGENT, AGENT_GRPC, METRICS = 6379, 8265, 10001, 52365, 53000, 8080
PORTS = (GCS, DASHBOARD, CLIENT, AGENT, AGENT_GRPC, METRICS)
INTERNET = End(ip="203.0.113.7")
METADATA = End(ip="169.254.169.254")
OPERATOR = End({"app.kubernetes.io/component": "kuberay-operator"}, "kuberay")
PROMETHEUS = End({"app.kubernetes.io/name": "prometheus"}, "monitoring")
STRANGERS = {
    "a pod beside": End({"app": "web"}),
    "a pod without labels": End(),
    "a node's labels in another namespace": End({"rewind/role": "node"}, "default"),
    "a submitter's labels in another namespace": End({"rewind/role": "submitter"}, "default"),
    "another pod of the operator's namespace": End({"app": "web"}, "kuberay"),
    "the operator's labels in another namespace": End(OPERATOR.labels, "default"),
    "the internet": INTERNET,
}


def ends(documents: list[Document], *roles: str) -> list[End]:
    """The pods of these roles, with the labels of their templates."""
    return [End(pod.labels) for pod in pods(documents) if pod.role in roles]


def holes(documents: list[Document]) -> list[str]:
    """Connections that pass and should not. A stranger is not trusted to obey its own egress rules."""
    found = [
        f"{name} -> {port}"
        for node in ends(documents, "head", "worker")
        for name, stranger in STRANGERS.items()
        for port in PORTS
        if may_enter(documents, stranger, node, port)
    ]
    closed = {
        "submitter": (ends(documents, "submitter"), {DASHBOARD}),
        "operator": ([OPERATOR], {DASHBOARD}),
        "prometheus": ([PROMETHEUS], {METRICS}),
    }
    for name, (sources, open_ports) in closed.items():
        for source in sources:
            for node in ends(documents, "head", "worker"):
                passing = {port for port in PORTS if may_enter(documents, source, node, port)}
                found += [f"{name} -> {port}" for port in passing - open_ports]
    everyone = ends(documents, "head", "worker", "submitter", "other")
    found += ["a pod -> metadata service" for end in everyone if may_connect(documents, end, METADATA, 80)]
    found += ["a pod -> anything outside" for end in everyone if may_connect(documents, end, INTERNET, 8080)]
    found += [
        "others -> store" for end in STRANGERS.values() for s in stores(documents) if may_enter(documents, end, s, 8333)
    ]
    return found


def walls(documents: list[Document]) -> list[str]:
    """Connections that should pass and do not."""
    nodes, found = ends(documents, "head", "worker"), []
    wanted = [(a, b, port) for a in nodes for b in nodes for port in (*PORTS, 31234)]
    wanted += [(s, node, DASHBOARD) for s in [*ends(documents, "submitter"), OPERATOR] for node in nodes]
    wanted += [(PROMETHEUS, node, METRICS) for node in nodes]
    wanted += [(node, INTERNET, port) for node in nodes for port in (443, 6443)]
    wanted += [(node, store, 8333) for node in nodes for store in stores(documents)]
    found += [f"{a} -> {b}, {port}" for a, b, port in wanted if not may_connect(documents, a, b, port)]
    asking = ends(documents, "head", "worker", "submitter")
    return found + [f"{end} has no names" for end in asking if not may_connect(documents, end, INTERNET, 53, "UDP")]


def stores(documents: list[Document]) -> list[End]:
    return ends(documents, "other")


@pytest.mark.parametrize("folder", WITH_RAY)
def test_closed_to_strangers_and_open_to_ray(folder):
    documents = render(folder)
    assert len(ends(documents, "head", "worker")) == 2
    assert holes(documents) == []
    assert walls(documents) == []


def rules(documents, name, direction="ingress"):
    return one(documents, "NetworkPolicy", name)["spec"][direction]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: [d.remove(one(d, "NetworkPolicy", n)) for n in ("default-deny", "ray-nodes")],
            "a pod beside -> 6379",
        ),
        (lambda d: rules(d, "ray-nodes")[1].pop("from"), "the internet -> 8265"),
        (lambda d: rules(d, "ray-nodes")[0]["from"].append({"podSelector": {}}), "a pod without labels -> 10001"),
        (lambda d: rules(d, "ray-nodes")[0]["from"].append({"namespaceSelector": {}}), "-> 52365"),
        (lambda d: rules(d, "ray-nodes")[1]["from"][1].pop("podSelector"), "another pod of the operator's"),
        (
            lambda d: rules(d, "ray-nodes")[1]["from"][1].update(namespaceSelector={}),
            "the operator's labels in another namespace -> 8265",
        ),
        (lambda d: rules(d, "ray-nodes")[2].pop("ports"), "prometheus -> 8265"),
        (
            lambda d: rules(d, "ray-nodes")[0]["from"].append({"ipBlock": {"cidr": "203.0.113.0/24"}}),
            "the internet -> 6379",
        ),
        (lambda d: rules(d, "ray-nodes", "egress")[1].pop("ports"), "a pod -> anything outside"),
        (lambda d: rules(d, "names", "egress")[0].pop("ports"), "a pod -> metadata service"),
        (lambda d: rules(d, "store")[0].pop("from"), "others -> store"),
    ],
)
def test_holes_are_found(change: Callable[[list[Document]], object], said: str) -> None:
    documents = render("overlays/laptop")
    change(documents)
    assert any(said in hole for hole in holes(documents))


def relabelled(role, label):
    def change(documents):
        for pod in pods(documents):
            if pod.role == role:
                pod.template["metadata"]["labels"] = {"rewind/role": label}

    return change


@pytest.mark.parametrize(
    "change",
    [
        relabelled("worker", "worker"),
        relabelled("head", "ray"),
        relabelled("submitter", "job"),
        relabelled("other", "s3"),
        lambda d: d.remove(one(d, "NetworkPolicy", "names")),
        lambda d: d.remove(one(d, "NetworkPolicy", "ray-nodes-to-store")),
        lambda d: rules(d, "ray-nodes")[1]["ports"][0].update(port=8266),
    ],
)
def test_walls_are_found(change):
    documents = render("overlays/laptop")
    change(documents)
    assert walls(documents)
