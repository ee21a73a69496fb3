"""Make kuberay.json.gz: KubeRay's schemas of RayCluster and RayJob (ray.io/v1), without their descriptions.

    python tests/k8s/schemas/pack.py helm-chart/kuberay-operator/crds kuberay-1.7

The folder is of a checkout of https://github.com/ray-project/kuberay, whose license is Apache-2.0, as this project's.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

PACKED = Path(__file__).with_name("kuberay.json.gz")


def without_descriptions(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: without_descriptions(v) for k, v in schema.items() if k != "description" or isinstance(v, dict)}
    return [without_descriptions(item) for item in schema] if isinstance(schema, list) else schema


def schema_of(file: Path) -> tuple[str, Any]:
    crd = yaml.load(file.read_text(), yaml.CSafeLoader)
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    return crd["spec"]["names"]["kind"], without_descriptions(version["schema"]["openAPIV3Schema"])


if __name__ == "__main__":
    folder, source = Path(sys.argv[1]), sys.argv[2]
    kinds = dict(schema_of(folder / f"ray.io_{name}.yaml") for name in ("rayclusters", "rayjobs"))
    packed = {"source": f"https://github.com/ray-project/kuberay, {source}", "license": "Apache-2.0", "kinds": kinds}
    PACKED.write_bytes(gzip.compress(json.dumps(packed, separators=(",", ":")).encode(), mtime=0))
