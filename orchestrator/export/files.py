"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ExportError


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; what stands there takes `path`'s place when the block ends well.

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
