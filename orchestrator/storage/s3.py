"""Bytes in an S3-compatible bucket: boto3 for single requests, pyarrow's parallel streams for bulk.

Both take endpoint, region and credentials from the standard AWS places (variables, profiles, instance
roles), on each node anew: nothing of them is ever pickled.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from orchestrator.errors import ConfigError, DamagedError, StorageError
from orchestrator.storage.s3_clients import ANSWER_S, s3_client, s3_filesystem
from orchestrator.storage.s3_faults import FAILURES, diagnose, refusal, sentence
from orchestrator.storage.store import (
    File,
    Files,
    MissingError,
    check_size,
    clean_folder,
    clean_path,
    is_clean,
    probe,
    whole_part,
)

PATIENCE_S = 300.0  # how long a storage that fails for a while is waited for
CHECK_PATIENCE_S, CHECK_ANSWER_S = 6.0, 5.0  # so that one answer that does not come is asked for again
FIRST_PAUSE_S = 0.25  # between two tries; it doubles
MAX_PAUSE_S = 15.0
BULK_BYTES = 8 << 20  # from here on pyarrow: S3 takes parts of 5 MiB and more

PAGE = 1000  # names in one request, the most that S3 takes

log = logging.getLogger(__name__)
_random = random.SystemRandom()  # stateless: the process's own generator belongs to the training
T = TypeVar("T")
Names = list[str]  # inside the class, `list` is a method
Batch = list[dict[str, str]]


class S3Store:
    """Objects below `s3://bucket/prefix`. One PUT, or one completed multi-part upload, is one file."""

    is_local = False

    def __init__(
        self,
        uri: str,
        *,
        patience_s: float = PATIENCE_S,
        answer_s: float = ANSWER_S,
        bulk_bytes: int = BULK_BYTES,
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

    def read(self, path: str, most: int | None = None) -> bytes:
        key = self._key(path)
        return self._patiently("s3:GetObject", key, lambda: self._get(key, most))

    def read_part(self, path: str, start: int, size: int) -> bytes:
        key = self._key(path)
        data = self._patiently("s3:GetObject", key, lambda: self._get_part(key, start, size))
        return whole_part(data, f"s3://{self.bucket}/{key}", start, size)

    def write(self, path: str, data: bytes | memoryview) -> None:
        key = self._key(path)
        self._patiently("s3:PutObject", key, lambda: self._put(key, data))

    def create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        tries = itertools.count()

        def put() -> bool:
            tried_before = next(tries) > 0
            try:
                self._client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                if diagnose(error).code != "preconditionfailed":
                    raise
            # It exists. If an earlier try failed, it may have been carried out and only its answer lost.
            with contextlib.suppress(MissingError, DamagedError):  # the latter: it has more bytes than ours
                return tried_before and self._get(key, len(data)) == data
            return False

        return self._patiently("s3:PutObject", key, put)

    def exists(self, path: str) -> bool:
        # A listing, not a HEAD, whose answers have no body and so no reason for a refusal.
        key = self._key(path)

        def first() -> bool:
            page = self._client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
            return [found["Key"] for found in page.get("Contents", [])] == [key]

        return self._patiently("s3:ListBucket", key, first)

    def list(self, prefix: str = "") -> Names:
        paths = (key.removeprefix(self._root) for key in self._keys(self._root + clean_folder(prefix)))
        return sorted(path for path in paths if is_clean(path))

    def delete(self, path: str) -> None:
        key = self._key(path)
        self._patiently("s3:DeleteObject", key, lambda: self._client.delete_object(Bucket=self.bucket, Key=key))

    def delete_tree(self, prefix: str) -> None:
        if not prefix:
            raise StorageError("delete_tree needs a folder: it never empties a whole store, got ''")
        top = self._root + clean_folder(prefix)
        keys = self._keys(top)  # with the folder markers ("train/run/") that pyarrow makes
        for start in range(0, len(keys), PAGE):
            batch = [{"Key": key} for key in keys[start : start + PAGE]]

            def remove(batch: Batch = batch) -> None:
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
                for failed in answer.get("Errors", []):
                    raise refusal(failed, "DeleteObjects")

            self._patiently("s3:DeleteObject", top, remove)

    def check(self) -> None:
        # With every byte counted as bulk, the small probe goes through both libraries.
        probe(S3Store(self.uri, patience_s=CHECK_PATIENCE_S, answer_s=CHECK_ANSWER_S, bulk_bytes=0))

    def train_storage(self) -> tuple[str, Any]:
        return f"{self.bucket}/{self._root}".rstrip("/"), s3_filesystem(self._client)

    @cached_property
    def _client(self) -> Any:
        return s3_client(self._answer_s)

    @cached_property
    def _filesystem(self) -> Any:
        return s3_filesystem(self._client, self._answer_s, attempts=3)

    def _key(self, path: str) -> str:
        return self._root + clean_path(path)

    def _get(self, key: str, most: int | None = None) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            with contextlib.closing(answer["Body"]) as body:
                check_size(key.removeprefix(self._root), answer["ContentLength"], most)
                if answer["ContentLength"] < self._bulk_bytes:
                    return bytes(body.read())
            with self._filesystem.open_input_file(f"{self.bucket}/{key}") as file:
                check_size(key.removeprefix(self._root), file.size(), most)  # another one may lie there by now
                return bytes(file.read(file.size()))
        except ClientError as error:
            if diagnose(error).code != "nosuchkey":
                raise
        except FileNotFoundError:  # pyarrow's answer, if it was removed in between
            pass
        raise MissingError(f"there is no object s3://{self.bucket}/{key}")

    def _get_part(self, key: str, start: int, size: int) -> bytes:
        # boto3 for parts of any size: pyarrow's threads do not live on in a forked process, such as a data loader's.
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={start}-{start + size - 1}")
            with contextlib.closing(answer["Body"]) as body:
                return bytes(body.read())
        except ClientError as error:
            code = diagnose(error).code
            if code == "invalidrange":
                return b""
            if code != "nosuchkey":
                raise
        raise MissingError(f"there is no object s3://{self.bucket}/{key}")

    def _put(self, key: str, data: bytes | memoryview) -> None:
        if memoryview(data).nbytes < self._bulk_bytes:
            self._client.put_object(Bucket=self.bucket, Key=key, Body=bytes(data))
            return
        # pyarrow completes an upload when its stream goes, after an exception too. In a thread of its own no
        # Ctrl-C can come between open and write, and publish an empty file.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._stream, key, data).result()

    def _stream(self, key: str, data: bytes | memoryview) -> None:
        # Without compression=None a name that ends in .gz or .zst would be compressed.
        with self._filesystem.open_output_stream(f"{self.bucket}/{key}", compression=None) as stream:
            stream.write(data)  # all at once: see _put

    def _keys(self, prefix: str) -> Names:
        def pages() -> Names:
            paginator = self._client.get_paginator("list_objects_v2")
            page = {"PageSize": PAGE}
            answers = paginator.paginate(Bucket=self.bucket, Prefix=prefix, PaginationConfig=page)
            return [found["Key"] for answer in answers for found in answer.get("Contents", [])]

        return self._patiently("s3:ListBucket", prefix, pages)

    def _patiently(self, permission: str, key: str, call: Callable[[], T]) -> T:
        """`call()`, again and again while it fails in a way that may pass, for up to `patience_s`."""
        started = time.monotonic()
        for failures in itertools.count():
            try:
                result = call()
            except FAILURES as error:
                fault = diagnose(error)
                place, endpoint = f"s3://{self.bucket}/{key}", self._client.meta.endpoint_url
                told = sentence(fault, permission, place, endpoint)
                pause = min(FIRST_PAUSE_S * 2**failures, MAX_PAUSE_S) * _random.uniform(0.5, 1.0)
                if not fault.transient:
                    raise StorageError(told) from error
                if time.monotonic() - started + pause > self.patience_s:
                    raise StorageError(f"{told} (tried for {self.patience_s:g} s)") from error
                if failures == 0:
                    log.warning("%s (trying again for up to %g s)", told, self.patience_s)
                time.sleep(pause)
            else:
                if failures:
                    log.warning("storage works again after %.1f s", time.monotonic() - started)
                return result
        raise AssertionError("unreachable")

    def files(self, prefix: str = "") -> tuple[Files, Files]:
        top = self._root + clean_folder(prefix)

        def pages() -> Files:
            answers = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=top)
            found = (each for answer in answers for each in answer.get("Contents", []))
            return [self._file(each["Key"], each["Size"], each["LastModified"]) for each in found]

        found = self._patiently("s3:ListBucket", top, pages)
        return sorted((file for file in found if is_clean(file.path)), key=lambda file: file.path), []

    def unfinished(self) -> Files:
        place = {"Bucket": self.bucket}

        def uploads() -> Files:
            answers = self._client.get_paginator("list_multipart_uploads").paginate(**place, Prefix=self._root)
            found = (each for answer in answers for each in answer.get("Uploads", []))
            return [self._file(each["Key"], 0, each["Initiated"], each["UploadId"]) for each in found]

        return self._patiently("s3:ListBucketMultipartUploads", self._root, uploads)

    def discard(self, file: File) -> None:
        key = self._root + file.path

        def abort() -> None:
            try:
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=file.upload)
            except ClientError as error:
                if diagnose(error).code != "nosuchupload":
                    raise

        self._patiently("s3:AbortMultipartUpload", key, abort)

    def _file(self, key: str, size: int, modified: datetime.datetime, upload: str = "") -> File:
        return File(key.removeprefix(self._root), size, modified.timestamp(), upload)
