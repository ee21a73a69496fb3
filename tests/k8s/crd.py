"""Validation of one document: KubeRay's schemas and CEL rules, Kubernetes' own, and a few fields of others' kinds.

A field that a schema does not know is an error everywhere: Kubernetes would drop it in silence.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.37"
_PACKED = Path(__file__).parent / "schemas" / "kuberay.json.gz"
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")

# The CEL rules in KubeRay's schemas, word for word, as predicates. Those about changes (oldSelf) have nothing to
# look at in a manifest.
CEL: dict[str, Callable[[Any], bool]] = {
    "self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']": lambda self: self in _MANAGERS,
    "!((has(self.onSuccess) || has(self.onFailure)) && has(self.deletionRules))": lambda self: (
        not (("onSuccess" in self or "onFailure" in self) and "deletionRules" in self)
    ),
    "((has(self.onSuccess) && has(self.onFailure)) || has(self.deletionRules))": lambda self: (
        ("onSuccess" in self and "onFailure" in self) or "deletionRules" in self
    ),
    "!(has(self.jobStatus) && has(self.jobDeploymentStatus))": lambda self: (
        not ("jobStatus" in self and "jobDeploymentStatus" in self)
    ),
    "has(self.jobStatus) || has(self.jobDeploymentStatus)": lambda self: (
        "jobStatus" in self or "jobDeploymentStatus" in self
    ),
}

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_LABELS = {"type": "object", "additionalProperties": _TEXT}
_METADATA = {
    "type": "object",
    "properties": {"name": _TEXT, "namespace": _TEXT, "labels": _LABELS, "annotations": _LABELS},
    "required": ["name"],
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": _object(tuple(properties), **properties)}


_SELECTOR = _object(matchLabels=_LABELS)
# Not their whole schemas (docs of the Prometheus operator's v1 and of Kueue's v1beta2): the fields that are used here.
_OTHERS = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _object(
        ("selector", "podMetricsEndpoints"),
        namespaceSelector=_object(matchNames=_TEXTS),
        selector=_SELECTOR,
        podTargetLabels=_TEXTS,
        podMetricsEndpoints=_list(port=_TEXT, interval={"type": "string", "pattern": "^[0-9]+s$"}),
    ),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): _object(),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): _object(("clusterQueue",), clusterQueue=_TEXT),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): _object(
        ("namespaceSelector", "resourceGroups"),
        namespaceSelector=_SELECTOR,
        resourceGroups=_list(
            coveredResources=_TEXTS, flavors=_list(name=_TEXT, resources=_list(name=_TEXT, nominalQuota=_TEXT))
        ),
    ),
}


@functools.cache
def kuberay() -> dict[str, Any]:
    """Kind -> schema, of ray.io/v1."""
    kinds: dict[str, Any] = json.loads(gzip.decompress(_PACKED.read_bytes()))["kinds"]
    for schema in kinds.values():
        schema["properties"]["metadata"] = _METADATA
    return kinds


def complaints(document: dict[str, Any]) -> list[str]:
    """What is wrong with the document by the schema of its kind, as `path: message`."""
    kind, version = document["kind"], document["apiVersion"]
    if version == "ray.io/v1":
        schema = kuberay()[kind]
        return [*_by_schema(document, schema), *_by_cel(document, schema)]
    if (version, kind) in _OTHERS:
        whole = _object(("metadata",), apiVersion=_TEXT, kind=_TEXT, metadata=_METADATA, spec=_OTHERS[version, kind])
        return list(_by_schema(document, whole))
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _by_schema(document: Any, schema: dict[str, Any]) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(_closed(schema)).iter_errors(document):
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


def _closed(schema: Any) -> Any:
    """The schema, with unknown fields forbidden, and without `type` where Kubernetes takes integers or strings."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    is_schema = isinstance(schema.get("type"), str)
    if is_schema and schema["type"] == "object" and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


def rules(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and text of every CEL rule in the schema; "*" stands for the items of a list."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["rule"]
    for name, inner in schema.get("properties", {}).items():
        yield from rules(inner, (*path, name))
    if isinstance(schema.get("items"), dict):
        yield from rules(schema["items"], (*path, "*"))


def _by_cel(document: Any, schema: dict[str, Any]) -> Iterator[str]:
    for path, rule in rules(schema):
        for value in _at(document, path):
            if "oldSelf" not in rule and not CEL[rule](value):
                yield f"{'.'.join(path)}: {rule}"


def _at(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if not path:
        yield value
    elif path[0] == "*":
        for item in value:
            yield from _at(item, path[1:])
    elif path[0] in value:
        yield from _at(value[path[0]], path[1:])
