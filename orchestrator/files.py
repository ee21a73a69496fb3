"""Check and write result files and folders on this machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ConfigError, ExportError, OrchestratorError

NEEDED_BYTES = 8 * 2**20  # more than a usual report needs


def expand_home(folder: str) -> str:
    """Replace "~" by the home folder, which a shell does not do in --flag=~/folder. Raises ConfigError."""
    if (result := os.path.expanduser(folder)).startswith("~"):
        raise ConfigError(f"{folder!r} names the home of an unknown user: write ./{folder} for a folder of that name")
    return result


def check_writable(folder: Path, flag: str) -> None:
    """Raise ConfigError, which names `flag`, if `folder` cannot hold a file of 8 MiB. A missing one stays missing."""
    made: list[Path] = []
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(NEEDED_BYTES))
            os.fsync(file.fileno())  # some file systems report only here that they are full
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{flag} must be a folder that can be written to, got {str(folder)!r} ({reason})") from None
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give the block a temporary file beside `path` to write; rename it to `path` if the block succeeds.

    Raises ExportError if the file cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ExportError(f"cannot write {path} ({error.strerror or error}): choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def written_for_report(path: Path) -> Iterator[None]:
    """Create the folder of `path`, and turn an OSError of the block into one sentence (OrchestratorError)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OrchestratorError(f"cannot write {path} ({reason}): choose another folder for the report") from error
