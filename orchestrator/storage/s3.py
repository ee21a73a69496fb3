"""Store files in an S3-compatible bucket, through boto3.

Each node reads endpoint, region and credentials from the standard AWS places (variables, profiles, instance roles):
they are never pickled.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from orchestrator.errors import ConfigError, DamagedError, StorageError
from orchestrator.storage.s3_answers import entries, field, objects, uploads
from orchestrator.storage.s3_bulk import PART_BYTES, Download, Upload
from orchestrator.storage.s3_client import ANSWER_S, address, s3_client
from orchestrator.storage.s3_faults import FAILURES, diagnose, sentence
from orchestrator.storage.store import (
    File,
    Files,
    MissingError,
    check_size,
    clean_folder,
    clean_path,
    is_clean,
    probe,
    side_by_side,
    whole_part,
)

PATIENCE_S = 300.0  # how long to retry while the storage fails
# The same for the check before a run: a store that starts with the run needs seconds. A mistyped address is named by
# the first warning, at once.
CHECK_PATIENCE_S, CHECK_ANSWER_S = 60.0, 15.0
FIRST_PAUSE_S = 0.25  # between two tries; it doubles
MAX_PAUSE_S = 15.0
PAGE = 1000  # names per page of a listing, the maximum of S3

log = logging.getLogger(__name__)
_random = random.SystemRandom()  # stateless: the process's own generator belongs to the training
T = TypeVar("T")
Names = list[str]  # inside the class, `list` is a method


class S3Store:
    """Store files as objects below `s3://bucket/prefix`: one PUT, or one completed multi-part upload, for each.

    `patience_s`: how long to retry; `answer_s`: the time limit of an answer; `bulk_bytes`: files of this size and more
    are sent and read in parts. Raises ConfigError for a malformed uri.
    """

    is_local = False

    def __init__(
        self,
        uri: str,
        *,
        patience_s: float = PATIENCE_S,
        answer_s: float = ANSWER_S,
        bulk_bytes: int = PART_BYTES,
    ) -> None:
        place = urlsplit(uri)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", place.netloc):
            raise ConfigError(f"an S3 uri names a bucket, s3://bucket/prefix, got {uri!r}")
        self.bucket = place.netloc
        try:
            self._root = clean_folder(place.path.strip("/"))
        except StorageError as error:
            raise ConfigError(f"storage {uri!r}: {error}") from None
        self.uri = uri
        self.patience_s = patience_s
        self._answer_s = answer_s
        self._bulk_bytes = bulk_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self.uri,)

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        key = self._key(path)
        return self._patiently("s3:GetObject", key, self._download(key, max_bytes))

    def read_part(self, path: str, start: int, size: int) -> bytes:
        key = self._key(path)
        data = self._patiently("s3:GetObject", key, lambda: self._get_part(key, start, size))
        return whole_part(data, f"s3://{self.bucket}/{key}", start, size)

    def write(self, path: str, data: bytes | memoryview) -> None:
        key = self._key(path)
        if memoryview(data).nbytes < self._bulk_bytes:
            self._patiently("s3:PutObject", key, lambda: self._client.put_object(**self._place(key), Body=bytes(data)))
            return
        upload = Upload(self._client, self._place(key), data)
        try:
            self._patiently("s3:PutObject", key, upload)
        except BaseException:
            upload.abort()
            raise

    def create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        tries = itertools.count()

        def put() -> bool:
            tried_before = next(tries) > 0
            try:
                self._client.put_object(**self._place(key), Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                if diagnose(error).code != "preconditionfailed":
                    raise
            # It exists. An earlier try that failed may have written it, with only the answer lost.
            with contextlib.suppress(MissingError, DamagedError):  # DamagedError: it is larger than our data
                return tried_before and self._download(key, len(data))() == data
            return False

        return self._patiently("s3:PutObject", key, put)

    def exists(self, path: str) -> bool:
        # A listing, because the answer to a HEAD has no body, and so no reason for a refusal.
        key = self._key(path)

        def first() -> bool:
            page = self._client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
            return [field(found, "Key", str) for found in entries(page, "Contents", key)] == [key]

        return self._patiently("s3:ListBucket", key, first)

    def list(self, prefix: str = "") -> Names:
        paths = (key.removeprefix(self._root) for key in self._keys(self._root + clean_folder(prefix)))
        return sorted(path for path in paths if is_clean(path))

    def delete(self, path: str) -> None:
        self._delete(self._key(path))

    def delete_tree(self, prefix: str) -> None:
        if not prefix:
            raise StorageError("delete_tree needs a folder: it never empties a whole store, got ''")
        # One request per object, because not every store has DeleteObjects.
        side_by_side(self, self._delete, self._keys(self._root + clean_folder(prefix)))

    def check(self) -> None:
        # bulk_bytes=0, so that even the small probe is sent and read in parts.
        probe(S3Store(self.uri, patience_s=CHECK_PATIENCE_S, answer_s=CHECK_ANSWER_S, bulk_bytes=0))

    @cached_property
    def _client(self) -> Any:
        return s3_client(self._answer_s)

    def _key(self, path: str) -> str:
        return self._root + clean_path(path)

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": key}

    @contextlib.contextmanager
    def _missing_error(self, key: str) -> Iterator[None]:
        """Turn "no such key" into MissingError."""
        try:
            yield
        except ClientError as error:
            if diagnose(error).code != "nosuchkey":
                raise
            raise MissingError(f"object s3://{self.bucket}/{key} does not exist") from None

    def _download(self, key: str, max_bytes: int | None) -> Callable[[], bytes]:
        download = Download(
            self._client,
            self._place(key),
            self._bulk_bytes,
            lambda size: check_size(key.removeprefix(self._root), size, max_bytes),
        )

        def found() -> bytes:
            with self._missing_error(key):
                return download()

        return found

    def _get_part(self, key: str, start: int, size: int) -> bytes:
        wanted = f"bytes={start}-{start + size - 1}"
        try:
            with self._missing_error(key):
                answer = self._client.get_object(**self._place(key), Range=wanted)
            with contextlib.closing(answer["Body"]) as body:
                return bytes(body.read())
        except ClientError as error:
            if diagnose(error).code == "invalidrange":
                return b""
            raise

    def _delete(self, key: str) -> None:
        def remove() -> None:
            with contextlib.suppress(MissingError), self._missing_error(key):
                self._client.delete_object(**self._place(key))

        self._patiently("s3:DeleteObject", key, remove)

    def _keys(self, prefix: str) -> Names:
        return self._patiently(
            "s3:ListBucket", prefix, lambda: [field(found, "Key", str) for found in self._objects(prefix)]
        )

    def _objects(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        return objects(self._client.list_objects_v2, prefix, Bucket=self.bucket, MaxKeys=PAGE)

    def _patiently(self, permission: str, key: str, call: Callable[[], T]) -> T:
        """Return `call()`, retried for up to `patience_s` while its failures are transient. Raises StorageError."""
        failing_since = 0.0
        for failures in itertools.count():
            try:
                result = call()
            except FAILURES as error:
                fault, now = diagnose(error), time.monotonic()
                failing_since = failing_since or now
                message = sentence(fault, permission, f"s3://{self.bucket}/{key}", address(self._client))
                pause = min(FIRST_PAUSE_S * 2**failures, MAX_PAUSE_S) * _random.uniform(0.5, 1.0)
                if not fault.transient:
                    raise StorageError(message) from error
                if now - failing_since + pause > self.patience_s:
                    raise StorageError(f"{message} (tried for {self.patience_s:g} s)") from error
                if failures == 0:
                    log.warning("%s (trying again for up to %g s)", message, self.patience_s)
                time.sleep(pause)
            else:
                if failures:
                    log.warning("storage works again after %.1f s", time.monotonic() - failing_since)
                return result
        raise AssertionError("unreachable")

    def files(self, prefix: str = "") -> tuple[Files, Files]:
        top = self._root + clean_folder(prefix)

        def pages() -> Files:
            return [self._file(each, field(each, "Size", int), "LastModified") for each in self._objects(top)]

        found = self._patiently("s3:ListBucket", top, pages)
        return sorted((file for file in found if is_clean(file.path)), key=lambda file: file.path), []

    def unfinished(self) -> Files:
        def pages() -> Files:
            found = uploads(self._client.list_multipart_uploads, self._root, Bucket=self.bucket)
            return [self._file(each, 0, "Initiated", field(each, "UploadId", str)) for each in found]

        return self._patiently("s3:ListBucketMultipartUploads", self._root, pages)

    def discard(self, file: File) -> None:
        key = self._root + file.path

        def abort() -> None:
            try:
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=file.upload)
            except ClientError as error:
                if diagnose(error).code != "nosuchupload":
                    raise

        self._patiently("s3:AbortMultipartUpload", key, abort)

    def _file(self, entry: Mapping[str, Any], size: int, time_field: str, upload: str = "") -> File:
        modified = field(entry, time_field, datetime.datetime).timestamp()
        return File(field(entry, "Key", str).removeprefix(self._root), size, modified, upload)
