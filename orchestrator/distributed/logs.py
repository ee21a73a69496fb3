"""Log in actors and workers: one JSON object per line, with the experiment, the seed and the round's key."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

from orchestrator.experiment import Experiment

_PLAIN = frozenset(vars(logging.makeLogRecord({})))
_ABOUT: ContextVar[str | None] = ContextVar("about", default=None)


@contextlib.contextmanager
def about_round(key: str) -> Iterator[None]:
    """Log the lines of this thread under round `key` in the block, even if the process trains another round."""
    token = _ABOUT.set(key)
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonLines(logging.Formatter):
    """Format records as JSON, with the fields of `context` and of the call's `extra` in every line."""

    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self.context = context

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self.context,
            **extra,
        }
        line["round_key"] = _ABOUT.get() or line["round_key"]
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RoundLog:
    """Write this process's log, for one path, to standard error, which Ray keeps for each of its processes."""

    def __init__(self, experiment: Experiment, process: str) -> None:
        self._context: dict[str, Any] = {
            "experiment": experiment.name,
            "seed": experiment.seed,
            "process": process,
            "round_key": None,
        }
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines(self._context))
        self._logger = logging.getLogger("orchestrator")
        self._logger.handlers, self._logger.propagate = [handler], False
        self._logger.setLevel(logging.INFO)

    def round(self, key: str | None) -> None:
        """Log all further lines under this round."""
        self._context["round_key"] = key

    def exception(self, message: str) -> None:
        """Log a line with the traceback of the exception that is being handled."""
        self._logger.exception(message)

    def info(self, message: str, **extra: Any) -> None:
        self._logger.info(message, extra=extra)
