"""Write the API reference into a folder, with pdoc: a page of the public names, and a page of each file.

python .ci/api.py api
"""

from __future__ import annotations

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import orchestrator
from orchestrator import export

for package in (orchestrator, export):  # pdoc reads the names that are loaded; ours are loaded when first used
    vars(package).update({name: getattr(package, name) for name in package.__all__})
warnings.filterwarnings("ignore", module="pdoc.doc_types")  # annotations of constructors that it shows as written
files = [file.name for file in pkgutil.walk_packages(orchestrator.__path__, "orchestrator.") if not file.ispkg]
pdoc.render.configure(show_source=False)
pdoc.pdoc(
    "orchestrator",
    "orchestrator.export",
    "orchestrator.pruning",
    *(name for name in files if not name.endswith("__main__")),
    output_directory=Path(sys.argv[1]),
)
