"""Diagnose a failed S3 request: whether to retry it, and the sentence that tells the user what to do.

Error codes: "Error responses" of the Amazon S3 API reference. Other servers leave out the code or the message (Ceph
sends no message), so every field of an answer may be missing, empty or of another type.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

# What boto3 raises for an answer that is not S3's; only the first is deliberate.
STRANGE = (ResponseParserError, TypeError, KeyError, ValueError, OverflowError, RuntimeError)
FAILURES = (BotoCoreError, ClientError, OSError, *STRANGE)  # everything that boto3 raises

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this node an instance role"
UNREACHABLE = "unreachable"
NO_CREDENTIALS = "nocredentials"
_CERTIFICATE = "certificate"
_NOT_S3 = "nots3"
_ROLE = "role"
_DISK_FULL = "full"
_REDIRECT = "redirect"

# The code to assume for an answer without one, by its HTTP status.
_BY_STATUS = {
    301: _REDIRECT,
    302: _REDIRECT,
    303: _REDIRECT,
    307: _REDIRECT,
    308: _REDIRECT,
    403: "accessdenied",
    404: "nosuchkey",
    405: "methodnotallowed",
    409: "conditionalrequestconflict",
    411: "missingcontentlength",
    412: "preconditionfailed",
    416: "invalidrange",
    501: "notimplemented",
    507: "insufficientstorage",
}
_TRANSIENT = {
    "bandwidthlimitexceeded",
    "conditionalrequestconflict",  # two creates at the same moment
    "internalerror",
    "internalfailure",
    "nosuchupload",  # the multi-part upload was lost: start again
    "operationaborted",
    "requestlimitexceeded",
    "requesttimeout",
    "serviceunavailable",
    "slowdown",
    "throttling",
    "throttlingexception",
    "toomanyrequests",
    UNREACHABLE,
}
_PASSING_STATUS = {408, 429}
_LASTING_STATUS = {501, 505, 507}  # every other status of 500 or more is transient
_FULL_ANSWERS = re.compile("quota|insufficientstorage|storagefull|storageexceeded")
_BAD_CERTIFICATE = re.compile("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|NO_CERTIFICATE|No such file|denied")


# (codes, message). {answer} is the code as received and the server's message.
_SENTENCES: list[tuple[set[str], str]] = [
    (
        {UNREACHABLE},
        "cannot reach {where} for {place} ({detail}): check the network, and the address in {variable}{proxy}",
    ),
    (
        {_CERTIFICATE},
        "{endpoint} has a certificate that is not trusted ({detail}): set AWS_CA_BUNDLE to the file with the "
        "certificate of its authority, and check http or https in {variable}",
    ),
    ({_NOT_S3}, "{endpoint} does not answer as S3 does: check the address in {variable}"),
    ({_REDIRECT}, "{endpoint} redirects {place} {answer}, as S3 does not: check the address in {variable}"),
    (
        {"nosuchbucket"},
        "bucket {bucket!r} does not exist at {endpoint}: create it, or name another in the storage uri",
    ),
    (
        {"accessdenied", "allaccessdisabled", "forbidden"},
        "access denied at {endpoint}: these credentials lack {permission} on {place}; allow them s3:ListBucket on the "
        "bucket and s3:GetObject, s3:PutObject and s3:DeleteObject in it",
    ),
    (
        {
            "authfailure",
            "expiredtoken",
            "invalidaccesskeyid",
            "invalidclienttokenid",
            "invalidtoken",
            "notsignedup",
            "signaturedoesnotmatch",
            "tokenrefreshrequired",
        },
        "{endpoint} refuses the credentials ({name}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_SESSION_TOKEN, or AWS_PROFILE",
    ),
    (
        {_ROLE},
        "the role for {place} cannot be assumed {answer}: check role_arn and source_profile in the AWS configuration "
        "file, and whom the role trusts",
    ),
    ({NO_CREDENTIALS}, "no credentials for {place}: " + CREDENTIALS),
    (
        {
            "authorizationheadermalformed",
            "illegallocationconstraintexception",
            "incorrectendpoint",
            "permanentredirect",
        },
        "{place} is in another region than asked for: set AWS_REGION to the bucket's region",
    ),
    (
        {"requesttimetooskewed", "requestexpired"},
        "{endpoint} refuses {place} because its clock and this machine's differ {answer}: set both with NTP",
    ),
    ({_DISK_FULL}, "{endpoint} has no space left for {place} {answer}: remove old runs, or raise the bucket's quota"),
    (
        {"notimplemented", "methodnotallowed"},
        "{endpoint} refuses {permission} on {place}, which it does not implement {answer}: use AWS S3 or a recent "
        "S3-compatible server, with If-None-Match on writes, multi-part uploads and single deletes",
    ),
    (
        {"missingcontentlength"},
        "{endpoint} refuses {permission} on {place} {answer}: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    ),
]
_LASTING = "{endpoint} refuses {permission} on {place} {answer}: look the code up in the server's documentation or log"
_PASSING = "{endpoint} fails at {permission} on {place} {answer}: look at the server's log if this lasts"


@dataclass(frozen=True)
class Fault:
    """Hold the diagnosis of a failed request.

    `name`: S3's error code as received; `code`: the same in lower case without underscores, never empty;
    `transient`: the same request may work later; `address`: the server of the request, if the error names it.
    """

    name: str
    code: str
    transient: bool
    detail: str
    address: str = ""


def diagnose(error: Exception) -> Fault:
    """Diagnose `error`, one of FAILURES."""
    if isinstance(error, ClientError):
        return _diagnose_answer(error)
    if isinstance(error, BotoCoreError):
        return _diagnose_boto(error)
    if isinstance(error, STRANGE):
        return _fault(_NOT_S3, 0, "")
    return _fault(type(error).__name__, 0, str(error))


def _diagnose_answer(error: ClientError) -> Fault:
    answer, metadata = (_table(error.response, name) for name in ("Error", "ResponseMetadata"))
    status = metadata.get("HTTPStatusCode")
    status = status if isinstance(status, int) else 0
    target = _text(_table(metadata, "HTTPHeaders").get("location")).partition("?")[
        0
    ]  # the query of a login page may hold a token
    message = f"to {target}" if 300 <= status < 400 and target else _text(answer.get("Message"))
    fault = _fault(_text(answer.get("Code")), status, message)
    # Another service than S3 gives out the credentials of a role, so its refusal is about the role.
    if "Role" in error.operation_name and not fault.transient:
        return Fault(fault.name, _ROLE, False, fault.detail)
    return fault


def _table(answer: Any, name: str) -> dict[str, Any]:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _diagnose_boto(error: BotoCoreError) -> Fault:
    """Diagnose boto3's own errors, raised before or instead of an answer."""
    no_credentials = (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.SSOError,
    )
    broken_answer = (boto.ResponseStreamingError, boto.IncompleteReadError)
    unreachable = (boto.ConnectionError, boto.HTTPClientError, *broken_answer)
    if isinstance(error, no_credentials):
        return _fault(NO_CREDENTIALS, 0, str(error))
    if isinstance(error, boto.SSLError) and _BAD_CERTIFICATE.search(str(error)):  # which does not pass by itself
        return _fault(_CERTIFICATE, 0, str(error))
    if isinstance(error, unreachable):
        asked = urlsplit(str(error.kwargs.get("endpoint_url", "")))
        where = f"{asked.scheme}://{asked.netloc}" if asked.netloc else ""
        text = str(error) if isinstance(error, (boto.SSLError, boto.ProxyConnectionError)) else ""
        return _fault(UNREACHABLE, 0, f"{type(error).__name__} {text}", where)
    return _fault(type(error).__name__, 0, str(error))


