"""A hook of MkDocs: files outside docs/ that pages link to become a part of the site.

Links are written for the tree (`../README.md`), so that they work where the code is hosted. Here each such
file is added under `project/`, those that it links to as well, and the links are turned to where it stands.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s:#]+)(?=[#)])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, and what that links to."""
    from mkdocs.structure.files import File

    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known = set(waiting)
    for path in waiting:  # grows
        for link in LINK.finditer((ROOT / path).read_text(encoding="utf-8")):
            found = _find(path, link["path"])
            if found is None or found in known or found.startswith("docs/"):
                continue
            known.add(found)
            files.append(File.generated(config, _place(found), abs_src_path=str(ROOT / found)))
            if found.endswith(".md"):
                waiting.append(found)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links that cross the border of docs/ to where the file stands in the site."""
    here = page.file.src_uri
    path = here.removeprefix("project/") if here.startswith("project/") else f"docs/{here}"

    def turn(link: re.Match[str]) -> str:
        found = _find(path, link["path"])
        return link["path"] if found is None else posixpath.relpath(_place(found), posixpath.dirname(here))

    return LINK.sub(turn, markdown)


def _find(path: str, link: str) -> str | None:
    """Return the file of the tree that a page links to, by its path from the top; None if there is none."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return found if not found.startswith("..") and (ROOT / found).is_file() else None


def _place(path: str) -> str:
    """Return where a file of the tree stands in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"
