"""Read the name of a model: ours, one of a library, or a function of the user's. Imports no library."""

from __future__ import annotations

LIBRARIES = ("torchvision", "timm")
OFA = "ofa:"  # the model is a network of a Once-for-All space: "ofa:mobilenetv3"


def is_classifier(spec: str) -> bool:
    """Return whether `spec` is "torchvision:NAME" or "timm:NAME", not a user's function."""
    package, colon, _ = spec.partition(":")
    return bool(colon) and package in LIBRARIES


def names_known_code(spec: str) -> bool:
    """Return whether `spec` names a network of ours or of a library, and no function of the user's."""
    return ":" not in spec or is_classifier(spec) or spec.startswith(OFA)
