from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3_server import Fault, FaultProxy, S3Server
from waiting import PATIENCE_S, wait_for

from orchestrator.errors import ConfigError, DamagedError, StorageError
from orchestrator.storage import s3, s3_bulk
from orchestrator.storage.opening import open_store
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.store import MissingError, Store

MB = 1 << 20


@pytest.fixture(params=["local", "s3", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "local" else request.getfixturevalue(f"{request.param}_uri")


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri)


@pytest.fixture(autouse=True)
def patient_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` waits for a server that does answer."""
    monkeypatch.setattr(s3, "CHECK_PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(s3, "CHECK_ANSWER_S", PATIENCE_S)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections, and that nobody else can take."""
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{ours.getsockname()[1]}"


def fill(store: Store, *paths: str) -> None:
    for path in paths:
        store.write(path, path.encode())


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


# The same behaviour, wherever the bytes live.


@pytest.mark.parametrize(("start", "size"), [(0, 1), (0, 1000), (999, 1), (400, 17)])
def test_a_part_of_a_file(store: Store, start: int, size: int) -> None:
    whole = bytes(i * i % 251 for i in range(1000))
    store.write("file", whole)
    assert store.read_part("file", start, size) == whole[start : start + size]


@pytest.mark.parametrize(("start", "size"), [(0, 1001), (999, 2), (1000, 1), (5000, 5), (1, 1 << 40), (1 << 61, 5)])
def test_a_part_that_is_not_there_is_damage(store: Store, start: int, size: int) -> None:
    store.write("file", bytes(1000))
    with pytest.raises(DamagedError, match=f"file ends before byte {start + size}: it was cut off"):
        store.read_part("file", start, size)
    with pytest.raises(MissingError, match="does not exist"):
        store.read_part("other", 0, 1)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 50, memoryview(b"a view"), b"b" * (9 * MB)])
def test_written_bytes_are_read_back(store: Store, data: bytes | memoryview) -> None:
    store.write("rounds/ab/file", b"something older and longer than some")
    store.write("rounds/ab/file", data)
    assert store.read("rounds/ab/file") == bytes(data)
    assert store.list() == ["rounds/ab/file"]


NAMES = ["x.gz", "100%25", "a#b?c&d=e", "a b", "a+b", "ümläut", "x.zst", ".hidden", "'\"<&>", "~", "a:b"]


@pytest.mark.parametrize(("size", "names"), [(3, NAMES), (9 * MB, NAMES[:3])], ids=["small", "bulk"])
def test_any_printable_name_is_kept_as_it_is(store: Store, size: int, names: list[str]) -> None:
    for name in names:
        store.write(f"folder/{name}", name.encode() + b"z" * size)
    assert store.list() == sorted(f"folder/{name}" for name in names)
    for name in names:
        assert store.exists(f"folder/{name}")
        assert store.read(f"folder/{name}") == name.encode() + b"z" * size
    store.delete_tree("folder")
    assert store.list() == []


@pytest.mark.parametrize("path", ["nope", "rounds", "rounds/", "rounds/ab/file/below"])
def test_what_is_not_a_file_is_missing(store: Store, path: str) -> None:
    fill(store, "rounds/ab/file", "nope.json")
    path = path.rstrip("/")
    assert not store.exists(path)
    with pytest.raises(MissingError, match=path):
        store.read(path)
    store.delete(path)
    assert store.list() == ["nope.json", "rounds/ab/file"]


def test_create_keeps_the_first(store: Store) -> None:
    assert store.create("claims/k.json", b"first")
    assert not store.create("claims/k.json", b"second")
    assert not store.create("claims/k.json", b"first")
    assert store.read("claims/k.json") == b"first"
    store.delete("claims/k.json")
    assert store.create("claims/k.json", b"third")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a", "rounds/a/1", "rounds/a/2", "rounds/b", "rounds2/c"]),
        ("rounds", ["rounds/a/1", "rounds/a/2", "rounds/b"]),
        ("rounds/", ["rounds/a/1", "rounds/a/2", "rounds/b"]),
        ("rounds/a", ["rounds/a/1", "rounds/a/2"]),
        ("round", []),
        ("a", []),
        ("nothing/here", []),
    ],
)
def test_list_and_delete_tree_take_whole_folders(store: Store, prefix: str, expected: list[str]) -> None:
    everything = ["a", "rounds/a/1", "rounds/a/2", "rounds/b", "rounds2/c"]
    fill(store, *reversed(everything))
    assert store.list(prefix) == expected
    if prefix:
        store.delete_tree(prefix)
        assert store.list() == sorted(set(everything) - set(expected))


def test_delete_tree_never_empties_a_whole_store(store: Store) -> None:
    fill(store, "a")
    with pytest.raises(StorageError, match="whole store"):
        store.delete_tree("")
    assert store.list() == ["a"]


@pytest.mark.parametrize(
    "path", ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", ".tmp-1"]
)
def test_paths_that_lead_elsewhere_are_refused(store: Store, path: str) -> None:
    calls: list[Any] = [store.read, store.exists, store.delete]
    calls += [lambda p: store.write(p, b""), lambda p: store.create(p, b"")]
    if path not in ("", "a/"):  # a folder may be named so
        calls += [store.list, store.delete_tree]
    for call in calls:
        with pytest.raises(StorageError, match="a path in storage"):
            call(path)


def test_a_store_travels(store: Store) -> None:
    fill(store, "a")
    for copy in (pickle.loads(pickle.dumps(store)), open_store(store.uri)):
        assert copy.read("a") == b"a"
        assert (copy.uri, copy.is_local) == (store.uri, store.is_local)


def test_check_passes_and_leaves_nothing(store: Store) -> None:
    store.check()
    assert store.list() == []


def test_of_racing_writers_exactly_one_creates(uri: str) -> None:
    stores = [open_store(uri) for _ in range(8)]
    barrier = threading.Barrier(8)

    def race(writer: int) -> list[bool]:
        won = []
        for i in range(20):
            barrier.wait(timeout=PATIENCE_S)
            won.append(stores[writer].create(f"race/{i}", f"writer {writer}".encode()))
        return won

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    winners = [[writer for writer in range(8) if results[writer][i]] for i in range(20)]
    assert [len(w) for w in winners] == [1] * 20
    assert [stores[0].read(f"race/{i}") for i in range(20)] == [f"writer {w[0]}".encode() for w in winners]


# Opening.


def test_relative_folders_are_fixed_where_they_were_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    stores = {name: open_store(name) for name in ("./runs", "runs", "~/runs", f"file://{tmp_path}/a%20b")}
    pickled = {name: pickle.dumps(store) for name, store in stores.items()}
    monkeypatch.chdir("/")
    places = {"./runs": "runs", "runs": "runs", "~/runs": "home/runs", f"file://{tmp_path}/a%20b": "a b"}
    for name, place in places.items():
        pickle.loads(pickled[name]).write("x", name.encode())
        assert (tmp_path / place / "x").read_bytes() == open_store(stores[name].uri).read("x") == name.encode()


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("", "must be a folder"),
        ("runs\0", "must be a folder"),
        ("gs://bucket/runs", r"file:///data/runs or s3://bucket/prefix, got the scheme 'gs'"),
        ("http://host/runs", "the scheme 'http'"),
        ("S3://bucket", "the scheme 'S3'"),
        ("s3://", "names a bucket"),
        ("s3:///runs", "names a bucket"),
        ("s3:/bucket/runs", "names a bucket"),
        ("s3://b/runs", "names a bucket"),
        ("s3://bucket/a/../b", "relative and plain"),
        ("s3://bucket/a//b", "relative and plain"),
        ("file://host/runs", "three slashes"),
        ("file:/runs", "three slashes"),
    ],
)
def test_malformed_uris_are_refused(uri: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        open_store(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIDPLANTED:SECRETPLANTED@bucket/runs",
        "s3://SECRETPLANTED@bucket/runs",
        "s3://bucket/runs?secret_key=SECRETPLANTED",
        "s3://bucket/runs#SECRETPLANTED",
        "s3://[SECRETPLANTED@bucket/runs",
        "https://user:SECRETPLANTED@host/runs",
        "file://user:SECRETPLANTED@host/runs",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "SECRETPLANTED" not in str(caught.value)


# Local folders.


@pytest.mark.parametrize("call", ["store.write('file', data)", "store.create(f'file{i % 20}', data)"])
def test_sigkill_leaves_no_partial_file(tmp_path: Path, call: str) -> None:
    code = f"""
import sys; from orchestrator.storage.opening import open_store
store = open_store(sys.argv[1]); print("writing", flush=True)
for i in range(10**6): data = bytes([i % 256]) * (16 << 20); {call}
"""
    store = open_store(str(tmp_path / "runs"))
    store.write("file", b"o" * (16 * MB))
    leftovers, started = 0, time.monotonic()
    for kill in itertools.count():
        if kill >= 8 and leftovers > 0:
            break
        assert time.monotonic() - started < PATIENCE_S, "no kill ever hit the middle of a write"
        process = run_python(code, str(tmp_path / "runs"))
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 0.05 + 0.013 * kill
        while time.monotonic() < deadline:
            for path in store.list():  # what a reader sees meanwhile
                assert (tmp_path / "runs" / path).stat().st_size == 16 * MB
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        for path in store.list():
            data = store.read(path)
            assert data == data[:1] * (16 * MB)
            if path != "file":
                store.delete(path)
        leftovers += sum(1 for _ in (tmp_path / "runs").rglob(".tmp-*"))
    store.check()


def test_of_racing_processes_exactly_one_creates(tmp_path: Path) -> None:
    code = """
import os, sys; from orchestrator.storage.opening import open_store
store = open_store(sys.argv[1]); store.write(f"ready/{os.getpid()}", b"")
while len(store.list("ready")) < 8: pass
print(sum(store.create(f"race/{i}", str(os.getpid()).encode()) for i in range(200)))
"""
    processes = [run_python(code, str(tmp_path)) for _ in range(8)]
    won = {process.pid: int(process.communicate(timeout=PATIENCE_S)[0]) for process in processes}
    owners = [int(open_store(str(tmp_path)).read(f"race/{i}")) for i in range(200)]
    assert won == {pid: owners.count(pid) for pid in won}


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("call", ["check", "write", "create", "read", "list", "delete", "exists", "delete_tree"])
def test_permission_denied_is_told(tmp_path: Path, call: str) -> None:
    closed = tmp_path / "closed"
    store = open_store(str(closed / "runs"))
    fill(store, "a/b")
    arguments = {"check": [], "write": ["x", b""], "create": ["x", b""], "list": ["a"]}.get(call, ["a/b"])
    closed.chmod(0o000)
    try:
        with unprivileged(), pytest.raises(StorageError, match=rf"cannot \w+ {closed}.*: permission denied: choose"):
            getattr(store, call)(*arguments)
    finally:
        closed.chmod(0o755)


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="a file is in the place of a folder"):
        open_store(str(tmp_path / "runs")).check()
    store = open_store(str(tmp_path))
    for call in (store.write, store.create):
        with pytest.raises(StorageError, match="a file is in the place of a folder"):
            call("runs/below/x", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="a folder is in the place of a file"):
        store.write("folder", b"")
    assert store.list() == ["runs"]


def test_disk_full_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    code = """
import subprocess, sys; from orchestrator.errors import StorageError
from orchestrator.storage.opening import open_store
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", sys.argv[1]], check=True)
store = open_store(sys.argv[1]); store.write("file", b"old")
for call in (store.write, store.create):
    try: call("file", b"n" * (2 << 20))
    except StorageError as error: print(error)
print(store.read("file"), store.list())
store.check()
"""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a small disk needs a mount namespace, which this system does not allow")
    command = ["unshare", "-rm", sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    told = f"cannot write {tmp_path}/file: the disk is full: free some space, or choose another storage"
    assert said.stdout.splitlines() == [told, told, "b'old' ['file']"]


# S3: settings.


def test_listing_and_deleting_go_beyond_one_page(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PAGE", 7)
    store = S3Store(s3_uri)
    many = [f"many/{i:04}" for i in range(30)]
    fill(store, "kept", *many)
    assert store.list("many") == many
    assert fault_proxy.count("GET") == 5
    store.delete_tree("many")
    assert (fault_proxy.count("POST"), fault_proxy.count("DELETE")) == (0, 30)  # not every store has DeleteObjects
    assert store.list() == ["kept"]


def test_no_secret_travels(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import cloudpickle

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDPLANTED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETPLANTED")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "TOKENPLANTED")
    store = open_store(s3_uri)
    store.write("small", b"s")  # the client exists now
    shown = [repr(store).encode(), store.uri.encode(), repr(vars(store)).encode()]
    shown += [pickle.dumps(store), cloudpickle.dumps(store)]
    for planted in (b"SECRETPLANTED", b"AKIDPLANTED", b"TOKENPLANTED"):
        assert not [text for text in shown if planted in text]


def test_each_node_reaches_the_store_from_its_own_environment(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{nobody}")
    store = S3Store(s3_uri, patience_s=0)
    with pytest.raises(StorageError, match="cannot reach"):
        store.list()
    pickled = pickle.dumps(store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    pickle.loads(pickled).write("x", b"there")
    assert open_store(s3_uri).read("x") == b"there"


@pytest.mark.parametrize("where", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "both", "profile"])
def test_the_endpoint_is_found(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nobody: str, where: str
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    if where == "profile":
        (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {endpoint}\nregion = eu-west-1\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "lab")
        monkeypatch.delenv("AWS_REGION")
        (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = a\naws_secret_access_key = b\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif where == "both":  # the one for S3 wins
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{nobody}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    else:
        monkeypatch.setenv(where, endpoint)
    store = S3Store(s3_uri)
    store.write("x", b"there")
    assert store.read("x") == b"there"
    assert store._client.meta.region_name == ("eu-west-1" if where == "profile" else "us-east-1")


# S3: what `check` tells before any training.


def told_by_check(uri: str) -> str:
    with pytest.raises(StorageError) as caught:
        open_store(uri).check()
    message = str(caught.value)
    assert "\n" not in message
    assert f"tried for {PATIENCE_S:g} s" not in message, "waited for what does not pass"
    return message


def test_check_tells_an_unreachable_endpoint(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(s3, "CHECK_PATIENCE_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:SECRETPLANTED@{nobody}")
    message = told_by_check(s3_uri)
    assert f"cannot reach http://{nobody} for {s3_uri}" in message
    assert "AWS_ENDPOINT_URL" in message
    assert "(tried for 1 s)" in message
    assert "SECRETPLANTED" not in message + caplog.text
    assert "trying again for up to 1 s" in caplog.text  # at once: who mistyped the address need not wait


def test_check_tells_an_endpoint_that_never_answers(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CHECK_PATIENCE_S", 0.5)
    monkeypatch.setattr(s3, "CHECK_ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        assert f"cannot reach {endpoint}" in (message := told_by_check(s3_uri))
        assert "AWS_ENDPOINT_URL_S3" in message
        assert "(tried for 0.5 s)" in message


def test_an_endpoint_that_is_no_s3_is_told(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Website(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html><p>Welcome")

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))  # who leaves it unread may reset the connection
            self.send_error(501)

    with ThreadingHTTPServer(("127.0.0.1", 0), Website) as website:
        threading.Thread(target=website.serve_forever, args=[0.02], daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint := f"http://127.0.0.1:{website.server_port}")
        assert f"{endpoint} refuses s3:PutObject on {s3_uri}/probe-" in told_by_check(s3_uri)
        with pytest.raises(StorageError, match=f"{endpoint} fails at s3:ListBucket"):
            S3Store(s3_uri, patience_s=0).list()
        website.shutdown()


def test_check_tells_a_missing_bucket(s3_uri: str) -> None:
    message = told_by_check("s3://no-such-bucket/runs")
    assert "bucket 'no-such-bucket' does not exist at http://127.0.0.1" in message
    assert "create it" in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "AWS_ENDPOINT_URL (http://host:port)"),
        ("AWS_REGION", "not a region", "check AWS_ENDPOINT_URL"),
        ("AWS_PROFILE", "nobody", "AWS_PROFILE"),
        ("AWS_ACCESS_KEY_ID", "", "no credentials for s3://"),
        ("AWS_SECRET_ACCESS_KEY", "", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_check_tells_wrong_settings(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert expected in told_by_check(s3_uri)


def policy(*denied: str) -> str:
    rules = [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
    rules += [{"Effect": "Deny", "Action": action, "Resource": "*"} for action in denied]
    return json.dumps({"Version": "2012-10-17", "Statement": rules})


@pytest.mark.parametrize("denied", ["s3:*", "s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject"])
def test_check_tells_a_missing_permission(
    s3_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    key, secret = s3_server.new_user(s3_uri.split("/")[2], policy(denied))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with s3_server.enforce_iam():
        message = told_by_check(s3_uri)
    assert "access denied at http://127.0.0.1" in message
    lacking = denied.replace("*", "PutObject")
    assert f"these credentials lack {lacking} on {s3_uri}/probe-" in message


@pytest.mark.parametrize(("wrong", "code"), [("KEY_ID", "InvalidAccessKeyId"), ("SECRET", "SignatureDoesNotMatch")])
def test_check_tells_bad_credentials(
    s3_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, wrong: str, code: str
) -> None:
    key, secret = s3_server.new_user(s3_uri.split("/")[2], policy())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDPLANTEDPLANTED" if wrong == "KEY_ID" else key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETPLANTED" if wrong == "SECRET" else secret)
    with s3_server.enforce_iam():
        message = told_by_check(s3_uri)
    assert f"refuses the credentials ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in message
    assert "PLANTED" not in message


def test_check_passes_with_the_permissions_that_the_message_names(
    s3_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    rules = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
    only = json.dumps({"Version": "2012-10-17", "Statement": rules})
    key, secret = s3_server.new_user(s3_uri.split("/")[2], only)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with s3_server.enforce_iam():
        store = open_store(s3_uri)
        store.check()
        store.write("bulk", b"b" * (9 * MB))
        assert store.read("bulk") == b"b" * (9 * MB)


def test_check_tells_a_server_without_create_if_absent(s3_uri: str, fault_proxy: FaultProxy) -> None:
    fault_proxy.inject("status", method="PUT", status=501, code="NotImplemented")
    assert "s3:PutObject" in (message := told_by_check(s3_uri))
    assert "NotImplemented" in message


def test_check_tells_a_server_that_ignores_if_none_match(s3_uri: str, fault_proxy: FaultProxy) -> None:
    fault_proxy.inject("forget", method="PUT", times=99)
    assert "does not keep two writers apart: it must honour If-None-Match" in told_by_check(s3_uri)
    assert open_store(s3_uri).list() == []


# S3: failures in mid-run.

BULK = 11 * MB  # two parts
FAULTS: list[dict[str, Any]] = [
    {"action": "status", "status": 500, "code": "InternalError"},
    {"action": "status", "status": 503, "code": "SlowDown"},
    {"action": "status", "status": 400, "code": "RequestTimeout"},
    {"action": "reset"},
    {"action": "drop"},
    {"action": "truncate"},
]
PERMANENT = ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "ExpiredToken"]
CALLS: dict[str, Any] = {
    "read": (lambda s: s.read("old"), b"old"),
    "read_part": (lambda s: s.read_part("old", 1, 2), b"ld"),
    "write": (lambda s: (s.write("x", b"x"), s.read("x"))[1], b"x"),
    "write bulk": (lambda s: (s.write("x", b"x" * BULK), s.read("x"))[1], b"x" * BULK),
    "create": (lambda s: (s.create("x", b"x"), s.read("x")), (True, b"x")),
    "create again": (lambda s: s.create("old", b"x"), False),
    "exists": (lambda s: (s.exists("old"), s.exists("x")), (True, False)),
    "list": (lambda s: s.list("folder"), ["folder/1", "folder/2"]),
    "delete": (lambda s: (s.delete("old"), s.exists("old"))[1], False),
    "delete_tree": (lambda s: (s.delete_tree("folder"), s.list())[1], ["old"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_passes_is_tried_again(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.01)
    store = S3Store(s3_uri)
    act, expected = CALLS[call]
    for fault in FAULTS[-3:] if call == "write bulk" else FAULTS:
        fill(store, "old", "folder/1", "folder/2")
        store.delete("x")
        fault_proxy.inject(**fault, times=2)
        assert act(store) == expected, fault
        assert fault_proxy.faults_left == 0


def test_a_bulk_read_that_breaks_off_is_tried_again(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.01)
    store, data = S3Store(s3_uri), os.urandom(BULK)
    store.write("x", data)
    fault_proxy.inject("truncate", method="GET", times=5)
    fault_proxy.inject("reset", method="GET", times=2)
    assert store.read("x") == data
    assert fault_proxy.faults_left == 0


@pytest.mark.parametrize("call", CALLS)
def test_what_does_not_pass_is_told_at_once(s3_uri: str, fault_proxy: FaultProxy, call: str) -> None:
    store = S3Store(s3_uri)
    fill(store, "old", "folder/1")
    for code in PERMANENT:
        fault_proxy.seen.clear()
        fault_proxy.inject("status", status=403, code=code, times=99)
        with pytest.raises(StorageError):
            CALLS[call][0](store)
        assert len(fault_proxy.seen) == 1, code
        fault_proxy.heal()


BULK_REQUESTS = [("POST", "x?uploads"), ("PUT", "partNumber=1"), ("PUT", "partNumber=2"), ("POST", "x?uploadId")]


def unfinished(s3_server: S3Server, uri: str) -> list[Any]:
    return list(s3_server.admin.list_multipart_uploads(Bucket=uri.split("/")[2]).get("Uploads", []))


@pytest.mark.parametrize(("method", "part"), BULK_REQUESTS)
def test_a_refused_bulk_upload_leaves_the_old_object(
    s3_uri: str, s3_server: S3Server, fault_proxy: FaultProxy, method: str, part: str
) -> None:
    store = S3Store(s3_uri)
    store.write("x", b"old")
    fault_proxy.inject("status", method=method, part=part, status=403, code="AccessDenied", times=99)
    with pytest.raises(StorageError, match=r"lack s3:PutObject on s3://.*/runs/x"):
        store.write("x", b"n" * BULK)
    assert sum(seen == method and part in path for seen, path in fault_proxy.seen) == 1
    assert store.read("x") == b"old"
    assert unfinished(s3_server, s3_uri) == []


def test_parts_that_have_arrived_are_not_sent_again(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(s3_bulk, "PART_BYTES", 5 * MB)
    store, data = S3Store(s3_uri), os.urandom(BULK)
    for method, wanted in (("PUT", 3), ("GET", 4)):  # 4: the first one tells the size
        fault_proxy.seen.clear()
        fault_proxy.inject("status", method=method, part="partNumber=3" if method == "PUT" else "", times=1)
        if method == "PUT":
            store.write("x", data)
        else:
            assert store.read("x") == data
        assert fault_proxy.count(method) == wanted + 1


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(
    s3_uri: str, s3_server: S3Server, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.01)
    store, new = S3Store(s3_uri), os.urandom(BULK + 1)
    store.write("x", b"o" * BULK)
    bucket, replaced = s3_uri.split("/")[2], threading.Event()

    def replace(method: str, path: str) -> Fault | None:
        fault_proxy.seen.append((method, path))
        if len(fault_proxy.seen) > 1 and not replaced.is_set():
            replaced.set()
            s3_server.admin.put_object(Bucket=bucket, Key="runs/x", Body=new)
        return None

    fault_proxy.seen.clear()
    monkeypatch.setattr(fault_proxy, "next_fault", replace)
    assert store.read("x") == new


@pytest.fixture
def ctrl_c() -> Iterator[threading.Event]:
    """Set when Python answers one as in a terminal: whoever starts the tests in the background has SIGINT ignored."""
    answered = threading.Event()

    def answer(number: int, frame: Any) -> None:
        answered.set()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, answer)
    yield answered
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("method", "part"), BULK_REQUESTS[1:])
def test_ctrl_c_leaves_a_whole_object(
    s3_uri: str,
    s3_server: S3Server,
    fault_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    part: str,
    ctrl_c: threading.Event,
) -> None:
    store = S3Store(s3_uri)
    store.write("x", b"old")

    def interrupt(seen: str, path: str) -> Fault | None:
        if seen == method and part in path and not ctrl_c.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            assert ctrl_c.wait(PATIENCE_S)
        return None

    monkeypatch.setattr(fault_proxy, "next_fault", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write("x", b"n" * BULK)
    wait_for(lambda: unfinished(s3_server, s3_uri) == [], "the unfinished upload is removed", pause=0.02)
    assert store.read("x") in (b"old", b"n" * BULK)


def test_an_outage_is_waited_for_and_told_twice(
    s3_uri: str, fault_proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    store = S3Store(s3_uri)
    assert store.list() == []  # the client, which takes a while, is there
    fault_proxy.inject("reset", method="PUT", times=3)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "orchestrator"):
        store.write("x", b"x")
    assert time.monotonic() - started >= 0.8  # it backs off
    assert store.read("x") == b"x"
    first, second = [record.getMessage() for record in caplog.records]
    assert f"cannot reach {fault_proxy.url}" in first
    assert "trying again for up to 300 s" in first
    assert "works again after" in second
    assert fault_proxy.count("PUT") == 4


def test_patience_ends(s3_uri: str, fault_proxy: FaultProxy) -> None:
    store = S3Store(s3_uri, patience_s=1.0)
    fault_proxy.inject("status", times=9)
    with pytest.raises(StorageError, match=r"fails at s3:PutObject on .*/runs/x \(SlowDown .*\(tried for 1 s\)"):
        store.write("x", b"x")
    assert fault_proxy.count("PUT") <= 4  # the fifth would come later than a second


def test_a_create_whose_answer_was_lost_is_ours_only_if_the_bytes_are(s3_uri: str, fault_proxy: FaultProxy) -> None:
    store = S3Store(s3_uri)
    fault_proxy.inject("drop", method="PUT")
    assert store.create("claims/a", b"ours")
    assert fault_proxy.count("PUT") == 2
    fault_proxy.inject("drop", method="PUT", times=2)
    assert not store.create("claims/a", b"not ours")
    assert not store.create("claims/a", b"ours")  # no failure: somebody made it before
    assert store.read("claims/a") == b"ours"


def test_sigkill_in_mid_upload_leaves_the_old_object(s3_uri: str, fault_proxy: FaultProxy) -> None:
    code = """
import sys; from orchestrator.storage.opening import open_store
open_store(sys.argv[1]).write("file", b"n" * (40 << 20))
"""
    store = S3Store(s3_uri)
    store.write("file", b"old")
    fault_proxy.inject("delay", method="PUT", seconds=PATIENCE_S)
    process = run_python(code, s3_uri)
    wait_for(lambda: sum("partNumber" in path for _, path in fault_proxy.seen) >= 3, "three parts travel", pause=0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert store.read("file") == b"old"
    assert store.list() == ["file"]


def test_a_large_object_comes_back_the_same(s3_uri: str) -> None:
    data = os.urandom(MB) * 40
    store = open_store(s3_uri)
    store.write("rounds/k/model.safetensors", memoryview(data))
    assert store.read("rounds/k/model.safetensors") == data


def test_patience_is_five_minutes_unless_told_otherwise(s3_uri: str) -> None:
    assert S3Store(s3_uri).patience_s == s3.PATIENCE_S == 300
