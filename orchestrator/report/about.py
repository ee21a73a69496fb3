"""What a chapter's networks were made with: settings, versions, processor, dates and storage, and how to export one."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.data.builtin import BUILTIN
from orchestrator.errors import OrchestratorError
from orchestrator.export.recorded_code import named_code
from orchestrator.formatting import shorten
from orchestrator.lookup import signature_of, takes
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison, identity
from orchestrator.report.page import Section, TextTable

MAX_NAMES = 3  # experiments that are named beside a value
MAX_VALUES = 4  # of one setting that are listed
MAX_VALUE = 200  # characters
SETTINGS = {  # of the training, then of the experiment: their titles
    "epochs": "epochs of the schedule",
    "batch_size": "batch size",
    "accumulate": "batches per step",
    "schedule": "learning rate",
    "optimizer": "optimizer",
    "clip_norm": "gradient clipping",
    "ema": "averaging of weights",
    "precision": "precision",
    "technique": "technique",
    "selection": "selection",
    "criterion": "criterion",
    "exclude": "not pruned",
    "distillation": "distillation",
}


def settings_section(comparison: Comparison, storage: str | None) -> list[Section]:
    """Return the section about settings. `storage` is where the rounds are, as the command line takes it."""
    table = TextTable("Settings of the experiments", ("setting", "value"), tuple(_lines(comparison, storage)))
    return [Section("settings", "Settings", tables=(table,))]


def export_command(comparison: Comparison, storage: str | None) -> str:
    """Return the command that exports the recommended round; "" if none is recommended."""
    if not comparison.recommended_records:
        return ""
    record = comparison.recommended_records[0]
    words = ["orchestrator", "export", storage or "STORAGE", "--round", record.key[:12], "--out", "./deploy"]
    with contextlib.suppress(OrchestratorError):  # a record that does not name its model cannot be exported at all
        words += [word for spec in named_code(record).values() for word in ("--trust", spec)]
    return shlex.join(words)


def may_need_data(comparison: Comparison) -> bool:
    """Return whether the data may lie in files, whose folder the command that exports must name."""
    data = str(comparison.records[0].settings.get("data"))
    return data not in BUILTIN or takes(signature_of(BUILTIN[data], f"data {data!r}"), "root")


def words(value: Any) -> str:
    """Return a setting as people read it: `StepDecay(peak=0.1, drops=[15, 23])`."""
    if isinstance(value, Mapping):
        given = {name: part for name, part in value.items() if not (name == "type" or part is None or part is False)}
        parts = [f"{name}={words(part)}" for name, part in given.items()]
        inside = ", ".join(parts)
        return (f"{value['type']}({inside})" if inside else str(value["type"])) if "type" in value else inside
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(words, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lines(comparison: Comparison, storage: str | None) -> Iterable[tuple[str, str]]:
    first = comparison.records[0]
    last = {name: max(each, key=lambda record: record.round) for name, each in comparison.records_by_experiment.items()}
    data, model, _ = identity(first)
    yield "model", model
    options = first.settings.get("data_options")
    yield "data", data + (f" ({words(options)})" if options else "")
    yield "task", f"{words(first.settings.get('task', 'unknown'))}, decided by {comparison.quantity.name}"
    yield "weights", f"{first.weights:,}, of which {first.prunable:,} are prunable"
    yield "epochs of a round", _by_value({name: record.epochs for name, record in last.items()})
    settings = {name: {**record.settings, **_training(record)} for name, record in last.items()}
    for name, title in SETTINGS.items():
        if text := _by_value({experiment: each.get(name) for experiment, each in settings.items()}):
            yield title, text
    yield (
        "seeds" if comparison.seeds > 1 else "seed",
        ", ".join(map(str, sorted({record.seed for record in comparison.records}))),
    )
    versions = {(name, version) for record in comparison.records for name, version in record.versions.items()}
    yield "versions", ", ".join(f"{name} {version}" for name, version in sorted(versions)) or "unknown"
    yield "processor", "; ".join(sorted({_processor(record) for record in comparison.records}))
    dates = sorted(record.finished_at for record in comparison.records)
    yield "finished", " to ".join(dict.fromkeys(f"{date[:10]} {date[11:16]}".strip() for date in (dates[0], dates[-1])))
    yield "storage", storage or "unknown"


def _training(record: Record) -> Mapping[str, Any]:
    training = record.settings.get("training")
    return training if isinstance(training, dict) else {}


def _processor(record: Record) -> str:
    workers = f"{record.workers} worker{'s' if record.workers != 1 else ''}"
    return f"{record.processor or 'unknown'}, {workers}"


def _by_value(values: Mapping[str, Any]) -> str:
    """Return the values of a setting by experiment: one value, or each with the experiments that have it."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        if value not in (None, [], {}):
            names.setdefault(shorten(words(value), MAX_VALUE), []).append(name)
    if len(names) <= 1:
        return "".join(names)
    texts = [f"{value} ({_named(experiments)})" for value, experiments in list(names.items())[:MAX_VALUES]]
    return "; ".join(texts) + (f"; and {len(names) - MAX_VALUES} more values" if len(names) > MAX_VALUES else "")


def _named(experiments: list[str]) -> str:
    if len(experiments) > MAX_NAMES:
        return f"{len(experiments)} experiments"
    return ", ".join(shorten(name, 40) for name in experiments)
