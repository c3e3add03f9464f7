"""Every ```python block of README.md and docs/ runs.

One file is one program: its blocks share a namespace and run in order, in a fresh interpreter and an empty
folder. Every block keeps its line numbers, so a traceback names the line of the Markdown file. A block that
cannot run (a fragment, a sketch of another library) says so: ```python no-run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from tests.leaks import assert_nothing_left, run_script

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 90
FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)")


class Block(NamedTuple):
    """One fenced block: the line (from 1) on which its text begins, its info string, its text."""

    line: int
    info: str
    text: str


def find_blocks(markdown: str) -> Iterator[Block]:
    """Read the fenced blocks as CommonMark does: a closing fence is at least as long as the opening one."""
    lines = iter(enumerate(markdown.splitlines(), start=1))
    for number, line in lines:
        opening = FENCE.fullmatch(line)
        if opening is None:
            continue
        closing = re.compile(rf" *{opening['fence']}{opening['fence'][0]}*\s*")
        text = []
        for _, inner in lines:
            if closing.fullmatch(inner):
                break
            text.append(inner)
        yield Block(number + 1, opening["info"].strip(), dedent("\n".join(text)))


def make_program(markdown: str) -> str:
    """Put the python blocks into one program, each on the lines that it has in the Markdown file."""
    program: list[str] = []
    for block in find_blocks(markdown):
        language, *words = block.info.split() or [""]
        if language != "python":
            continue
        if words == ["no-run"]:
            continue
        assert not words, f"line {block.line - 1}: ```{block.info}: after python only no-run is known"
        program += [""] * (block.line - 1 - len(program)) + block.text.splitlines()
    return "\n".join(program)


def has_python(path: Path) -> bool:
    return any(block.info.split()[:1] == ["python"] for block in find_blocks(path.read_text()))


FILES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if has_python(path)]


@pytest.mark.parametrize("name", [path.relative_to(ROOT).as_posix() for path in FILES])
def test_code_blocks_run(name: str, tmp_path: Path) -> None:
    env = {"GRAINWISE_CACHE_DIR": str(tmp_path)}
    result = run_script(make_program((ROOT / name).read_text()), timeout=TIMEOUT_S, env=env)
    assert result.returncode == 0, (
        f"{name} (program.py has its line numbers):\n{result.stdout}{result.stderr}"
    )
    assert_nothing_left(result.mark)


# --- the reader itself -------------------------------------------------------------------------------------

SAMPLE = """\
# Title
```python
x = 1
```
```python no-run
not python at all
```
````markdown
```python
nor_this()
```
````
- an item

  ~~~python
  if x:
      y = 2
  ~~~
"""


def test_blocks_keep_their_lines() -> None:
    assert make_program(SAMPLE).splitlines() == ["", "", "x = 1", *[""] * 12, "if x:", "    y = 2"]


def test_misspelt_word_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"line 1: ```python norun"):
        make_program("```python norun\n```\n")


def test_failing_block_is_named_by_its_line() -> None:
    result = run_script(make_program("# Title\n\n```python\nx = 1\nx.nothing\n```\n"), timeout=TIMEOUT_S)
    assert result.returncode == 1
    assert "line 5" in result.stderr
