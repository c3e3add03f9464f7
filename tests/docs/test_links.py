"""The pages hang together: links lead somewhere, the site's menu has every page, every word is explained.

Without MkDocs, so that it costs milliseconds; `./task docs` checks the same again and more.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import grainwise
from grainwise import cli
from grainwise.api import task_options

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
FENCED = re.compile(r"^( *)(`{3,}|~{3,}).*?^ *\2[`~]*\s*?$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*([^)\s]+)[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md"]


def links_of(markdown: str) -> Iterator[str]:
    """Return the targets of links that lead to files; code is no link, though `f[x](y)` looks like one."""
    prose = CODE.sub("code", FENCED.sub("", markdown))
    return (link for link in LINK.findall(prose) if not re.match(r"[a-z]+:", link))


def anchors_of(markdown: str) -> set[str]:
    """Return what may follow `#` in links to a page."""
    return {slug(heading) for heading in HEADING.findall(FENCED.sub("", markdown))}


def slug(heading: str) -> str:
    words = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading).replace("`", "")
    words = re.sub(r"[^\w\s-]", "", words).strip().lower()
    return re.sub(r"[-\s]+", "-", words)


def menu() -> list[str]:
    """Return the pages in the site's menu, by their path in the tree; read without a library for YAML."""
    text = (ROOT / "mkdocs.yml").read_text()
    entries = re.findall(r"(\S+\.md)\b", text[text.index("\nnav:") :])
    return [
        entry.removeprefix("project/") if entry.startswith("project/") else f"docs/{entry}"
        for entry in entries
    ]


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    broken = []
    for link in links_of(here.read_text()):
        path, _, anchor = link.partition("#")
        target = here.parent / path if path else here
        if not target.is_file():
            broken.append(f"{link}: no such file (a link to a folder does not work in the site)")
        elif anchor and target.suffix == ".md" and anchor not in anchors_of(target.read_text()):
            broken.append(f"{link}: no such heading")
    assert not broken, f"{page}: {broken}"


def test_every_page_is_in_the_menu_once() -> None:
    entries = menu()
    assert len(set(entries)) == len(entries)
    assert {page.relative_to(ROOT).as_posix() for page in DOCS.rglob("*.md")} <= set(entries), (
        "add it to mkdocs.yml"
    )
    assert [entry for entry in entries if not (ROOT / entry).is_file()] == []


def test_every_page_has_one_title() -> None:
    for page in DOCS.rglob("*.md"):
        titles = re.findall(r"^# ", FENCED.sub("", page.read_text()), re.MULTILINE)
        assert len(titles) == 1, page


def test_every_public_word_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    explained = set(re.findall(r"^::: grainwise\.(\w+)", pages, re.MULTILINE))  # a module by its words
    assert set(grainwise.__all__) <= explained


def test_every_option_is_in_the_reference() -> None:
    assert set(task_options.TASK_OPTIONS) <= set(
        re.findall(r"^\| `(\w+)`", (DOCS / "reference/tasks.md").read_text(), re.MULTILINE)
    )
    command = (DOCS / "reference" / "command.md").read_text()
    for name, subcommand in cli.main.commands.items():
        assert f"grainwise {name}" in command
        for option in subcommand.params:
            assert isinstance(option, click.Option)
            assert option.opts[0] in command


# --- the readers themselves --------------------------------------------------------------------------------


def test_links_in_code_are_none() -> None:
    text = "a [b](c.md) and `x[0](y)` [d](e.md#f) [g](https://h)\n```python\nf[1](z)\n```\n[i](#j)\n"
    assert list(links_of(text)) == ["c.md", "e.md#f", "#j"]


def test_slugs_are_those_of_the_site() -> None:
    assert anchors_of("# A title\n## `get`, or *wait*?\n```\n# no\n```\n") == {"a-title", "get-or-wait"}


def test_links_out_of_docs_are_turned_to_the_site() -> None:
    spec = importlib.util.spec_from_file_location("outside", DOCS / "outside.py")
    assert spec is not None
    assert spec.loader is not None
    outside = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outside)

    def turned(markdown: str, page: str) -> str:
        text: str = outside.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)))
        return text

    assert (
        turned("[a](../README.md) [b](tutorial.md#x)", "README.md")
        == "[a](project/README.md) [b](tutorial.md#x)"
    )
    assert turned("[a](../../README.md#b)", "how-to/dask.md") == "[a](../project/README.md#b)"
    assert turned("[a](docs/README.md) [b](LICENSE)", "project/README.md") == "[a](../README.md) [b](LICENSE)"
    assert turned("[a](https://b/c.md) `d[0](e)`", "README.md") == "[a](https://b/c.md) `d[0](e)`"
