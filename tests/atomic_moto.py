"""moto's S3 server, one request at a time: `python atomic_moto.py HOST PORT`.

S3 decides a conditional PUT atomically. moto's threads look for the object first and store it later, so that of
two writers at once both may win.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wsgi import get_input_stream

Answer = Callable[..., Any]


class OneAtATime:
    """A WSGI application whose requests wait for each other, once their bodies have arrived."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        environ["wsgi.input"] = io.BytesIO(get_input_stream(environ).read())  # a slow sender holds nobody up
        with self._lock:
            return list(self._moto(environ, answer))


if __name__ == "__main__":
    run_simple(sys.argv[1], int(sys.argv[2]), OneAtATime(), threaded=True, request_handler=MotoRequestHandler)
