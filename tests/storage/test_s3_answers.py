"""Refusals of real S3 servers: what is missing in them, and what the user reads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from s3_server import FaultProxy

from orchestrator.errors import StorageError
from orchestrator.storage.opening import open_store
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.s3_answers import uploads
from orchestrator.storage.s3_faults import diagnose, sentence
from orchestrator.storage.store import MissingError

BODIES = {
    "nothing": b"",
    "an empty message": b"<Error><Code>%s</Code><Message></Message></Error>",  # Ceph, for every refusal
    "no message": b"<Error><Code>%s</Code></Error>",
    "no code": b"<Error><Message>why</Message></Error>",
    "an empty code": b"<Error><Code/><Message/></Error>",
    "no field": b"<Error/>",
    "a nested message": b"<Error><Code>%s</Code><Message><b/><b>1</b></Message></Error>",
    "a website": b"<html><body>Not here<p>",
    "JSON": b'{"Error": null}',
    "half an answer": b"<Error><Co",
    "no text": b"\xff\x00\xfe",
}
CODES = {403: b"AccessDenied", 404: b"NoSuchKey", 412: b"PreconditionFailed", 500: b"InternalError"}
CALLS: dict[str, Any] = {
    "read": lambda s: s.read("x"),
    "read_part": lambda s: s.read_part("x", 0, 1),
    "write": lambda s: s.write("x", b"x"),
    "write bulk": lambda s: S3Store(s.uri, patience_s=0, bulk_bytes=0).write("x", b"x"),
    "create": lambda s: s.create("x", b"x"),
    "exists": lambda s: s.exists("x"),
    "list": lambda s: s.list(),
    "delete": lambda s: s.delete("x"),
    "check": lambda s: s.check(),
}


@pytest.mark.parametrize("body", BODIES)
def test_an_answer_may_lack_any_field(s3_uri: str, fault_proxy: FaultProxy, body: str) -> None:
    store = S3Store(s3_uri, patience_s=0)
    content = BODIES[body]
    for status, code in CODES.items():
        for name, call in CALLS.items():
            if status == 500 and name == "check":  # which has patience of its own
                continue
            fault_proxy.heal()
            whole = content % code if b"%s" in content else content
            fault_proxy.inject("status", status=status, body=whole, times=99)
            if (status, name) == (412, "create"):
                assert not call(store)
            elif (status, name) == (404, "delete"):
                call(store)
            else:
                with pytest.raises(StorageError) as caught:
                    call(store)
                assert isinstance(caught.value, MissingError) == (status == 404 and name.startswith("read"))
                assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["x?uploads", "partNumber"])
def test_a_server_that_answers_anything_with_200_is_told(s3_uri: str, fault_proxy: FaultProxy, part: str) -> None:
    fault_proxy.inject("status", part=part, status=200, body=b"<html/>", times=9)
    with pytest.raises(StorageError, match="does not answer as S3 does: check the address in AWS_ENDPOINT_URL"):
        S3Store(s3_uri, bulk_bytes=0).write("x", b"x")


OBJECT = "<Key>x</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
UPLOAD = "<Key>x</Key><UploadId>u</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated>"
LISTINGS = {
    "a website": "<html/>",
    "an empty body": "",
    "no key": OBJECT.replace("Key", "Kex"),
    "no size": OBJECT.replace("Size", "Sizx"),
    "no time": OBJECT.replace("Last", "First"),
    "a size of x": OBJECT.replace("1</S", "x</S"),
    "an empty time": OBJECT.replace("2026-01-01T00:00:00Z", ""),
    "a time of x": OBJECT.replace("2026-01-01T00:00:00Z", "x"),
    "a huge time": OBJECT.replace("2026-01-01T00:00:00Z", "9" * 30),
    "no upload's key": UPLOAD.replace("Key", "Kex"),
    "no upload's id": UPLOAD.replace("UploadId", "Id"),
    "no upload's time": UPLOAD.replace("Initiated", "Begun"),
}


@pytest.mark.parametrize("what", LISTINGS)
def test_a_listing_that_is_not_s3s_is_no_empty_storage(s3_uri: str, fault_proxy: FaultProxy, what: str) -> None:
    text, store = LISTINGS[what], S3Store(s3_uri, patience_s=0)
    if "Key" in text or "Kex" in text:
        kind = "Upload" if "upload" in what else "Contents"
        text = f"<Result><Name>b</Name><Bucket>b</Bucket><{kind}>{text}</{kind}></Result>"
    calls = [store.unfinished] if "upload" in what else [store.files]
    calls += [store.list, lambda: store.exists("x"), store.unfinished] if what in ("a website", "an empty body") else []
    fault_proxy.inject("status", status=200, body=text.encode(), times=99)
    for call in calls:
        with pytest.raises(StorageError, match="does not answer as S3 does: check the address in AWS_ENDPOINT_URL"):
            call()


@pytest.mark.parametrize("name", CALLS)
def test_a_code_that_is_not_a_text_is_not_s3s(s3_uri: str, fault_proxy: FaultProxy, name: str) -> None:
    fault_proxy.inject("status", status=403, body=b"<Error><Code><a>1</a></Code></Error>", times=99)
    with pytest.raises(StorageError, match="does not answer as S3 does"):
        CALLS[name](S3Store(s3_uri, patience_s=0))


def test_what_has_no_key_is_not_listed_in_silence(s3_uri: str, fault_proxy: FaultProxy) -> None:
    body = b"<Result><Name>b</Name><Contents><Size>1</Size></Contents></Result>"
    fault_proxy.inject("status", status=200, body=body, times=99)
    store = S3Store(s3_uri, patience_s=0)
    for call in (store.list, lambda: store.exists("x")):
        with pytest.raises(StorageError, match="does not answer as S3 does"):
            call()


def listing(*keys: str, more: str = "") -> bytes:
    contents = "".join(f"<Contents>{OBJECT.replace('<Key>x', f'<Key>{key}')}</Contents>" for key in keys)
    return f"<Result><Name>b</Name>{contents}{more}</Result>".encode()


CUT = "<IsTruncated>true</IsTruncated>"
WITHOUT_TOKEN = {
    "no token": CUT,
    "an empty token": CUT + "<NextContinuationToken></NextContinuationToken>",
    "a marker of version 1": CUT + "<NextMarker>b</NextMarker>",
}


@pytest.mark.parametrize("more", WITHOUT_TOKEN)
def test_a_listing_that_is_cut_without_a_token_goes_on_after_its_last_key(
    s3_uri: str, fault_proxy: FaultProxy, more: str
) -> None:
    store, names = S3Store(s3_uri, patience_s=0), ["a", "b", "c/d", "e"]
    for name in names:
        store.write(name, b"1")
    root = store._key("a").removesuffix("a")
    for call in (store.list, lambda: [file.path for file in store.files()[0]]):
        fault_proxy.inject("status", status=200, body=listing(root + "a", root + "b", more=WITHOUT_TOKEN[more]))
        assert call() == names


def test_a_listing_ends_where_it_says_so(s3_uri: str, fault_proxy: FaultProxy) -> None:
    store = S3Store(s3_uri, patience_s=0)
    more = "<IsTruncated>false</IsTruncated><NextContinuationToken>x</NextContinuationToken>"
    fault_proxy.inject("status", status=200, body=listing(store._key("a"), more=more))
    assert store.list() == ["a"]


@pytest.mark.parametrize(
    "keys",
    [("a",), (), ("b", "a"), ("elsewhere",)],
    ids=["the same page again", "an empty page", "keys in disorder", "keys of others"],
)
def test_a_listing_that_cannot_go_on_is_not_cut_in_silence(
    s3_uri: str, fault_proxy: FaultProxy, keys: tuple[str, ...]
) -> None:
    store = S3Store(s3_uri, patience_s=0)
    root = store._key("a").removesuffix("a")
    content = listing(*(key if key == "elsewhere" else root + key for key in keys), more=CUT)
    fault_proxy.inject("status", status=200, body=content, times=99)
    for call in (store.list, store.files, lambda: store.delete_tree("a")):
        with pytest.raises(StorageError, match="does not answer as S3 does"):
            call()
    assert fault_proxy.count("DELETE") == 0


def upload_pages(*pages: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Return a function that answers with one page after the other, and what it was asked."""
    asked: list[dict[str, Any]] = []

    def ask(**request: Any) -> dict[str, Any]:
        asked.append(request)
        return {"Bucket": "b", **pages[min(len(asked), len(pages)) - 1]}

    return ask, asked


