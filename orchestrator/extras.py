"""Optional packages: one sentence for every feature whose packages are not installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from orchestrator.errors import ConfigError, OrchestratorError

_ALONE = ("mobile",)  # wants other versions than constraints.txt
_CONDITIONS = {"coreml": ", on Linux or macOS", "mobile": ", in an environment of its own"}


@contextlib.contextmanager
def extra(name: str, feature: str, error: type[OrchestratorError] = ConfigError) -> Iterator[None]:
    """Import packages of the extra `name`, which `feature` needs, inside the block.

    Raises `error` if one of them is missing or fails to import: beside packages of other versions an import may raise
    anything, not only ImportError.
    """
    try:
        yield
    except Exception as cause:
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise error(
            f"{feature}: cannot import a package of the extra {name!r} ({reason}): "
            f"run {install_command(name)} in the folder of this project{_CONDITIONS.get(name, '')}"
        ) from cause


def install_command(name: str) -> str:
    """The command that installs the extra `name` into the environment of this process, in a clone of the project."""
    constraints = "" if name in _ALONE else " -c constraints.txt"
    return f"{sys.executable} -m pip install -e '.[{name}]'{constraints}"
