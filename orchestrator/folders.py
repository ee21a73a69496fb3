"""Folders of this machine that results go to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestrator.errors import ConfigError


def check_writable(folder: Path, flag: str) -> None:
    """Make `folder` if need be. Raises ConfigError, which names `flag`, if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{flag} must be a folder that can be written to, got {str(folder)!r} ({reason})") from None
