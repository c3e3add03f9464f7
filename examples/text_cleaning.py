"""Clean a corpus and count its words: a workflow with a map, plain tasks and a conditional.

    python examples/text_cleaning.py

The corpus is the reference text that Python brings with it (`help()` shows it): 700 kB of English.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from grainwise.flow import conditional, map_task, task, workflow


class Summary(NamedTuple):
    """What is known of a corpus."""

    n_words: int
    top: list[str]


@task
def load_corpus(n_topics: int) -> list[str]:
    """Return the texts of the first topics, 0 for all."""
    from pydoc_data.topics import topics

    texts = [text for _, text in sorted(topics.items())]
    return texts[:n_topics] if n_topics else texts


@task
def lower(text: str) -> str:
    """Return a text in small letters."""
    return text.lower()


@task
def strip_non_letters(text: str) -> str:
    """Return a text with blanks in the place of all but letters."""
    return re.sub(r"[^a-z]", " ", text)


@task
def squeeze_blanks(text: str) -> str:
    """Return a text with single blanks between words."""
    return " ".join(text.split())


@task
def count_words(texts: list[str]) -> Summary:
    """Count the words of texts."""
    counts = Counter(word for text in texts for word in text.split())
    return Summary(sum(counts.values()), [word for word, _ in counts.most_common(10)])


@task
def is_empty(texts: list[str]) -> bool:
    """Say whether there is nothing to clean."""
    return not texts


@task
def nothing() -> Summary:
    """Return the summary of no text."""
    return Summary(0, [])


@workflow
def clean(texts: list[str]) -> list[str]:
    """Clean texts, each by itself."""
    small = map_task(lower)(text=texts)
    letters = map_task(strip_non_letters)(text=small)
    return map_task(squeeze_blanks)(text=letters)


@workflow
def clean_corpus(n_topics: int = 0) -> Summary:
    """Clean a corpus and count its words."""
    texts = load_corpus(n_topics=n_topics)
    cleaned = clean(texts=texts)
    return (
        conditional("is there text")
        .if_(is_empty(texts=texts).is_true())  # type: ignore[attr-defined]
        .then(nothing())
        .else_()
        .then(count_words(texts=cleaned))
    )


if __name__ == "__main__":
    summary = clean_corpus()
    print(f"{summary.n_words:,} words; the most frequent: {', '.join(summary.top)}")
