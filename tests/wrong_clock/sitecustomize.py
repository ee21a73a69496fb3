"""Python imports this at its start where the folder is on PYTHONPATH: its `time.time` is CLOCK_SHIFT seconds wrong."""

import os
import time

SHIFT = float(os.environ.get("CLOCK_SHIFT", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + SHIFT
time.time_ns = lambda: _time_ns() + int(SHIFT * 1e9)
