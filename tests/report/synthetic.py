"""Records of experiments that were not trained, with plausible numbers, and ledgers and reports of them."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from orchestrator import report
from orchestrator.export.measure import Speed
from orchestrator.export.proof import Artifact, ExportedNetworks, Facts, Skipped
from orchestrator.objective import Objective
from orchestrator.record import MODEL, OPTIMIZER, Blob, Record
from orchestrator.report.chapters.exported import ExportedSection
from orchestrator.report.page import Chapter, save_page
from orchestrator.storage.ledger import Ledger
from orchestrator.task import ACCURACY

TECHNIQUES = {
    "learning-rate-rewinding": ("LearningRateRewinding", {"epochs": None, "optimizer_state": "kept"}, 0.0008),
    "weight-rewinding": ("WeightRewinding", {"epochs": 164}, 0.0012),
    "fine-tuning": ("FineTuning", {"epochs": None, "optimizer_state": "kept"}, 0.0035),
    "low-rate-weight-rewinding": ("LowRateWeightRewinding", {"epochs": 164}, 0.005),
    "lottery-ticket": ("WeightRewinding", {"epochs": None}, 0.006),
    "random-reinitialisation": ("RandomReinitialisation", {}, 0.010),
}
THREE = ["learning-rate-rewinding", "fine-tuning", "weight-rewinding"]
LAYERS = {"conv1.weight": 432, **{f"layer{s}.{b}.conv{c}.weight": 2304 * 4 ** (s - 1) for s in (1, 2, 3) for b in
          range(3) for c in (1, 2)}, "fc.weight": 640}  # fmt: skip
PRUNABLE = sum(LAYERS.values())
BITS = Objective("bits_per_character", higher_is_better=False)
CLASSIFICATION, TOKENS = {"type": "Classification", "label_smoothing": 0.0}, {"type": "Tokens", "unit": "character"}

NBSP = "\u00a0"  # the space that breaks no line

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"\'><svg onload=alert(1)>', "{{ 7 * 7 }}",
    "&lt;b&gt; &amp;", "$\\frac{1}{2}$", "]]>", "<!--<script>", "\u2028\u202e\x00\ud800 end", "a" * 300,
]  # fmt: skip


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def path_of(name: str, seed: int, rounds: int = 18, *, epochs: int = 182, model: str = "resnet20",
            data: str = "cifar10", noise: float = 0.0012, history: int | None = None) -> list[Record]:  # fmt: skip
    """Return one path: a dense round, shared by all names with this seed, and `rounds` that lose accuracy."""
    slopes = random.Random(ascii(name))
    kind, options, slope = TECHNIQUES.get(name) or (
        "LearningRateRewinding", {"epochs": None, "optimizer_state": "kept"}, slopes.uniform(5e-4, 6e-3),
    )  # fmt: skip
    found: list[Record] = []
    for r in range(rounds + 1):
        who = (name, seed, r) if r else ("dense", seed, data, model)
        chance = random.Random(digest(who))
        density = 0.8**r
        retrained = options.get("epochs") or epochs
        shown = (retrained if r else epochs) if history is None else history
        loss = slope * (r * 0.5 + max(0, r - 8) ** 1.7 * 0.8) - (0.003 if 0 < r < 6 and slope < 0.002 else 0)
        val, test = (0.917 - loss + chance.gauss(0, noise) for _ in range(2))
        settings = {
            "model": model, "model_options": {}, "model_identity": digest(model), "data": data, "data_options": {},
            "data_identity": digest(data), "task": CLASSIFICATION, "training": {"epochs": epochs}, "seed": seed,
        }  # fmt: skip
        pruned = {"technique": {"type": kind, **options}, "criterion": "magnitude", "selection": {"type": "Global"}}
        kept = round(density * PRUNABLE)
        found.append(Record(
            key=digest("key", who), parent=found[-1].key if r else None, experiment=name, round=r,
            technique=kind if r else "Dense", density=density, kept=kept, prunable=PRUNABLE, seed=seed,
            objective=ACCURACY,
            metrics={"train_loss": 0.02 + loss, "val_accuracy": val, "test_accuracy": test},
            history=curve(chance, shown, val, 0.02 + max(loss, 0)), layers=spread_over_layers(density, chance),
            dead_layers=[], epochs=retrained if r else epochs, seconds=1200 + chance.random() * 60,
            samples_per_second=6000.0, attempts=1, workers=4,
            settings={**settings, **(pruned if r else {}), "round": r, "density": density},
            versions={"python": "3.11.7", "torch": "2.14.1"}, finished_at="2026-01-01T00:00:00+00:00",
            blobs={MODEL: Blob(digest("m", who), 14_000 + 4 * kept + (PRUNABLE // 8 if r else 0)),
                   OPTIMIZER: Blob(digest("o", who), 4 * kept)},
        ))  # fmt: skip
    return found


def record(
    round: int = 0, seed: int = 0, val: float = 0.9, test: float = 0.9, experiment: str = "digits", **changes: Any
) -> Record:
    """Return a record of a network of 4,096 weights, half of which each round removes."""
    density, name = changes.get("density", 0.5**round), changes.get("objective", ACCURACY).name
    values = {
        "key": f"{experiment}-{seed}-{round}", "parent": None, "experiment": experiment, "round": round,
        "technique": "LearningRateRewinding" if round else "Dense", "density": density, "kept": int(density * 4096),
        "prunable": 4096, "seed": seed, "history": [], "layers": {}, "dead_layers": [], "epochs": 30, "seconds": 83.0,
        "objective": ACCURACY, "metrics": {"train_loss": 0.25, f"val_{name}": val, f"test_{name}": test},
        "samples_per_second": 1.0, "attempts": 1, "workers": 1, "settings": {}, "versions": {},
        "finished_at": "2026-01-01",
        "blobs": {MODEL: Blob("0" * 64, 16384 >> round)},
    }  # fmt: skip
    return Record(**{**values, **changes})


def path(vals: Iterable[float | None], seed: int = 0, **changes: Any) -> list[Record]:
    """Return a path with these validation values, one per round; None leaves out the round."""
    return [record(r, seed, val, **changes) for r, val in enumerate(vals) if val is not None]


def in_bits(records: Iterable[Record], objective: Objective = BITS) -> list[Record]:
    """Return `records` as those of a character model, of 3 - 2a bits where `records` have the accuracy a."""

    def metrics(numbers: dict[str, float]) -> dict[str, float]:
        return {
            name.replace("accuracy", objective.name): 3 - 2 * number if "accuracy" in name else number
            for name, number in numbers.items()
        }

    return [
        dataclasses.replace(
            record, objective=objective, settings={**record.settings, "task": TOKENS}, metrics=metrics(record.metrics),
            history=[metrics(epoch) for epoch in record.history], key=digest(record.key, objective),
            parent=record.parent and digest(record.parent, objective),
        )
        for record in records
    ]  # fmt: skip


def with_test_accuracy(records: Iterable[Record], accuracy: Callable[[Record], float]) -> list[Record]:
    """Return `records` with the test accuracies `accuracy(record)`."""
    return [
        dataclasses.replace(record, metrics={**record.metrics, "test_accuracy": accuracy(record)}) for record in records
    ]


def curve(chance: random.Random, epochs: int, val: float, loss: float) -> list[dict[str, float]]:
    """Return a learning curve that ends at `val` and `loss`."""
    drops = [0.1 * 0.1 ** ((e >= epochs * 0.5) + (e >= epochs * 0.75)) for e in range(epochs)]
    left = [max(0.0, 1 - (e + 1) / epochs) for e in range(epochs)]
    return [
        {
            "epoch": e, "lr": drops[e], "train_loss": loss * (1 + 8 * left[e] ** 2 * (drops[e] * 10 + 0.1)),
            "val_loss": 0.3, "val_accuracy": val - (0.12 * left[e] ** 3 + 0.02 * (drops[e] > 0.05)) * chance.random()
            if left[e] else val,
        }
        for e in range(epochs)
    ]  # fmt: skip


def spread_over_layers(density: float, chance: random.Random) -> dict[str, list[int]]:
    """Return the kept and all weights of each layer; small layers keep more than large ones."""
    return {
        name: [round(size * min(1.0, density ** (0.35 + 0.65 * min(1, size / 36864)) * (0.95 + chance.random() / 10))),
               size]
        for name, size in LAYERS.items()
    }  # fmt: skip


def write(ledger: Ledger, paths: list[list[Record]]) -> None:
    """Write the records of whole paths, without their blobs, and the files that list the rounds of each path."""
    for path in paths:
        for record in path:
            ledger.store.create(f"rounds/{record.key}/record.json", record.to_json())
        first, keys = path[0], [record.key for record in path]
        content = {"name": first.experiment, "seed": first.seed, "densities": [], "keys": keys}
        ledger.write_experiment(digest(first.experiment)[:12], first.seed, content)


def paths(
    names: Iterable[str] = THREE, seeds: int = 3, rounds: int = 6, *, epochs: int = 4, **options: Any
) -> list[Record]:
    """Return short paths of every name and seed."""
    return [
        record
        for name in names
        for seed in range(seeds)
        for record in path_of(name, seed, rounds, epochs=epochs, **options)
    ]


def hostile_records() -> list[Record]:
    """Return records whose every text, but not the objective's name, tries to break the page."""
    records = paths(HOSTILE, seeds=2, rounds=2, epochs=3)
    for index, record in enumerate(records):
        odd = HOSTILE[index % len(HOSTILE)]
        record.layers.update({name: [1, 2] for name in HOSTILE})
        record.settings.update(data=HOSTILE[0], model=HOSTILE[2])
        records[index] = dataclasses.replace(record, technique=odd)
    return records


