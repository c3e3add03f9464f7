"""Tiny tasks: clean the text of the standard library and count its words, one task for each paragraph."""

from __future__ import annotations

import html
import re
import sysconfig
import unicodedata
from collections import Counter
from multiprocessing import Pool
from pathlib import Path
from typing import TYPE_CHECKING

import grainwise
from grainwise.demo.story import Reasons, Story

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_CHARACTERS = 10_000_000
MOST_CHARACTERS_QUICK = 1_000_000

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # takes camelCase and snake_case apart
ENDINGS = [
    (re.compile(f"(?<=...){ending}$"), instead)
    for ending, instead in [
        ("ies", "y"),
        ("(?<!s)s", ""),
        ("ly", ""),
        ("ness", ""),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ment", ""),
        ("able", ""),
        ("ing", ""),
        ("ed", ""),
        ("ful", ""),
    ]
]
STOP_WORDS = frozenset(
    ["a", "an", "and", "are", "as", "be", "by", "for", "if", "in", "is", "it", "of", "or", "the", "to"]
)


def count_words(paragraph: str) -> dict[str, int]:
    """Clean one paragraph, take accents and endings off its words, and count them."""
    text = unicodedata.normalize("NFKD", html.unescape(paragraph))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    counts: dict[str, int] = {}
    for word in WORD.findall(text):
        stem = word.lower()
        for ending, instead in ENDINGS:
            stem = ending.sub(instead, stem)
        if stem not in STOP_WORDS:
            counts[stem] = counts.get(stem, 0) + 1
    return counts


def in_plain_python(paragraphs: list[str]) -> Counter[str]:
    """Call it once for each paragraph."""
    return total(count_words(paragraph) for paragraph in paragraphs)


def with_pool(paragraphs: list[str]) -> Counter[str]:
    """Let Pool cut the list into pieces."""
    with Pool() as pool:
        return total(pool.map(count_words, paragraphs))


def with_grainwise(paragraphs: list[str]) -> Counter[str]:
    """Make every paragraph a task of its own."""
    count = grainwise.remote(count_words)
    return total(grainwise.get([count.remote(paragraph) for paragraph in paragraphs]))


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Add up the counts of all paragraphs."""
    added: Counter[str] = Counter()
    for count in counts:
        added.update(count)
    return added


def paragraphs_of_the_standard_library(is_quick: bool) -> list[str]:
    """Read the running interpreter's own source files, in order of path, up to a number of characters."""
    most = MOST_CHARACTERS_QUICK if is_quick else MOST_CHARACTERS
    folder = Path(sysconfig.get_path("stdlib"))
    paragraphs: list[str] = []
    n_characters = 0
    for path in sorted(folder.rglob("*.py")):
        if n_characters >= most:
            break
        if {"site-packages", "dist-packages"}.isdisjoint(path.parts):
            # Some of the library's test files are not UTF-8, on purpose.
            text = path.read_text("utf-8", errors="replace")
            n_characters += len(text)
            paragraphs += [paragraph for paragraph in re.split(r"\n\s*\n", text) if not paragraph.isspace()]
    return paragraphs


def describe(paragraphs: list[str]) -> str:
    """Say how much text it is."""
    n_characters = sum(map(len, paragraphs))
    size = f"{len(paragraphs):,} paragraphs, {n_characters / 1e6:.1f} million characters"
    return f"{size}: the source of Python's own standard library"


def finding(counts: Counter[str]) -> str:
    """Name the most frequent words."""
    first = ", ".join(f"{word} ({n:,})" for word, n in counts.most_common(5))
    return f"{counts.total():,} words, {len(counts):,} different ones; most often: {first}"


STORY: Story[list[str], Counter[str]] = Story(
    name="words",
    title="Tiny tasks: clean a text and count its words, one task for each paragraph",
    prepare=paragraphs_of_the_standard_library,
    describe=describe,
    count_tasks=len,
    task=count_words,
    plain=in_plain_python,
    pool=with_pool,
    naive=with_grainwise,
    finding=finding,
    reasons=Reasons(
        ahead_of_plain="many paragraphs share one message, so that every CPU is busy counting",
        ahead_of_pool=None,
        handing_over="each makes a ref",
        waiting="the workers count, and each paragraph's counts come back pickled",
    ),
    by_itself="sent the paragraphs many to a message; no chunk size was chosen",
)
