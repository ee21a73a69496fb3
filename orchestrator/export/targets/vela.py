"""Arm's Ethos-U: processors for networks in microcontrollers, whose compiler Vela estimates cycles and bytes."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.errors import ExportError
from orchestrator.export.originals import Original
from orchestrator.export.targets.litert import int8_of, missing_litert, run_of
from orchestrator.export.targets.target import TargetFile
from orchestrator.extras import install_command
from orchestrator.pruning import prunable_weights
from orchestrator.training.int8_weights import HIGHEST


@dataclass(frozen=True)
class _Chip:
    """A processor with its memories, by the names of Vela's own configuration file."""

    accelerator: str
    system: str
    memory: str


CHIPS = {
    "U55": _Chip("ethos-u55-256", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "U65": _Chip("ethos-u65-256", "Ethos_U65_High_End", "Dedicated_Sram"),
    "U85": _Chip("ethos-u85-256", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
_WITH_2_OF_4 = "U85"  # the only one that skips half of the multiplications of a layer that holds 2:4
_NAMED = 3  # layers that miss 2:4
_LEFT = re.compile(r"^Warning \(supported operators\) operator: (\w+)", re.MULTILINE)
_BORDERS = {"QUANTIZE", "DEQUANTIZE"}  # between the chip's part and the CPU's


@dataclass(frozen=True)
class Estimate:
    """What Vela says of a network: cycles of a sample, bytes of the encoded weights, operators left to the CPU."""

    cycles: float
    bytes: int
    left: tuple[str, ...]


class Vela:
    name = "vela"

    def missing(self) -> str | None:
        if find_spec("ethosu") is None:
            return f"Vela is not installed: run {install_command('ethos')} in the folder of this project"
        return missing_litert()

    def measured_by(self) -> str:
        return f"estimated by Vela {version('ethos-u-vela')}"

    def files(self, original: Original, folder: Path) -> Mapping[str, TargetFile]:
        source = int8_of(original, folder)
        run, found = run_of(source, original), {}
        for name, chip in CHIPS.items():
            estimate = estimated(source, chip)
            details = (
                [f"left to the CPU, whose cycles are not counted: {', '.join(estimate.left)}"] if estimate.left else []
            )
            details += [two_of_four(original.candidate.module)] if name == _WITH_2_OF_4 else []
            found[name] = TargetFile(estimate.bytes, run, False, "; ".join(details), estimate.cycles, where=name)
        return found


def estimated(source: Path, chip: _Chip) -> Estimate:
    """Compile an int8 .tflite file for a chip. Raises ExportError for one of which nothing runs there."""
    asked = ["--accelerator-config", chip.accelerator, "--config", "Arm/vela.ini", "--system-config", chip.system]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "ethosu.vela", str(source), *asked, "--memory-mode", chip.memory,
             "--output-dir", folder, "--show-cpu-operations"],
            capture_output=True,
            text=True,
        )  # fmt: skip
        summary = next(Path(folder).glob("*_summary_*.csv"), None)
        if done.returncode or summary is None:
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise ExportError(f"Vela cannot take the network ({lines[-1][:200]})")
        with summary.open() as file:
            (figures,) = csv.DictReader(file)
    left = tuple(sorted(set(_LEFT.findall(done.stdout)) - _BORDERS))
    if "NPU operators = 0 " in done.stdout:
        raise ExportError(f"Vela cannot take the network: it leaves all of it to the CPU ({', '.join(left)})")
    return Estimate(float(figures["cycles_total"]), int(figures["total_npu_encoded_weights"]), left)


def two_of_four(module: nn.Module) -> str:
    """Say which layers of `module`, rounded to int8, miss 2:4, and in how many groups.

    A group is 4 consecutive inputs of one output at one place of the kernel; it misses 2:4 with more than 2 weights
    that are not zero, and one such group makes a chip compute the whole layer densely. Layers whose inputs 4 does not
    divide cannot hold it, and are left out.
    """
    missed = {
        name.removesuffix(".weight"): groups_that_miss(weight.detach())
        for name, weight in prunable_weights(module).items()
        if weight.dim() in (2, 4) and weight.shape[1] % 4 == 0
    }
    misses = sorted((count, name) for name, count in missed.items() if count)
    if not misses:
        return f"2:4 in all {len(missed)} layers" if missed else "no layer for 2:4"
    named = ", ".join(f"{name} ({count:,} groups)" for count, name in misses[:_NAMED])
    more = f" and {len(misses) - _NAMED} more" if len(misses) > _NAMED else ""
    return f"2:4 missed in {len(misses)} of {len(missed)} layers: {named}{more}"


def groups_that_miss(weight: Tensor) -> int:
    """Return how many groups of 4 inputs of an (outputs, inputs, ...) weight have more than 2 that int8 holds."""
    highest = weight.float().flatten(1).abs().amax(1)
    scales = torch.where(highest > 0, HIGHEST / highest, 0.0)  # an output may have lost all of its weights
    steps = (weight.float() * scales.reshape(-1, *[1] * (weight.dim() - 1))).round()
    return int(((steps != 0).unflatten(1, (-1, 4)).sum(2) > 2).sum())
