"""Folders of this machine that results go to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from orchestrator.errors import ConfigError


def expanded(folder: str) -> str:
    """`folder` with the home that "~" means, which a shell leaves as it is in --flag=~/folder. Raises ConfigError."""
    if (result := os.path.expanduser(folder)).startswith("~"):
        raise ConfigError(f"{folder!r} names the home of an unknown user: write ./{folder} for a folder of that name")
    return result


def check_writable(folder: Path, flag: str) -> None:
    """Make `folder` if need be. Raises ConfigError, which names `flag`, if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{flag} must be a folder that can be written to, got {str(folder)!r} ({reason})") from None
