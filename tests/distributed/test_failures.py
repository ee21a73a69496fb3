"""What another start of the workers may mend, and what a user reads of what it cannot."""

from __future__ import annotations

import errno

import pytest
import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

from orchestrator.distributed.failures import death, is_lost, may_pass, sentence
from orchestrator.errors import DataError, StorageError, is_full
from orchestrator.training import collectives
from orchestrator.training.collectives import PeerError


@pytest.mark.parametrize(
    ("error", "lost", "passes"),
    [
        (ray.exceptions.ActorDiedError(), True, True),
        (ray.exceptions.ObjectLostError("0" * 56, None, ""), True, True),
        (WorkerHealthCheckTimeoutError("a barrier without its worker"), True, True),
        (PeerError("all_reduce: Connection closed by peer [10.0.0.7]:4711"), True, True),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), True, True),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), True, True),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."), True, True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (OSError(errno.EIO, "Input/output error"), False, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False, False),
        (OSError(errno.ENOSPC, "No space left on device"), False, False),
        (ray.exceptions.OutOfDiskError("no space for objects"), False, False),
        (FileNotFoundError(errno.ENOENT, "words.txt"), False, False),
        (TypeError("forward() takes 1 argument"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("SyncBatchNorm expected input tensor to be on cuda"), False, False),
        (DataError("train sample 7 cannot be read"), False, False),
        (StorageError("the keys have expired"), False, False),
    ],
)
def test_what_is_tried_again(error, lost, passes):
    assert (is_lost(error), may_pass(error)) == (lost, passes)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def refused(code: str) -> Exception:
    error = Exception(code)
    error.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (caused(StorageError("told"), OSError(errno.ENOSPC, "full")), True),
        (caused(RuntimeError("told"), caused(StorageError("told"), OSError(errno.EDQUOT, "quota"))), True),
        (caused(StorageError("told"), refused("QuotaExceeded")), True),
        (caused(StorageError("told"), refused("XMinioStorageFull")), True),
        (caused(StorageError("told"), refused("AccessDenied")), False),
        (caused(StorageError("told"), OSError(errno.EACCES, "no")), False),
        (StorageError("told"), False),
    ],
)
def test_a_full_disk_is_known_by_what_caused_the_error(error, full):
    assert is_full(error) is full


def test_a_sentence_has_type_message_and_line_and_ours_has_no_more_than_itself():
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    line = caught.traceback[0].lineno + 1
    assert sentence(caught.value).startswith(f"ZeroDivisionError: division by zero ({__file__}:{line})")
    assert sentence(DataError("train sample 7 cannot be read")) == "train sample 7 cannot be read"
    memory = sentence(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert "the GPU's memory is too small" in memory
    assert "lower batch_size" in memory


def test_what_a_backend_raises_in_a_collective_of_ours_is_a_lost_peer(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("[pair.cc:534] Connection closed by peer [10.0.0.7]:4711")

    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives.dist, "all_reduce", broken)
    with pytest.raises(PeerError, match=r"^sum_over_workers: .* Connection closed by peer"):
        collectives.sum_over_workers(torch.zeros(1))


def test_the_death_of_an_actor_is_one_sentence():
    error = RuntimeError(
        "The actor died unexpectedly before finishing this task.\n\tclass_name: TrainController\nThe actor is dead "
        "because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: it was killed.\n"
    )
    assert death(error) == "The actor is dead because its worker process has died"
    assert death(RuntimeError()) == "RuntimeError"
