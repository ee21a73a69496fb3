"""Import packages that may be missing: one sentence for every feature whose packages are not installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ConfigError, OrchestratorError

PROJECT = Path(__file__).resolve().parents[1]
_ALONE = ("mobile",)  # wants other versions than constraints.txt
_CONDITIONS = {"coreml": ", on Linux or macOS", "mobile": ", in an environment of its own"}


@contextlib.contextmanager
def extra(name: str | None, feature: str, error: type[OrchestratorError] = ConfigError) -> Iterator[None]:
    """Import packages of the extra `name`, which `feature` needs, inside the block. None: of every installation.

    Raises `error` if one of them is missing or fails to import: beside packages of other versions an import may raise
    anything, not only ImportError.
    """
    try:
        yield
    except Exception as cause:
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        package = f"a package of the extra {name!r}" if name else "a required package"
        place = " in the folder of this project" if _is_clone() else ""
        raise error(
            f"{feature}: cannot import {package} ({reason}): "
            f"run {install_command(name)}{place}{_CONDITIONS.get(name or '', '')}"
        ) from cause


def install_command(name: str | None) -> str:
    """Return the command that installs the extra `name` into this process's environment. None: what is required.

    In a clone of the project the command installs the clone; elsewhere it names the distribution.
    """
    extras = f"[{name}]" if name else ""
    if not _is_clone():
        return f"{sys.executable} -m pip install 'rewind-orchestrator{extras}'"
    constraints = "" if name in _ALONE else " -c constraints.txt"
    return f"{sys.executable} -m pip install -e '.{extras}'{constraints}"


def _is_clone() -> bool:
    """Return whether this package lies in a clone of the project, not among installed packages."""
    return (PROJECT / "constraints.txt").exists()
