"""The page's text from its template, its style, and the library that makes its tables sort and filter."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import formatting
from orchestrator.errors import OrchestratorError
from orchestrator.extras import extra
from orchestrator.report.paired import CONFIDENCE, RESAMPLES
from orchestrator.report.pictures import COLOURS
from orchestrator.report.published import SOURCE
from orchestrator.report.summary import RULE

EXPORT = re.compile(r"export\s*\{([^{}]*)\}\s*;?")


def check_packages() -> None:
    """Raise OrchestratorError if `render` would lack a package, or has one of another form than it reads."""
    with extra("plots", "the report page"):
        import jinja2  # noqa: F401
    _library()


def render(values: Mapping[str, Any]) -> str:
    """The page with `values`. Raises OrchestratorError if a package is missing."""
    with extra("plots", "the report page"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup

    def one_line(value: Any) -> Any:
        """What is shown of a text: names come from storage, where anybody may have written."""
        return formatting.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("orchestrator.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=one_line,
    )
    for function in (
        formatting.compression,
        formatting.duration,
        formatting.milliseconds,
        formatting.percent,
        formatting.points,
        formatting.shorten,
        formatting.size,
    ):
        environment.filters[function.__name__] = function
    environment.filters["markup"] = Markup
    script = _library() + "\n" + _own("page.js")
    constants = {
        "colours": COLOURS,
        "level": round(100 * CONFIDENCE),
        "resamples": RESAMPLES,
        "rule": RULE,
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "source": SOURCE,
        "style": Markup(_own("page.css")),
    }
    return environment.get_template("page.html.j2").render({**constants, **values})


def _library() -> str:
    """DataTables with jQuery, as the wheel of itables carries them: a module whose export becomes a constant.

    itables itself is not imported: that would load pandas, for a second, to read a file.
    """
    with extra("plots", "the report page"):
        found = importlib.util.find_spec("itables")
        if found is None or not found.submodule_search_locations:
            raise ImportError("No module named 'itables'")
    bundle = Path(found.submodule_search_locations[0], "html", "dt_bundle.js").read_text(encoding="utf-8")
    exports = {theirs: ours for ours, theirs in re.findall(r"([\w$]+) as ([\w$]+)", "".join(EXPORT.findall(bundle)))}
    if "jQuery" not in exports or "</script" in bundle.lower():
        raise OrchestratorError("this version of itables carries DataTables in another form: pip install 'itables<3'")
    return EXPORT.sub("", bundle) + f"\nconst jQuery = {exports['jQuery']};"


def _own(name: str) -> str:
    return resources.files("orchestrator.report.page").joinpath(name).read_text(encoding="utf-8")
