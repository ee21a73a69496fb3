"""Set up the boto3 client from the standard AWS variables, files and instance roles."""

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
from botocore.utils import get_environ_proxies

from orchestrator.errors import StorageError
from orchestrator.storage.s3_faults import CREDENTIALS

CONNECT_S = 5.0
ANSWER_S = 60.0  # a connection that is silent for so long has failed
POOL = 64  # connections kept for the next request; more threads than that only connect more often
# boto3 adds checksums to every request by default. Ceph 16 and other stores refuse some of them.
CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")


@functools.cache
def _service_descriptions() -> Loader:
    """Return boto3's description of S3, parsed once per process, because parsing it takes longest in a new client."""
    return create_loader()


def s3_client(answer_s: float = ANSWER_S) -> Any:
    """Build a boto3 client without retries of its own. Raises StorageError for settings that boto3 cannot use.

    Endpoint, region, profile, role, proxies, CA bundle and addressing style come from where every AWS tool reads
    them. boto3 refreshes credentials that expire.
    """
    try:
        core = botocore.session.Session()
        core.register_component("data_loader", _service_descriptions())
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=answer_s,
            retries={"total_max_attempts": 1},
            max_pool_connections=POOL,
            **_checksums(core),
        )
        # boto3 knows AWS_DEFAULT_REGION only, the other AWS tools prefer AWS_REGION.
        region = os.environ.get("AWS_REGION") or None
        client = boto3.session.Session(region_name=region, botocore_session=core).client("s3", config=config)
        client.meta.events.register("before-call.s3.HeadBucket", _do_not_redirect)
        return client
    except PartialCredentialsError as error:
        raise StorageError(f"no complete credentials for S3: {CREDENTIALS}") from error
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"the AWS settings cannot be used ({type(error).__name__}): check AWS_ENDPOINT_URL "
            "(http://host:port), AWS_REGION, AWS_PROFILE and the AWS configuration file"
        ) from error


def _checksums(core: botocore.session.Session) -> dict[str, str]:
    """Return the settings for only the checksums that S3 requires, except those that the user has set."""
    chosen = core.get_scoped_config()
    return {
        name: "when_required" for name in CHECKSUMS if name not in chosen and f"AWS_{name.upper()}" not in os.environ
    }


def _do_not_redirect(context: dict[str, Any], **_: Any) -> None:
    """Mark a request as already redirected.

    On a redirect without a region boto3 asks for the bucket's region. If that request is redirected too, it would
    ask again without end.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def address(client: Any) -> str:
    """Return where `client` sends its requests, for messages: the endpoint, and the proxy if there is one."""
    endpoint: str = client.meta.endpoint_url
    proxy = get_environ_proxies(endpoint).get(urlsplit(endpoint).scheme)
    return f"{endpoint} (through the proxy {proxy})" if proxy else endpoint
