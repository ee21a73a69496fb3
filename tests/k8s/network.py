"""Who may open a connection to whom, by the NetworkPolicies: what a network plugin would compute.

A pod that no policy selects is open; one that some select takes what any of them allows
(https://kubernetes.io/docs/concepts/services-networking/network-policies/).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from manifests import Document


@dataclass(frozen=True)
class End:
    """A pod, by its labels and its namespace's name, or an address outside (`ip`)."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "rewind"
    ip: str | None = None


def may_connect(documents: list[Document], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the target's ingress and the source's egress both let this connection pass."""
    leaves = _allows(documents, "Egress", source, target, port, protocol)
    return leaves and may_enter(documents, source, target, port, protocol)


def may_enter(documents: list[Document], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the target's ingress lets this connection pass, if nothing holds the source back."""
    return _allows(documents, "Ingress", target, source, port, protocol)


def _allows(documents: list[Document], direction: str, subject: End, peer: End, port: int, protocol: str) -> bool:
    rules = list(_rules(documents, direction, subject))
    peers = "from" if direction == "Ingress" else "to"
    return not rules or any(
        (peers not in rule or any(_is_peer(choice, peer) for choice in rule[peers]))
        and ("ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"])
        for policy in rules
        for rule in policy
    )


def _rules(documents: list[Document], direction: str, subject: End) -> Iterator[list[Document]]:
    """The rule lists of the policies that select the subject; those of the other direction do not count."""
    for document in documents:
        if document["kind"] == "NetworkPolicy" and subject.ip is None:
            spec = document["spec"]
            here = document["metadata"]["namespace"] == subject.namespace
            if here and direction in spec["policyTypes"] and _selects(spec["podSelector"], subject.labels):
                yield spec.get(direction.lower(), [])


def _is_peer(choice: Document, peer: End) -> bool:
    if "ipBlock" in choice:
        address = ipaddress.ip_address(peer.ip or "10.0.0.1")  # pods have addresses too
        block = choice["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(hole) for hole in block.get("except", [])
        )
    if peer.ip is not None:
        return False
    if "namespaceSelector" in choice:
        there = _selects(choice["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
    else:
        there = peer.namespace == "rewind"
    return there and _selects(choice.get("podSelector", {}), peer.labels)


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, "only matchLabels are evaluated here"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
