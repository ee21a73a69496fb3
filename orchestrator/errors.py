"""Errors that are the user's to mend: each message states the rule, the value received and the way out.

The jobs and the command line print such an error as one sentence and exit with 1; any other exception is a
fault of ours and keeps its traceback.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of every error whose message alone tells the user what to do."""


class ConfigError(OrchestratorError, ValueError):
    """A field of an experiment, or a flag, has a value that its rule forbids."""


class DataError(OrchestratorError):
    """The data set is missing, has another layout than expected, or holds a sample that cannot be used."""


class StorageError(OrchestratorError):
    """The storage cannot be reached, or refuses what was asked."""


class DamagedError(StorageError):
    """Something in storage is not what its record says; the message names the file."""


class DivergedError(OrchestratorError):
    """Training gave a loss that is not finite."""


class ResourceError(OrchestratorError):
    """The cluster cannot hold what was asked of it."""


class ExportError(OrchestratorError):
    """A network cannot be written in a format, or the file does not do what the network does."""
