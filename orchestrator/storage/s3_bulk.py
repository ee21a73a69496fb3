"""Send and read large objects in parts, several at a time. Each call tries once; the next resumes where it failed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

from orchestrator.storage.s3_answers import field
from orchestrator.storage.s3_faults import FAILURES, diagnose

PART_BYTES = 8 << 20  # S3 takes parts of 5 MiB and more
MAX_PARTS = 10_000  # per upload, the maximum of S3
THREADS = 8

Place = dict[str, str]  # {"Bucket": ..., "Key": ...}


class Upload:
    """Send one object as a multi-part upload. Readers see the old object until all parts have arrived."""

    def __init__(self, client: Any, place: Place, data: bytes | memoryview) -> None:
        self._client, self._place = client, place
        self._data = memoryview(data).cast("B")
        self._part_bytes = max(PART_BYTES, -(-len(self._data) // MAX_PARTS))
        self._id: str | None = None
        self._tags: dict[int, str] = {}  # {number: ETag} of the parts that have arrived

    def __call__(self) -> None:
        """Send the missing parts and complete the object. Raises what boto3 raises (FAILURES)."""
        try:
            if self._id is None:
                self._id = field(self._client.create_multipart_upload(**self._place), "UploadId", str)
            numbers = range(1, max(1, -(-len(self._data) // self._part_bytes)) + 1)
            _side_by_side(self._send, (number for number in numbers if number not in self._tags))
            parts = [{"PartNumber": number, "ETag": self._tags[number]} for number in numbers]
            self._client.complete_multipart_upload(**self._place, UploadId=self._id, MultipartUpload={"Parts": parts})
        except ClientError as error:
            if diagnose(error).code == "nosuchupload":  # it was removed: the next call starts again
                self._id, self._tags = None, {}
            raise

    def abort(self) -> None:
        """Remove the parts that have arrived, if the storage answers."""
        if self._id is not None:
            with contextlib.suppress(*FAILURES):
                self._client.abort_multipart_upload(**self._place, UploadId=self._id)

    def _send(self, number: int) -> None:
        body = bytes(self._data[(number - 1) * self._part_bytes : number * self._part_bytes])
        answer = self._client.upload_part(**self._place, UploadId=self._id, PartNumber=number, Body=body)
        self._tags[number] = field(answer, "ETag", str)


class Download:
    """Read one object, in parts if it has `bulk_bytes` or more. Calls `check(size)` before it reads the content."""

    def __init__(self, client: Any, place: Place, bulk_bytes: int, check: Callable[[int], None]) -> None:
        self._client, self._place = client, place
        self._bulk_bytes, self._check = bulk_bytes, check
        self._begin(0, {})

    def _begin(self, size: int, version: dict[str, str]) -> None:
        self._version = version
        self._buffer = io.BytesIO(bytes(size))  # because getvalue() does not copy
        self._missing = set(range(0, size, PART_BYTES))

    def __call__(self) -> bytes:
        """Read the missing parts and return the whole object. Raises what boto3 raises (FAILURES)."""
        if not self._missing:
            answer = self._client.get_object(**self._place)
            with contextlib.closing(answer["Body"]) as body:
                size = answer.get("ContentLength") or 0
                self._check(size)
                if size < self._bulk_bytes:
                    return bytes(body.read())
            self._begin(size, {"IfMatch": answer["ETag"]} if answer.get("ETag") else {})
        try:
            with self._buffer.getbuffer() as buffer:
                _side_by_side(
                    lambda start: self._receive(start, buffer[start : start + PART_BYTES]), self._missing.copy()
                )
        except ClientError as error:
            if diagnose(error).code != "preconditionfailed":
                raise
            self._begin(0, {})  # the next call reads the new object
            raise ResponseStreamingError(error="the object was replaced while it was read") from error
        return self._buffer.getvalue()

    def _receive(self, start: int, into: memoryview) -> None:
        wanted = f"bytes={start}-{start + len(into) - 1}"
        answer = self._client.get_object(**self._place, **self._version, Range=wanted)
        with contextlib.closing(answer["Body"]) as body:
            part = body.read()
        if len(part) != len(into):
            raise IncompleteReadError(actual_bytes=len(part), expected_bytes=len(into))
        into[:] = part
        self._missing.remove(start)


def _side_by_side(call: Callable[[int], None], parts: Iterable[int]) -> None:
    """Call `call` for each part, several at a time. After a failure no further part starts."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, parts))
