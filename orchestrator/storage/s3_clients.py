"""The two S3 libraries, set up alike from the standard AWS variables, files and instance roles."""

from __future__ import annotations

import functools
import os
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, PartialCredentialsError
from botocore.loaders import Loader, create_loader
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

from orchestrator.errors import StorageError
from orchestrator.storage.s3_faults import CREDENTIALS
from orchestrator.storage.store import CONNECTIONS

CONNECT_S = 5.0
ANSWER_S = 60.0  # silence on an open connection that counts as a failure
TRAIN_ATTEMPTS = 21  # about 300 s: the waits are random, doubling from at most 1 s up to at most 20 s


class EnvironmentS3FileSystem(S3FileSystem):  # type: ignore[misc]  # pyarrow is untyped
    """An S3FileSystem that pickles as nothing: each node builds its own from its own environment.

    The plain one would carry endpoint and region of the node where it was made, and lose its retries.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return s3_filesystem, ()


@functools.cache
def _service_descriptions() -> Loader:
    """boto3's description of S3, parsed once a process: it is most of the time that a new client takes."""
    return create_loader()


def s3_client(answer_s: float = ANSWER_S) -> Any:
    """A boto3 client without retries of its own. Raises StorageError when the settings make no sense."""
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=answer_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
    )
    try:
        # boto3 knows AWS_DEFAULT_REGION only, the other AWS tools prefer AWS_REGION.
        region = os.environ.get("AWS_REGION") or None
        core = botocore.session.Session()
        core.register_component("data_loader", _service_descriptions())
        return boto3.session.Session(region_name=region, botocore_session=core).client("s3", config=config)
    except PartialCredentialsError as error:
        raise StorageError(f"no complete credentials for S3: {CREDENTIALS}") from error
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"the AWS settings make no sense ({type(error).__name__}): check AWS_ENDPOINT_URL "
            "(http://host:port), AWS_REGION, AWS_PROFILE and the AWS configuration file"
        ) from error


def s3_filesystem(
    client: Any = None, answer_s: float = ANSWER_S, attempts: int = TRAIN_ATTEMPTS
) -> EnvironmentS3FileSystem:
    """pyarrow's S3 file system with the endpoint and region of `client`, or of a new `s3_client()`.

    By itself pyarrow 26 reads AWS_ENDPOINT_URL in `FileSystem.from_uri` only, and a profile's never.
    """
    meta = (client or s3_client()).meta
    endpoint = urlsplit(meta.endpoint_url)
    own: dict[str, Any] = {}
    if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        own = {"scheme": endpoint.scheme, "endpoint_override": endpoint.netloc + endpoint.path}
    return EnvironmentS3FileSystem(
        region=meta.region_name,
        connect_timeout=CONNECT_S,
        request_timeout=answer_s,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        # Never allow_delayed_open: it turns a refused multi-part upload into one PUT of what is buffered, a
        # truncated file.
        **own,
    )
