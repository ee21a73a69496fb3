"""Show rounds that ended with quantisation-aware epochs: what int8 gives before and after them."""

from __future__ import annotations

from orchestrator.report.comparison import Comparison
from orchestrator.report.page import Section
from orchestrator.report.tables import TextTable

_COLUMNS = {"before": "int8 before", "after": "int8 after", "file": "packed-int8 file"}


def int8_section(comparison: Comparison) -> list[Section]:
    """Return a section with the test values of these rounds, or an empty list without such rounds."""
    quantity = comparison.quantity
    lines = []
    for record in comparison.records:
        if found := record.int8:
            values = (found.get(f"test_{when}") for when in _COLUMNS)
            texts = ["" if value is None else quantity.text(value) for value in values]
            name = f"{record.experiment}, round {record.round}, seed {record.seed}"
            lines.append((name, quantity.text(record.test), *texts))
    if not lines:
        return []
    about = (
        f"Test {quantity.name} of networks whose last round ended with quantisation-aware epochs: as float32 after "
        "them, with weights and inputs of layers rounded to int8 before and after them, and with the weights of a "
        "packed-int8 file."
    )
    table = TextTable("Rounding to int8", ("round", "float32", *_COLUMNS.values()), tuple(lines))
    return [Section("int8", "Rounding to int8", (about,), (table,))]
