"""How long a test waits until something counts as hanging: a busy machine needs several times what a quiet one does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 600.0
# Ray gives its own parts half a minute or one to start; a busy machine may need more. Its GCS keeps Ray's limit:
# whoever comes with a wrong token waits as long for it.
RAY_STARTS = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
}
T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: object, pause: float = 0.1) -> T:
    """What `condition` returns as soon as that is true; `what`, which may be a function, is said if it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {PATIENCE_S:g} s: {what() if callable(what) else what}"
        time.sleep(pause)
    return found
