"""Open a storage location: a local folder or an S3-compatible bucket."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import Store

SCHEMES = "a folder (./runs, /data/runs, ~/runs), file:///data/runs or s3://bucket/prefix"


WAY_OUT = "give the --storage of a job that has run"


def open_existing(uri: str) -> Store:
    """Open a storage that should exist: a mistyped folder is not created. Raises as `open_store`, and StorageError."""
    store = open_store(uri)
    if store.is_local and not os.path.isdir(store.uri):
        raise StorageError(f"folder {store.uri} does not exist: {WAY_OUT}")
    return store


def open_store(uri: str) -> Store:
    """Return the store at `uri`: a folder, `file:///folder` or `s3://bucket/prefix`.

    Does not contact the storage; `check()` does. Raises ConfigError for an unknown scheme, a malformed uri, or a uri
    with credentials or options in it; the message does not repeat those.
    """
    if not uri or not uri.isprintable():
        raise ConfigError(f"storage must be {SCHEMES}, got {uri!r}")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", uri)
    if scheme is None and (found := re.match(r"(s3|file)(:|//)", uri)):
        missing = "slashes" if found[2] == ":" else "colon"
        raise ConfigError(f"storage must be {SCHEMES}, got {uri!r}, without its {missing}")
    if scheme is None:
        return LocalStore(uri)
    if scheme[1] not in ("file", "s3"):
        raise ConfigError(f"storage must be {SCHEMES}, got the scheme {scheme[1]!r}")
    try:
        place = urlsplit(uri)
    except ValueError:
        raise ConfigError(f"storage must be {SCHEMES}, got a {scheme[1]!r} uri that does not parse") from None
    if "@" in place.netloc or ":" in place.netloc or place.query or place.fragment:
        raise ConfigError(
            f"a storage uri has no credentials, port or options in it ({scheme[1]}://... got some); "
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and AWS_REGION instead"
        )
    if scheme[1] == "s3":
        from orchestrator.storage.s3 import S3Store  # boto3 takes a second to import

        return S3Store(uri)
    if place.netloc or not uri.startswith("file:///"):
        raise ConfigError(f"a file uri has three slashes, file:///data/runs, got {uri!r}")
    return LocalStore(unquote(place.path))
