"""A real S3 server process for the tests, and a proxy in front of it that fails on command."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from waiting import wait_for

HOST = "127.0.0.1"


def free_ports(count: int, host: str = HOST) -> list[int]:
    """Between those that Ray gives its workers and those that the system gives by itself, so that they stay free."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            probe, port = held.enter_context(socket.socket()), random.SystemRandom().randrange(20000, 32768)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                ports.append(port)
    return ports


def free_port(host: str = HOST) -> int:
    return free_ports(1, host)[0]


@dataclass
class S3Server:
    """A running moto server. `admin` is a boto3 client (any keys do, until `enforce_iam`)."""

    url: str
    pid: int

    @cached_property
    def admin(self) -> Any:
        return self.client("s3")

    def client(self, service: str, key: str = "admin", secret: str = "admin-secret") -> Any:
        import boto3

        session = boto3.session.Session(key, secret, region_name="us-east-1")
        return session.client(service, endpoint_url=self.url)

    def new_user(self, name: str, policy: str) -> tuple[str, str]:
        """Access key and secret of a new user who may do what the JSON `policy` says."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    @contextlib.contextmanager
    def enforce_iam(self) -> Iterator[None]:
        """From here on, unknown keys, wrong signatures and missing permissions are refused."""
        self._requests_without_auth("0")
        try:
            yield
        finally:
            self._requests_without_auth("inf")

    def _requests_without_auth(self, count: str) -> None:
        address = f"{self.url}/moto-api/reset-auth"
        request = urllib.request.Request(address, count.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=60).read()


@contextlib.contextmanager
def running_s3_server(log: Path, host: str = HOST) -> Iterator[S3Server]:
    """Start moto on a free port of `host`; killed by its process id at the end."""
    port = free_port(host)
    command = [sys.executable, str(Path(__file__).with_name("atomic_moto.py")), host, str(port)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_for(lambda: _listens(host, port, process, log), f"moto listens on port {port}", pause=0.05)
        yield S3Server(f"http://{host}:{port}", process.pid)
    finally:
        process.kill()
        process.wait()


def _listens(host: str, port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, f"moto ended; it said:\n{log.read_text()}"
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@dataclass
class Fault:
    """What the proxy does to the next `times` requests with this `method` (None: any) and `part` of the path.

    `action`: "status" answers `status`/`code` itself; "reset" resets the connection before the server hears
    of it; "drop" forwards the request, then resets instead of answering; "truncate" sends half of the answer's
    body, then resets; "delay" waits `seconds`, then forwards; "forget" forwards without If-None-Match.
    """

    action: str
    times: int = 1
    method: str | None = None
    part: str = ""
    status: int = 503
    code: str = "SlowDown"
    body: bytes | None = None  # instead of the XML with `code`
    seconds: float = 0.0


class FaultProxy(ThreadingHTTPServer):
    """An HTTP proxy on its own loopback port in front of `upstream`. `seen` lists (method, path) in order."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        super().__init__((HOST, 0), _ProxyHandler)
        self.upstream = upstream.removeprefix("http://")
        self.url = f"http://{HOST}:{self.server_port}"
        self.seen: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._cut_until = 0.0
        self._lock = threading.Lock()

    def inject(self, action: str, **fields: Any) -> None:
        with self._lock:
            self._faults.append(Fault(action, **fields))

    def cut_off(self, seconds: float) -> None:
        """Reset every connection for `seconds` from now."""
        self._cut_until = time.monotonic() + seconds

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()
            self._cut_until = 0.0

    @property
    def faults_left(self) -> int:
        return sum(fault.times for fault in self._faults)

    def count(self, method: str) -> int:
        return sum(seen == method for seen, _ in self.seen)

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            if time.monotonic() < self._cut_until:
                return Fault("reset")
            for fault in self._faults:
                if fault.times > 0 and fault.method in (None, method) and fault.part in path:
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here on purpose; a traceback on the terminal would say nothing."""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = self._body()
        fault = cast(FaultProxy, self.server).next_fault(self.command, self.path) or Fault("none")
        if fault.action == "reset":
            return self._reset()
        if fault.action == "status":
            text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
            content = text if fault.body is None else fault.body
            return self._answer(fault.status, [("Content-Type", "application/xml")], content)
        if fault.action == "delay":
            time.sleep(fault.seconds)
        if fault.action == "forget":
            del self.headers["If-None-Match"]
        status, headers, content = self._forward(body)
        if fault.action == "drop":
            return self._reset()
        self._answer(status, headers, content, keep=0.5 if fault.action == "truncate" else 1.0)
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 (the base class looks for these names)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(chunks)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(cast(FaultProxy, self.server).upstream, timeout=60)
        with contextlib.closing(connection):
            asked = urlsplit(self.path)
            if asked.netloc:  # through HTTP_PROXY, to a server that only the proxy knows
                del self.headers["Host"]
                self.headers["Host"] = cast(FaultProxy, self.server).upstream
            path = asked._replace(scheme="", netloc="").geturl()
            connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the Host header too: the signature covers it
                if name.lower() not in ("connection", "expect", "transfer-encoding", "content-length"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, keep: float = 1.0) -> None:
        self.send_response_only(status)
        is_head = self.command == "HEAD"
        own = {"connection", "transfer-encoding"} | (set() if is_head else {"content-length"})
        for name, value in headers:
            if name.lower() not in own:
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content[: int(len(content) * keep)])
        if keep < 1:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        # A linger time of 0 makes close() send RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def running_proxy(upstream: str) -> Iterator[FaultProxy]:
    with FaultProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
