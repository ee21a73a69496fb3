"""Grafana shows what is exported, and Prometheus finds the pods that export it."""

from __future__ import annotations

import json
import re
from copy import deepcopy

import pytest
from manifests import clusters, one, pods, render

from orchestrator.distributed.metrics import COUNTERS, GAUGES

METRICS = {*GAUGES, *COUNTERS}  # Ray puts `ray_` before each
TAGS = {"experiment", "seed"}


@pytest.fixture
def dashboard():
    config_map = one(render("overlays/monitoring"), "ConfigMap")
    assert config_map["metadata"]["labels"] == {"grafana_dashboard": "1"}
    return json.loads(config_map["data"]["dashboard.json"])


def expressions(dashboard):
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = dashboard["templating"]["list"]
    return queries + [v["query"]["query"] for v in variables if v["type"] == "query"]


def unknown(dashboard):
    """Metrics and labels in the expressions that nothing exports."""
    texts = expressions(dashboard)
    metrics = {name for text in texts for name in re.findall(r"\bray_\w+", text)}
    labels = {name for text in texts for name in re.findall(r"(\w+)=~", text)}
    labels |= {
        name.strip() for text in texts for names in re.findall(r"by \((.*?)\)", text) for name in names.split(",")
    }
    return {m for m in metrics if m.removeprefix("ray_") not in METRICS} | (labels - TAGS)


def test_every_query_names_what_is_exported(dashboard):
    assert unknown(dashboard) == set()
    assert all("ray_rewind_" in text for text in expressions(dashboard))
    dashboard["panels"][0]["targets"][0]["expr"] = "max by (sead) (ray_rewind_rounds)"
    assert unknown(dashboard) == {"ray_rewind_rounds", "sead"}


def test_every_metric_is_shown(dashboard):
    text = " ".join(expressions(dashboard))
    assert {name for name in METRICS if not re.search(rf"\bray_{name}\b", text)} == set()


def test_counters_are_shown_as_rates_and_gauges_are_not(dashboard):
    for text in expressions(dashboard):
        if not text.startswith("label_values"):
            assert bool(re.search(r"(rate|increase)\(", text)) == ("_total" in text), text


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard):
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def unscraped(monitor, documents):
    """Ray pods that the PodMonitor does not find, or whose port it does not find."""
    namespaces = {d["metadata"].get("namespace") for d in documents if d["kind"] in ("RayJob", "RayCluster")}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    found = []
    for pod in pods(documents):
        named = {port["name"]: port["containerPort"] for c in pod.containers for port in c.get("ports", [])}
        selected = wanted <= pod.labels.items() and namespaces <= set(
            monitor["spec"]["namespaceSelector"]["matchNames"]
        )
        if pod.role in ("head", "worker") and not (selected and {named.get(port) for port in ports} == {8080}):
            found.append(pod.name)
    return found


@pytest.mark.parametrize("folder", ["base", "overlays/imagenet", "overlays/laptop"])
def test_prometheus_finds_every_ray_pod(folder):
    monitor, documents = one(render("overlays/monitoring"), "PodMonitor"), render(folder)
    assert unscraped(monitor, documents) == []
    nodes = 1 + len(clusters(documents)[0]["workerGroupSpecs"])
    for change in (
        lambda spec: spec["selector"]["matchLabels"].update({"rewind/role": "nodes"}),
        lambda spec: spec["podMetricsEndpoints"][0].update(port="metric"),
        lambda spec: spec["namespaceSelector"].update(matchNames=["default"]),
    ):
        other = deepcopy(monitor)
        change(other["spec"])
        assert len(unscraped(other, documents)) == nodes
