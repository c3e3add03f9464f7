"""F16: a stream of text into actors that count the prefixes of its words, as for completing what is typed.

The text is the standard library's own, a paragraph at a time. Actors keep the counts while the stream goes
on; at the end the driver adds them up. Careful `Pool` has no state: it counts a few large pieces, and their
counts travel back. Prefixes have at most 8 letters.

Goal: ahead of the best peer.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Row, Run

MOST_CHARACTERS = 11_000_000
LONGEST = 8
OURS = "grainwise: one call per paragraph"
WORD = re.compile(r"[a-z]{2,}")


@cache
def paragraphs() -> list[str]:
    """The first eleven million characters of the standard library, cut at empty lines."""
    found: list[str] = []
    n_characters = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        for part in path.read_text(encoding="utf-8", errors="replace").lower().split("\n\n"):
            found.append(part)
            n_characters += len(part)
            if n_characters > MOST_CHARACTERS:
                return found
    return found


def prefixes_class() -> type:
    """Return the actors' class: by value, as that of a script, so that no actor imports this module."""

    class Prefixes:
        """Counts prefixes; the actor's class."""

        def __init__(self) -> None:
            self._counts: dict[str, int] = {}

        def add(self, text: str) -> None:
            counts = self._counts
            for word in WORD.findall(text):
                for end in range(1, min(len(word), LONGEST) + 1):
                    prefix = word[:end]
                    counts[prefix] = counts.get(prefix, 0) + 1

        def add_all(self, texts: list[str]) -> None:
            for text in texts:
                self.add(text)

        def counts(self) -> dict[str, int]:
            return self._counts

    return Prefixes


Prefixes: Any = prefixes_class()


def count_all(texts: list[str]) -> dict[str, int]:
    """Count several paragraphs at once, without an actor."""
    prefixes = Prefixes()
    prefixes.add_all(texts)
    return prefixes.counts()


def total(parts: list[dict[str, int]]) -> Counter[str]:
    added: Counter[str] = Counter(parts[0])
    for part in parts[1:]:
        added.update(part)
    return added


def pieces(n_pieces: int) -> list[list[str]]:
    return [paragraphs()[i::n_pieces] for i in range(n_pieces)]


@cache
def expected() -> Counter[str]:
    return total([count_all(paragraphs())])


def check(result: Counter[str]) -> None:
    assert result == expected(), "wrong result"


def judge(figures: Figures) -> list[Goal]:
    best = figures.best(("naive", "tuned"))
    return [figures.ratio_at_most("ahead of the best peer", OURS, best, 1.0)]


ROW = Row(
    id="F16",
    title="prefix counts of a stream of text, in actors",
    reference=OURS,
    rounds=7,
    quick_rounds=2,
    warm_ups=1,
    check=check,
    judge=judge,
)


@ROW.form("serial", "for loop", kind="serial", rounds=4)
def _(bench: Bench) -> Run:
    paragraphs()
    return lambda: total([count_all(paragraphs())])


@ROW.form("grainwise", "one call per paragraph", kind="ours")
def _(bench: Bench) -> Run:
    return _stream(bench)


@ROW.form("ray", "one call per paragraph", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    return _stream(bench)


@ROW.form("ray", "actors, batches of 1,000 by hand", kind="tuned", rounds=4, quick_rounds=1)
def _(bench: Bench) -> Run:
    paragraphs()

    def run() -> Counter[str]:
        actors = _actors(bench)
        texts = paragraphs()
        for i, start in enumerate(range(0, len(texts), 1_000)):
            actors[i % len(actors)].add_all.remote(texts[start : start + 1_000])
        return total(bench.system.get([actor.counts.remote() for actor in actors]))

    return run


@ROW.form("pool", "map over two pieces per worker", kind="tuned")
def _(bench: Bench) -> Run:
    paragraphs()
    return lambda: total(bench.system.map(count_all, pieces(2 * bench.n_workers), chunksize=1))


@ROW.form("pool", "map over one piece per worker", kind="tuned")
def _(bench: Bench) -> Run:
    paragraphs()
    return lambda: total(bench.system.map(count_all, pieces(bench.n_workers), chunksize=1))


def _actors(bench: Bench) -> list[Any]:
    cls = bench.system.remote(Prefixes)
    return [cls.options(num_cpus=0).remote() for _ in range(bench.n_workers)]


def _stream(bench: Bench) -> Run:
    paragraphs()

    def run() -> Counter[str]:
        actors = _actors(bench)
        for i, text in enumerate(paragraphs()):
            actors[i % len(actors)].add.remote(text)
        return total(bench.system.get([actor.counts.remote() for actor in actors]))

    return run
