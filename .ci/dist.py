"""Build wheel and sdist of the committed files, with a description whose links lead into the repository.

python .ci/dist.py dist https://github.com/OWNER/NAME
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import build_meta

PROJECT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!https?://|#)[^)\s]+)\)")
TABLE = "[project.urls]\n"


def web_address(origin: str) -> str:
    """Return the web address of a repository that git knows as `origin`: git@host:owner/name.git or an https one."""
    return re.sub(r"^(ssh://)?git@([^:/]+)[:/]", r"https://\2/", origin.strip()).removesuffix(".git").rstrip("/")


def absolute_links(text: str, url: str) -> str:
    """Return Markdown `text` whose relative links lead to the files of the repository at `url`."""
    kinds = {"!": "raw", "": "blob"}
    return LINK.sub(lambda m: f"{m['picture']}[{m['text']}]({url}/{kinds[m['picture']]}/HEAD/{m['path']})", text)


def with_urls(pyproject: str, url: str) -> str:
    """Return the text of pyproject.toml with the addresses of the repository in its table of URLs."""
    pages = {"Repository": "", "Issues": "/issues", "Changelog": "/blob/HEAD/.github/CHANGELOG.md"}
    return pyproject.replace(TABLE, TABLE + "".join(f'{name} = "{url}{page}"\n' for name, page in pages.items()))


def build(out: Path, origin: str) -> list[str]:
    """Write wheel and sdist into the folder `out`; return their names."""
    url = web_address(origin)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=PROJECT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        for name, change in (("README.md", absolute_links), ("pyproject.toml", with_urls)):
            file = Path(folder, name)
            file.write_text(change(file.read_text(encoding="utf-8"), url), encoding="utf-8")
        os.chdir(folder)
        names = [build_meta.build_wheel(str(out)), build_meta.build_sdist(str(out))]
        os.chdir(PROJECT)
    return names


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    print(*build(target, sys.argv[2]), sep="\n")