def deployment(name: str = "unstructured", reason: str = "not installed") -> ExportedNetworks:
    """Return two networks in three formats, one of which was skipped, with plausible numbers."""
    networks = [
        Facts(name=n, parameters=25_557_032, nonzero=nonzero, raw_bytes=102_546_848, macs=4_089_184_256,
              effective_macs=nonzero * 160, objective=ACCURACY, metrics={"accuracy": 0.7612},
              origin={"key": digest(n), "round": r})
        for r, (n, nonzero) in enumerate((("dense", 25_557_032), (name, 2_600_000)))
    ]  # fmt: skip
    artifacts = [
        Artifact(network=facts.name, format=form, file=f"{facts.name}.{form}", sha256=digest(facts.name, form),
                 bytes=102_546_848, download_bytes=12_000_000 + facts.nonzero * 3,
                 objective=ACCURACY, metrics={"accuracy": 0.7610}, relative_error=2e-6, equal_predictions=0.9987,
                 speed=Speed(f"{form} 1.0", "Some Processor 3000", 1, 10, 100, 0.25, seconds, 1.2 * seconds, 50_000_000,
                             110_000_000, 180_000_000, False))
        for facts in networks for form, seconds in (("packed", 0.21), ("onnx", 0.115))
    ]  # fmt: skip
    return ExportedNetworks(tuple(networks), tuple(artifacts), (Skipped(network=name, format="pte", reason=reason),))


def save(
    records: list[Record],
    folder: Path,
    failures: Iterable[dict[str, Any]] = (),
    exported: ExportedNetworks | None = None,
    storage: str | None = None,
) -> str:
    """Write a report into `folder` and return its page."""
    *_, page = report.write(records, folder, failures=failures, exported=exported, storage=storage)
    return read_page(page)


def save_page_alone(records: list[Record], path: Path, exported: ExportedNetworks | None = None) -> str:
    """Write a page without pictures, which take most of a report's time, and return it."""
    chapters = [Chapter(comparison, {}, {}) for comparison in report.comparisons(records)]
    section = ExportedSection(exported, {}) if exported else None
    return read_page(save_page(chapters, records, [], path, section))


def read_page(path: Path) -> str:
    """Return a page, with a plain space in place of each that breaks no line."""
    return path.read_text(encoding="utf-8").replace(NBSP, " ")
