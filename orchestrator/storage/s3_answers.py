"""Read the answers of a server that may not be S3: a website answers anything with status 200."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from botocore.parsers import ResponseParserError

T = TypeVar("T")
LISTING = {"Name", "KeyCount", "Bucket"}  # every listing has one of them


def field(answer: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return the field `name` of an answer. Raises ResponseParserError unless it is there, and of this kind."""
    value = answer.get(name)
    if not isinstance(value, kind):
        raise ResponseParserError(f"no {name} in the answer")
    return value


def entries(pages: Iterable[Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    """Yield what the pages of a listing hold under `name`. Raises ResponseParserError for what is not a listing."""
    for page in pages:
        if LISTING.isdisjoint(page):
            raise ResponseParserError("the answer is not a listing")
        yield from page.get(name) or ()
