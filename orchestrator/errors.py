"""Define the errors that users can mend: each message states the rule, the value received and the way out.

The jobs and the command line print such an error as one sentence and exit with 1; any other exception is a
fault of ours and keeps its traceback.
"""

from __future__ import annotations

import errno


class OrchestratorError(Exception):
    """Base of every error whose message alone tells the user what to do."""


class ConfigError(OrchestratorError, ValueError):
    """A field of an experiment, or a flag, has a value that its rule forbids."""


class DensityError(ConfigError):
    """A path asks for a density that the network cannot be given."""


class DataError(OrchestratorError):
    """The data set is missing, has another layout than expected, or holds a sample that cannot be used."""


class StorageError(OrchestratorError):
    """The storage cannot be reached, or refuses what was asked."""


class DamagedError(StorageError):
    """Something in storage is not what its record says; the message names the file."""


class DivergedError(OrchestratorError):
    """Training gave a loss, or the metric that decides, that is not finite."""


class ResourceError(OrchestratorError):
    """The cluster cannot hold what was asked of it."""


class ExportError(OrchestratorError):
    """A network cannot be written in a format, or the file does not do what the network does."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_CODES = ("quotaexceeded", "storagefull", "insufficientstorage", "507")  # ends of what S3 servers call it


def is_full(error: BaseException | None) -> bool:
    """Return whether `error`, or its cause, is a full disk or a quota that is used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        answer = getattr(error, "response", None)  # of boto3
        refused = answer.get("Error") if isinstance(answer, dict) else None
        if isinstance(refused, dict) and str(refused.get("Code", "")).lower().endswith(_FULL_CODES):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
