"""Files are measured in the test's process: a process for each of them costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.export import deploy
from orchestrator.export.measure import measure_here


@pytest.fixture(autouse=True, scope="module")
def _measured_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploy, "measure", measure_here)
        yield
