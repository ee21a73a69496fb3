"""What masking, a change of rounds, a whole job and a stored model cost, each against its opponent in one run."""

from __future__ import annotations

import contextlib
import copy
import datetime
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import job_runs
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch.nn.utils import prune

import orchestrator
from orchestrator.data.batches import Batch
from orchestrator.data.load import load_data
from orchestrator.models.build import build_model
from orchestrator.pruning import prunable_weights, prune_globally
from orchestrator.record import Record
from orchestrator.storage.checkpoint import pack_model
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.masked import Masked
from orchestrator.training.state import model_tensors
from orchestrator.training.step import Step, Sums

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
DIGITS_JOB = job_runs.REPOSITORY / "jobs" / "digits_lr.py"
IDLE_RAY = """
import time
from orchestrator.distributed.cluster import connect
connect(None)
print("Ray runs", flush=True)
time.sleep(600)
"""


def step_seconds(model, batch: tuple[int, ...], masks, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of dense and of masked training steps, taken in turn."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    images, labels = torch.randn(batch), torch.randint(10, batch[:1])
    masked, times = Masked(model, masks), ([], [])
    for repeat in range(2 * repeats + 4):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        if repeat % 2:
            masked.mask_gradients()
        optimizer.step()
        if repeat % 2:
            masked.mask_weights()
        if repeat >= 4:
            times[repeat % 2].append(time.perf_counter() - began)
    return times


@pytest.mark.parametrize(
    ("name", "options", "batch", "repeats"),
    [
        ("resnet8", {"width": 8}, (64, 1, 8, 8), 300),
        ("resnet20", {}, (128, 3, 32, 32), 25),
        ("torchvision:resnet50", {}, (8, 3, 128, 128), 12),
    ],
    ids=["digits", "resnet20", "resnet50"],
)
def test_masked_step(name, options, batch, repeats):
    torch.set_num_threads(2)
    model = build_model(name, options, {"num_classes": 10, "input_shape": batch[1:]}, seed=0).train()
    weights = {n: w.detach() for n, w in prunable_weights(model).items()}
    dense, masked = step_seconds(model, batch, prune_globally(weights, 0.2), repeats)
    ratio = statistics.median(masked) / statistics.median(dense)
    print(
        f"\nmasked step / dense step, {name}, batch {batch[0]}: {ratio:.3f} (target 1.03), "
        f"dense {min(dense) * 1e3:.1f} ms"
    )
    assert ratio < 1.15


def test_a_step_through_the_task():
    """The digits job's step as the trainer makes it, without the optimizer, against cross-entropy in a bare loop."""
    torch.set_num_threads(1)
    data = load_data("digits", {})
    model = build_model("resnet8", {"width": 8}, data.model_arguments, seed=0).train()
    batch = Batch(*(tensor[:64] for tensor in data.train.tensors))
    step = Step(tiny.with_training(batch_size=64), torch.device("cpu"))
    sums = Sums.zero(step.device)
    loss_sum = torch.zeros((), dtype=torch.float64)

    def ours() -> None:
        step.add_gradients(model, batch, None, sums, 0)

    def bare() -> None:
        loss = F.cross_entropy(model(batch.inputs), batch.targets, reduction="sum")
        (loss / 64).backward()
        loss_sum.add_(loss.detach())

    seconds: dict[Callable[[], None], list[float]] = {ours: [], bare: []}
    for turn in range(600):
        for one in (ours, bare) if turn % 2 else (bare, ours):
            model.zero_grad(set_to_none=True)
            began = time.process_time()
            one()
            seconds[one].append(time.process_time() - began)
    ratio = statistics.median(seconds[ours]) / statistics.median(seconds[bare])
    print(f"\na step through the task / a bare one: {ratio:.3f} (target 1.01), {min(seconds[bare]) * 1e3:.2f} ms")
    assert ratio < 1.03


@pytest.mark.parametrize("batch", [8, 32])
def test_held_step(batch):
    """A step of a loop of one's own, with `hold` and without, in turn; masks are large beside so small a batch.

    CPU time, and one thread: two would wait for each other in it.
    """
    torch.set_num_threads(1)
    bare = build_model("torchvision:resnet18", {}, {"num_classes": 10, "input_shape": (3, 64, 64)}, seed=0).train()
    held = copy.deepcopy(bare)
    images, labels = torch.randn(batch, 3, 64, 64), torch.randint(10, (batch,))
    loops = [(m, torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)) for m in (bare, held)]
    orchestrator.hold(orchestrator.prune(held, 0.2), loops[1][1])
    times: list[list[float]] = [[], []]
    for repeat in range(64):
        model, optimizer = loops[repeat % 2]
        began = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if repeat >= 4:
            times[repeat % 2].append(time.process_time() - began)
    plain, masked = map(statistics.median, times)
    ratio = masked / plain
    print(f"\nheld step / bare step, ResNet-18, batch {batch}: {ratio:.3f}, bare {plain * 1e3:.0f} ms of CPU time")
    assert ratio < 1.3


@pytest.mark.parametrize(
    ("name", "options", "shape"), [("resnet20", {}, (3, 32, 32)), ("torchvision:resnet50", {}, (3, 224, 224))]
)
@pytest.mark.parametrize("density", [0.5, 0.1])
def test_size_of_a_committed_model(name, options, shape, density):
    model = build_model(name, options, {"num_classes": 1000 if shape[1] > 32 else 10, "input_shape": shape}, seed=0)
    weights = {n: w.detach() for n, w in prunable_weights(model).items()}
    tensors = {n: t.detach() for n, t in model_tensors(model).items()}
    masks = prune_globally(weights, density)
    dense, packed = len(pack_model(tensors, {})), len(pack_model(tensors, masks))
    rest = dense - 4 * sum(w.numel() for w in weights.values())  # biases, norms and the header are never pruned
    limit = density * dense + dense / 32 + rest
    print(
        f"\n{name}, density {density}: {packed / 1e6:.2f} of {dense / 1e6:.2f} MB, "
        f"{packed / limit:.3f} x (kept values + 1 bit a weight + what is never pruned)"
    )
    assert packed <= 1.05 * limit


