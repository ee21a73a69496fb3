"""Settings that every AWS tool heeds: proxies, certificates, roles, addressing, checksums."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path

import pytest
from s3_server import FaultProxy

from orchestrator.errors import StorageError
from orchestrator.storage.opening import open_store
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.s3_client import s3_client

BEHIND = "http://store.behind-a-proxy.invalid:9000"


@pytest.fixture
def settings(s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AWS configuration file, empty at first."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text("")
    return tmp_path / "config"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_a_proxy_is_heeded(s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", BEHIND)
    monkeypatch.setenv(name, fault_proxy.url)
    open_store(s3_uri).check()
    assert {path.split("/test-")[0] for _, path in fault_proxy.seen} == {BEHIND}


def test_a_refusal_names_the_proxy_on_the_way(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", BEHIND)
    monkeypatch.setenv("HTTP_PROXY", fault_proxy.url.replace("//", "//user:SECRETPLANTED@"))
    fault_proxy.inject("status", status=403, body=b"<html>forbidden by the firm")
    with pytest.raises(StorageError) as caught:
        S3Store(s3_uri).list()
    assert f"{BEHIND} (through the proxy {fault_proxy.url})" in str(caught.value)
    fault_proxy.heal()
    fault_proxy.inject("reset", times=9)
    with pytest.raises(StorageError, match="and the proxy in HTTP_PROXY or HTTPS_PROXY") as caught:
        S3Store(s3_uri, patience_s=0).list()
    assert "SECRETPLANTED" not in str(caught.value)


def test_a_certificate_of_ones_own_is_trusted_if_named(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    command += ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    fault_proxy.socket = context.wrap_socket(fault_proxy.socket, server_side=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.url.replace("http:", "https:"))
    with pytest.raises(StorageError, match=r"not trusted.*: set AWS_CA_BUNDLE to the file"):
        S3Store(s3_uri).list()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "no such file"))
    with pytest.raises(StorageError, match="set AWS_CA_BUNDLE to the file"):
        S3Store(s3_uri).list()
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
    open_store(s3_uri).check()


def test_a_role_is_assumed(
    s3_uri: str, settings: Path, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "arn:aws:iam::123456789012:role/trainer"
    settings.write_text(
        f"[profile lab]\nrole_arn = {role}\nsource_profile = me\nregion = us-east-1\n"
        "[profile me]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    open_store(s3_uri).check()
    assert fault_proxy.seen[0] == ("POST", "/")  # to the service that gives out credentials
    refused = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>injected</Message></Error></ErrorResponse>"
    fault_proxy.inject("status", status=403, body=refused, method="POST")
    with pytest.raises(StorageError, match=r"cannot be assumed \(AccessDenied injected\): check role_arn and source"):
        S3Store(s3_uri).list()


def test_the_bucket_may_be_a_part_of_the_hosts_name(
    s3_uri: str, settings: Path, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", BEHIND)
    monkeypatch.setenv("HTTP_PROXY", fault_proxy.url)
    fault_proxy.inject("status", status=403, code="AccessDenied", times=9)
    for bulk_bytes in (0, 9):
        with pytest.raises(StorageError):
            S3Store(s3_uri, bulk_bytes=bulk_bytes).write("x", b"x")
    place = BEHIND.replace("//", f"//{s3_uri.split('/')[2]}.")
    assert [path for _, path in fault_proxy.seen] == [f"{place}/runs/x?uploads", f"{place}/runs/x"]


@pytest.mark.parametrize("where", ["nowhere", "variable", "file"])
def test_only_required_checksums_unless_asked_for(settings: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    names = ("request_checksum_calculation", "response_checksum_validation")
    if where == "variable":
        for name in names:
            monkeypatch.setenv(f"AWS_{name.upper()}", "when_supported")
    elif where == "file":
        settings.write_text("[default]\n" + "".join(f"{name} = when_supported\n" for name in names))
    config = s3_client().meta.config
    chosen = "when_required" if where == "nowhere" else "when_supported"
    assert {getattr(config, name) for name in names} == {chosen}
    assert "AWS_ENDPOINT_URL" in os.environ