ONE, TWO = {"Key": "p/a", "UploadId": "1"}, {"Key": "p/a", "UploadId": "2"}


@pytest.mark.parametrize(
    ("markers", "place"),
    [
        ({"NextKeyMarker": "p/a", "NextUploadIdMarker": "1"}, {"KeyMarker": "p/a", "UploadIdMarker": "1"}),
        ({"NextKeyMarker": "p/z"}, {"KeyMarker": "p/z"}),
        ({"NextKeyMarker": ""}, {"KeyMarker": "p/a", "UploadIdMarker": "1"}),
        ({}, {"KeyMarker": "p/a", "UploadIdMarker": "1"}),
    ],
)
def test_unfinished_uploads_are_listed_from_all_pages(markers: dict[str, str], place: dict[str, str]) -> None:
    ask, asked = upload_pages({"Uploads": [ONE], "IsTruncated": True, **markers}, {"Uploads": [TWO]})
    assert list(uploads(ask, "p/", Bucket="b")) == [ONE, TWO]
    assert asked == [{"Bucket": "b", "Prefix": "p/"}, {"Bucket": "b", "Prefix": "p/", **place}]


@pytest.mark.parametrize("page", [{"Uploads": [ONE]}, {}, {"Uploads": [{"Key": "q/a", "UploadId": "1"}]}])
def test_uploads_that_cannot_be_listed_to_their_end_are_an_error(page: dict[str, Any]) -> None:
    ask, _ = upload_pages({**page, "IsTruncated": True})
    with pytest.raises(ResponseParserError):
        list(uploads(ask, "p/"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_without_a_region_is_told(s3_uri: str, fault_proxy: FaultProxy, status: int) -> None:
    fault_proxy.inject("status", status=status, body=b"<html>Moved<p>", times=999)
    for call in (lambda s: s.list(), lambda s: s.read("x"), lambda s: s.write("x", b"x")):
        with pytest.raises(StorageError, match=rf"redirects s3://.* \({status}.*\), as S3 does not: check the address"):
            call(S3Store(s3_uri, patience_s=0))
    assert len(fault_proxy.seen) <= 6


def test_a_redirect_names_where_it_leads_without_a_token() -> None:
    headers = {"location": "https://login.example/start?token=secret"}
    metadata = {"HTTPStatusCode": 302, "HTTPHeaders": headers}
    told = sentence(
        diagnose(ClientError({"ResponseMetadata": metadata}, "GetObject")), "s3:GetObject", "s3://b/k", "http://store"
    )
    assert told.startswith("http://store redirects s3://b/k (302 to https://login.example/start), as S3 does not")


REFUSED = [
    # status, code, message, the way out, transient
    (
        403,
        "RequestTimeTooSkewed",
        "",
        "clock and this machine's differ (RequestTimeTooSkewed): set both with NTP",
        False,
    ),
    (403, "QuotaExceeded", None, "no space left for s3://b/k (QuotaExceeded): remove old runs, or raise", False),
    (507, "", "", "no space left for s3://b/k (507): remove old runs", False),
    (507, "XMinioStorageFull", "full", "no space left for s3://b/k (XMinioStorageFull full): remove", False),
    (400, "XMinioAdminBucketQuotaExceeded", "", "or raise the bucket's quota", False),
    (501, "NotImplemented", "A header", "does not implement (NotImplemented A header): use AWS S3 or a recent", False),
    (501, None, None, "with If-None-Match on writes, multi-part uploads and single deletes", False),
    (405, "MethodNotAllowed", "", "s3:PutObject on s3://b/k, which it does not implement", False),
    (411, "MissingContentLength", "", "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required", False),
    (403, 7, ["?"], "these credentials lack s3:PutObject on s3://b/k", False),
    (404, "", "", "bucket 'b' does not exist at http://store: create it", False),
    (400, "Strange", "one\ntwo", "(Strange one two): look the code up in the server's documentation", False),
    (503, "", "", "fails at s3:PutObject on s3://b/k (503): look at the server's log", True),
    (409, "", "", "fails at s3:PutObject", True),
]


@pytest.mark.parametrize(("status", "code", "message", "told", "transient"), REFUSED)
def test_a_refusal_has_a_way_out(status: int, code: Any, message: Any, told: str, transient: bool) -> None:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    fault = diagnose(ClientError(answer, "PutObject"))
    assert told in sentence(fault, "s3:PutObject", "s3://b/k", "http://store")
    assert fault.transient == transient


@pytest.mark.parametrize("answer", [{}, {"Error": {}}, {"Error": {"Code": "X"}, "ResponseMetadata": {}}])
def test_an_answer_without_its_parts_is_a_lasting_refusal(answer: Any) -> None:
    assert not diagnose(ClientError(answer, "PutObject")).transient


@pytest.mark.parametrize(("method", "part"), [("PUT", ""), ("GET", "list-type"), ("GET", "/file")])
def test_a_check_that_is_refused_leaves_no_probe(
    s3_uri: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, method: str, part: str
) -> None:
    plain, puts = fault_proxy.next_fault, itertools.count()

    def refuse(asked: str, path: str) -> Any:
        makes_probe = asked == "PUT" and next(puts) == 0
        if asked == method and part in path and not makes_probe:
            fault_proxy.inject("status", status=403, code="AccessDenied")
        return plain(asked, path)

    monkeypatch.setattr(fault_proxy, "next_fault", refuse)
    with pytest.raises(StorageError):
        open_store(s3_uri).check()
    monkeypatch.setattr(fault_proxy, "next_fault", plain)
    assert open_store(s3_uri).list() == []
