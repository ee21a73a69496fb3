"""Read a name in an experiment: ours, one of a library, or the user's own. Imports no library."""

from __future__ import annotations

LIBRARIES = ("torchvision", "timm")
OFA = "ofa:"  # the model is a network of a Once-for-All space: "ofa:mobilenetv3"


def is_classifier(spec: str) -> bool:
    """Return whether `spec` is "torchvision:NAME" or "timm:NAME", not a user's function."""
    package, colon, _ = spec.partition(":")
    return bool(colon) and package in LIBRARIES


def names_known_code(name: str) -> bool:
    """Return whether `name` is that of code of ours or of a library, and not of the user's.

    `name`: of a model, or of a class as `type_name` gives it. The user's own have their module before the name.
    """
    return is_classifier(name) or name.startswith(OFA) or not (":" in name or "." in name)
