"""What a failed S3 request means: worth waiting for or not, and the sentence that tells the user what to do.

Error codes: "Error responses" of the Amazon S3 API reference. pyarrow gives them as text, in capitals.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

FAILURES = (BotoCoreError, ClientError, OSError)  # what boto3 and pyarrow raise; pyarrow an OSError

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this node an instance role"
UNREACHABLE = "unreachable"
NO_CREDENTIALS = "nocredentials"
_TRANSIENT = {
    "bandwidthlimitexceeded",
    "conditionalrequestconflict",  # two creates at the same moment
    "internalerror",
    "internalfailure",
    "nosuchupload",  # the multi-part upload got lost: start again
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
_DENIED = {"accessdenied", "allaccessdisabled", "403", "forbidden"}
_BAD_CREDENTIALS = {
    "authfailure",
    "expiredtoken",
    "invalidaccesskeyid",
    "invalidclienttokenid",
    "invalidtoken",
    "notsignedup",
    "signaturedoesnotmatch",
    "tokenrefreshrequired",
}
_OTHER_REGION = {
    "authorizationheadermalformed",
    "illegallocationconstraintexception",
    "incorrectendpoint",
    "permanentredirect",
    "301",
}
_CERTIFICATE = re.compile("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|curlCode: (35|51|58|60|77)")
_PYARROW = re.compile(
    r"AWS Error (?P<code>[A-Z0-9_]+)(?: \(HTTP status (?P<status>\d+)\))? during \w+ operation:"
    r"\s*(?:Unable to parse ExceptionName: (?P<name>\w+) Message:\s*)?(?P<message>.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Fault:
    """`name`: S3's error code as received; `code`: the same in lower case without underscores;
    `transient`: the same request may work later."""

    name: str
    code: str
    transient: bool
    detail: str


def diagnose(error: Exception) -> Fault:
    if isinstance(error, ClientError):
        answer = error.response
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return _fault(answer["Error"].get("Code", ""), status, answer["Error"].get("Message", ""))
    if isinstance(error, BotoCoreError):
        return _diagnose_boto(error)
    if match := _PYARROW.search(str(error)):
        code = "unreachable" if match["code"] == "NETWORK_CONNECTION" else match["name"] or match["code"]
        return _fault(code, int(match["status"] or 0), match["message"])
    return _fault(type(error).__name__, 0, str(error))


def _diagnose_boto(error: BotoCoreError) -> Fault:
    """boto3's own errors, before or instead of an answer."""
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
    if isinstance(error, unreachable):
        text = str(error) if isinstance(error, boto.SSLError) else ""
        return _fault(UNREACHABLE, 0, f"{type(error).__name__} {text}")
    return _fault(type(error).__name__, 0, str(error))


def _fault(name: str, status: int, detail: str) -> Fault:
    if name in ("UNKNOWN", "") and status:
        name = str(status)
    code = name.replace("_", "").lower()
    transient = code in _TRANSIENT or status in (408, 429) or (status >= 500 and status != 501)
    if _CERTIFICATE.search(detail):  # a wrong address or certificate does not mend itself
        transient = False
    return Fault(name, code, transient, _without_secrets(detail))


def refusal(failed: dict[str, Any], operation: str) -> ClientError:
    """One entry of an answer's `Errors` (some objects failed, the request did not) as an exception."""
    return ClientError({"Error": failed}, operation)


def sentence(fault: Fault, permission: str, place: str, endpoint: str) -> str:
    """One sentence with the way out. `permission`: the one needed, "s3:PutObject"; `place`: s3://bucket/key."""
    endpoint = _without_secrets(endpoint)
    if fault.code == UNREACHABLE:
        return (
            f"cannot reach {endpoint} for {place} ({fault.detail.strip()}): "
            f"check the network, and the address in {_endpoint_variable()}"
        )
    if fault.code == "nosuchbucket":
        bucket = place.split("/")[2]
        return f"bucket {bucket!r} does not exist at {endpoint}: create it, or name another in the storage uri"
    if fault.code in _DENIED:
        return (
            f"access denied at {endpoint}: these credentials lack {permission} on {place}; allow them "
            "s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and s3:DeleteObject in it"
        )
    if fault.code in _BAD_CREDENTIALS:
        return (
            f"{endpoint} refuses the credentials ({fault.name}): "
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"
        )
    if fault.code == NO_CREDENTIALS:
        return f"no credentials for {place}: {CREDENTIALS}"
    if fault.code in _OTHER_REGION:
        return f"{place} is in another region than asked for: set AWS_REGION to the bucket's region"
    verb = "fails at" if fault.transient else "refuses"
    return f"{endpoint} {verb} {permission} on {place}: {fault.name} {fault.detail}".strip()


def _endpoint_variable() -> str:
    return "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"


def _without_secrets(text: str) -> str:
    """An endpoint may hold a name and a password; nobody needs them in a message."""
    return re.sub(r"//[^/@\s]*@", "//", text)
