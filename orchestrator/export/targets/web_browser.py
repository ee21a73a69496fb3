"""A headless Chromium that runs networks: its page asks a server on this machine for work, and sends the answers."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from orchestrator.errors import ExportError

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# The sandbox needs rights that containers do not have, and the only page is ours. The others keep it off the network.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_PATIENCE_S = 300  # for one answer
_MEASURE = Path(__file__).with_name("web_page") / "measure.html"


def chromium() -> str | None:
    """Return the path of Chromium, None if it is not here."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """Chromium on a folder of files, a new one after one that ended or did not answer.

    It ends when nothing refers to this object any more, and at exit.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        program = chromium()
        assert program is not None
        self._work: queue.Queue[Any] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        handler = partial(_Handler, self._work, self._answers, directory=str(self._folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        profile = tempfile.mkdtemp()
        url = f"http://127.0.0.1:{server.server_port}/{_MEASURE.name}"
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", url], stdout=quiet, stderr=quiet
        )
        self._end = weakref.finalize(self, _end, self._process, server, profile)

    def ask(self, work: dict[str, Any]) -> dict[str, Any]:
        """Have the page do a piece of work, and return its answer. Raises ExportError for what went wrong there."""
        if self._process.poll() is not None:
            self._end()
            self._start()
        self._work.put(work)
        end = time.monotonic() + _PATIENCE_S
        while True:
            with contextlib.suppress(queue.Empty):
                answer: dict[str, Any] = self._answers.get(timeout=0.1)
                break
            if self._process.poll() is not None:
                raise ExportError(f"Chromium ended with exit code {self._process.returncode}")
            if time.monotonic() > end:
                self._end()  # or the next question would get its late answer
                raise ExportError(f"Chromium did not answer within {_PATIENCE_S} s, so it was ended")
        if "error" in answer:
            raise ExportError(f"LiteRT.js cannot run the network ({answer['error'][:300]})")
        return answer


def _end(process: subprocess.Popen[bytes], server: ThreadingHTTPServer, profile: str) -> None:
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()
    shutil.rmtree(profile, ignore_errors=True)


class _Handler(SimpleHTTPRequestHandler):
    """Serve a folder, the page that measures, the next work and the place for answers."""

    def __init__(self, work: queue.Queue[Any], answers: queue.Queue[Any], *args: Any, **options: Any) -> None:
        self._work, self._answers = work, answers
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        if self.path == "/work":
            self._send(json.dumps(self._work.get()).encode(), "application/json")
        elif self.path == f"/{_MEASURE.name}":
            self._send(_MEASURE.read_bytes(), "text/html")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send(b"", "text/plain")

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
