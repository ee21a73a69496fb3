"""Check the answers of a server that may not be S3: a website answers every request with status 200."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from botocore.parsers import ResponseParserError

T = TypeVar("T")
LISTING = {"Name", "KeyCount", "Bucket"}  # every listing has one of them


def field(answer: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return the field `name` of an answer. Raises ResponseParserError if it is missing or not of type `kind`."""
    value = answer.get(name)
    if not isinstance(value, kind):
        raise ResponseParserError(f"no {name} in the answer")
    return value


Entry = Mapping[str, Any]
Ask = Callable[..., Mapping[str, Any]]  # boto3's request for one page of a listing


def entries(page: Mapping[str, Any], name: str, prefix: str) -> list[Entry]:
    """Return the entries of a page of a listing under `name`.

    Raises ResponseParserError if the page is not a listing, or has keys that do not begin with `prefix`.
    """
    if LISTING.isdisjoint(page):
        raise ResponseParserError("the answer is not a listing")
    found = list(page.get(name) or ())
    if any(not field(entry, "Key", str).startswith(prefix) for entry in found):
        raise ResponseParserError(f"the listing has keys that do not begin with {prefix!r}")
    return found


def objects(ask: Ask, prefix: str, **request: Any) -> Iterator[Entry]:
    """Yield the objects below `prefix` from all pages; `ask` is boto3's `list_objects_v2`.

    If a page says that more follow but has no token, the next request starts after its last key.
    Raises ResponseParserError if a page is not a listing or the pages repeat.
    """

    def follow(page: Mapping[str, Any], found: Sequence[Entry]) -> dict[str, str]:
        token, is_truncated = page.get("NextContinuationToken"), page.get("IsTruncated")
        if token and is_truncated is not False:
            return {"ContinuationToken": token}
        if not is_truncated:
            return {}
        keys = [field(entry, "Key", str).encode() for entry in found]
        if keys != sorted(keys):
            raise ResponseParserError("more keys follow, but without a token, and the keys are not sorted")
        return {"StartAfter": _last(found, "Key")}

    return _all_pages(ask, "Contents", follow, {**request, "Prefix": prefix})


def uploads(ask: Ask, prefix: str, **request: Any) -> Iterator[Entry]:
    """Yield the unfinished uploads below `prefix`; `ask` is boto3's `list_multipart_uploads`. See `objects`."""

    def follow(page: Mapping[str, Any], found: Sequence[Entry]) -> dict[str, str]:
        if not page.get("IsTruncated"):
            return {}
        if marker := page.get("NextKeyMarker"):
            upload = page.get("NextUploadIdMarker")
            return {"KeyMarker": marker, **({"UploadIdMarker": upload} if upload else {})}
        return {"KeyMarker": _last(found, "Key"), "UploadIdMarker": _last(found, "UploadId")}

    return _all_pages(ask, "Uploads", follow, {**request, "Prefix": prefix})


def _all_pages(
    ask: Ask, name: str, follow: Callable[[Mapping[str, Any], Sequence[Entry]], dict[str, str]], request: dict[str, Any]
) -> Iterator[Entry]:
    """Yield the entries of every page; `follow` returns the request fields of the next page, {} after the last."""
    place: dict[str, str] = {}
    places: list[dict[str, str]] = []
    while True:
        page = ask(**request, **place)
        found = entries(page, name, request["Prefix"])
        if "StartAfter" in place and found and field(found[0], "Key", str).encode() <= place["StartAfter"].encode():
            raise ResponseParserError("the listing ignores StartAfter")
        yield from found
        place = follow(page, found)
        if not place:
            return
        if place in places:
            raise ResponseParserError("the pages of the listing repeat")
        places.append(place)


def _last(found: Sequence[Entry], name: str) -> str:
    if not found:
        raise ResponseParserError("an empty page of the listing says that more follow, but not where")
    return field(found[-1], name, str)
