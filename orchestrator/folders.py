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


NEEDED_BYTES = 8 * 2**20  # more than most reports take


def check_writable(folder: Path, flag: str) -> None:
    """Make `folder` if need be. Raises ConfigError, which names `flag`, if no files of 8 MiB can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(NEEDED_BYTES))
            os.fsync(file.fileno())  # some file systems find out only here that they are full
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{flag} must be a folder that can be written to, got {str(folder)!r} ({reason})") from None