def _fault(name: str, status: int, detail: str, where: str = "") -> Fault:
    detail, where = _one_line(_without_secrets(detail)), _without_secrets(where)
    code = name.replace("_", "").lower()
    if code in ("", "unknown", str(status)):
        code = _BY_STATUS.get(status, str(status))
    if _FULL_ANSWERS.search(code):
        return Fault(name or str(status), _DISK_FULL, False, detail)
    passing = status in _PASSING_STATUS or (status >= 500 and status not in _LASTING_STATUS)
    transient = code in _TRANSIENT or passing
    return Fault(name or str(status), code, transient, detail, where)


def sentence(fault: Fault, permission: str, place: str, endpoint: str) -> str:
    """Return one sentence with the way out. `permission`: as in "s3:PutObject"; `place`: s3://bucket/key."""
    endpoint, code = _without_secrets(endpoint), fault.code
    if code == "nosuchkey" and permission != "s3:GetObject":  # some servers do not say that the bucket is missing
        code = "nosuchbucket"
    elsewhere = fault.address not in ("", endpoint.split(" ")[0])
    template = next((text for codes, text in _SENTENCES if code in codes), _PASSING if fault.transient else _LASTING)
    return template.format(
        name=fault.name,
        detail=fault.detail,
        answer=f"({fault.name} {fault.detail})".replace(" )", ")"),
        permission=permission,
        place=place,
        bucket=place.split("/")[2],
        endpoint=endpoint,
        where=f"{fault.address}, which is needed for {endpoint}," if elsewhere else endpoint,
        variable="AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL",
        proxy=", and the proxy in HTTP_PROXY or HTTPS_PROXY" if "(through the proxy" in endpoint else "",
    )


def _without_secrets(text: str) -> str:
    """Remove the name and password that the address of an endpoint or a proxy may hold."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