def plain_digits(epochs: int, rounds: int, threads: int) -> list[float]:
    """Seconds of each pruned round of the digits job in one plain PyTorch process: only model and data are ours."""
    torch.set_num_threads(threads)
    data = load_data("digits", {})
    images, labels = data.train.tensors
    model = build_model("resnet8", {"width": 8}, {"num_classes": 10, "input_shape": (1, 8, 8)}, seed=0)
    layers = [(m, "weight") for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    seconds = []
    for index in range(1 + rounds):
        began = time.perf_counter()
        if index:
            prune.global_unstructured(layers, prune.L1Unstructured, amount=0.2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = 0.1 * 0.1 ** sum(epoch >= drop for drop in (15, 23))
            model.train()
            for batch in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                model(data.val.tensors[0]).argmax(1).eq(data.val.tensors[1]).sum().item()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


@contextlib.contextmanager
def idle_ray(folder: Path) -> Iterator[None]:
    """A local Ray as a job starts it, without a job."""
    script = folder / "idle.py"
    script.write_text(IDLE_RAY)
    with job_runs.running(folder / "idle_log", script=script) as ray:
        ray.wait_for(lambda: "Ray runs" in ray.output(), "Ray runs")
        time.sleep(10)  # what it does at its start is over
        yield


@pytest.mark.parametrize(
    ("workers", "limit"),
    [(("--workers", "2"), 1.7), (("--workers", "1", "--cpus-per-worker", "2"), 1.25)],
    ids=["2 workers", "1 worker of 2 CPUs"],
)
def test_whole_digits_job_and_the_gap_between_rounds(tmp_path, workers, limit):
    """The job's rounds against the same training in one process, on one thread and on two, twice in turn.

    A round with its gap is the time between the ends of two rounds, so nothing is left out. What a Ray that has nothing
    to do takes from the same process says how much of the difference is not ours.
    """
    usual = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"}  # as users run it
    gaps, ours, plain, beside_ray = [], [], {1: [], 2: []}, {1: [], 2: []}
    for turn in range(2):
        storage = str(tmp_path / f"runs{turn}")
        code, output = job_runs.run(
            tmp_path / "log", "--storage", storage, *workers, script=DIGITS_JOB, env=usual, seconds=400
        )
        assert code == 0, output
        records = Ledger(open_store(storage)).records()
        ours += (between := seconds_between(records))
        gaps += [seconds - record.seconds for seconds, record in zip(between, records[1:], strict=True)]
        for threads in plain:
            plain[threads] += plain_digits(30, 5, threads)
        with idle_ray(tmp_path):
            for threads in beside_ray:
                beside_ray[threads] += plain_digits(30, 5, threads)
    print(
        f"\nend of a round to the start of the next: median {statistics.median(gaps):.3f} s, "
        f"max {max(gaps):.3f} s (target 0.5)"
    )
    print(f"a round of the digits job, {' '.join(workers)}: {_middle_and_best(ours)}")
    for threads, seconds in plain.items():
        print(f"the same in plain PyTorch, {threads} thread(s): {_middle_and_best(seconds)}")
        print(f"  beside a Ray with nothing to do: {_middle_and_best(beside_ray[threads])}")
    job, alone, beside = (min(map(statistics.median, of)) for of in ([ours], plain.values(), beside_ray.values()))
    print(f"ratio of medians to the faster one {job / alone:.2f} (target 1.10), beside an idle Ray {job / beside:.2f}")
    assert statistics.median(gaps) <= 0.5
    assert job / alone < limit


def test_digits_job_on_one_worker(tmp_path):
    """The job's rounds on one worker of one CPU against the same training on one thread, three times in turn."""
    usual = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"}  # as users run it
    ours, plain = [], []
    for turn in range(3):
        storage = str(tmp_path / f"runs{turn}")
        code, output = job_runs.run(
            tmp_path / "log", "--storage", storage, "--workers", "1", script=DIGITS_JOB, env=usual, seconds=400
        )
        assert code == 0, output
        ours += seconds_between(Ledger(open_store(storage)).records())
        plain += plain_digits(30, 5, 1)
    ratio = statistics.median(ours) / statistics.median(plain)
    print(f"\ndigits job on one worker / plain PyTorch on one thread: {ratio:.3f} (target 1.05)")
    print(f"a round: {_middle_and_best(ours)}; plain: {_middle_and_best(plain)}")
    assert ratio < 1.15


def seconds_between(records: list[Record]) -> list[float]:
    """Return the time from the end of each round to the end of the next."""
    ends = [datetime.datetime.fromisoformat(record.finished_at) for record in records]
    return [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(ends)]


def _middle_and_best(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.2f} s, best {min(seconds):.2f} s"


def test_the_gap_between_rounds_of_resnet50(tmp_path):
    """The ImageNet job on a small folder; its gap holds the pruning and the new start of 23.5 million weights."""
    script = job_runs.REPOSITORY / "jobs" / "imagenet_lr.py"
    arguments = ("--smoke", "--storage", str(tmp_path / "runs"))
    code, output = job_runs.run(tmp_path / "log", *arguments, script=script, seconds=400)
    assert code == 0, output
    records = Ledger(open_store(str(tmp_path / "runs"))).records()
    gap = seconds_between(records)[0] - records[1].seconds
    print(f"\nend of a round to the start of the next, ResNet-50: {gap:.2f} s (target 2)")
    assert gap < 6
