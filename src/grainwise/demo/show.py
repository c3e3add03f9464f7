"""Which stories there are, what they need, and how one is told from its input to its verdict."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Any

from grainwise.demo.stage import Line, Stage
from grainwise.demo.story import Times, split, timed, timed_in_parts, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from grainwise.demo.story import Story

_ARRAYS = {"numpy": "numpy", "sklearn": "scikit-learn"}

# Each story's module beside this file, and what it imports: module name -> the name that pip knows it by.
# The modules are imported only when they are told, so that `words` runs without any of these.
STORIES: dict[str, dict[str, str]] = {
    "words": {},
    "argument": _ARRAYS,
    "photo": {**_ARRAYS, "PIL": "pillow"},
    "forest": {**_ARRAYS, "PIL": "pillow"},
}


def is_installed(module: str) -> bool:
    """Tell whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def missing(names: Sequence[str], is_found: Callable[[str], bool] = is_installed) -> str | None:
    """Say which packages the stories need and do not find, and what to do; None when all are there.

    Args:
        names: The stories to tell.
        is_found: Tells whether a module is installed.
    """
    lacking = [name for name in names if not all(map(is_found, STORIES[name]))]
    if not lacking:
        return None
    needed = {module: package for name in lacking for module, package in STORIES[name].items()}
    packages = [package for module, package in needed.items() if not is_found(module)]
    told = [name for name in STORIES if all(map(is_found, STORIES[name]))]
    return (
        f"{_listed(lacking)} need{'s' if len(lacking) == 1 else ''} {_listed(packages)}, which "
        f"{'is' if len(packages) == 1 else 'are'} not installed here.\n"
        "Install what the demo needs:\n\n    pip install 'grainwise[demo]'\n\n"
        f"or see only what runs without: grainwise demo {' '.join('--story ' + name for name in told)}"
    )


def show(names: Sequence[str], is_quick: bool) -> bool:
    """Tell the stories one after another on standard output.

    Args:
        names: Which stories, in this order.
        is_quick: Whether to take the small inputs.

    Returns:
        Whether all results were equal in every story.
    """
    begin = time.perf_counter()
    stage = Stage(sys.stdout)
    stage.opening(
        "grainwise demo: the same job in plain Python, with multiprocessing.Pool and with grainwise",
        f"{_n_cpus()} CPUs, {platform.python_implementation()} {platform.python_version()}. One run of each; "
        "times include starting and ending processes." + (" Small inputs (--quick)." if is_quick else ""),
    )
    lines = []
    for number, name in enumerate(names, 1):
        story: Story[Any, Any] = importlib.import_module(f"grainwise.demo.{name}").STORY
        stage.heading(number, len(names), name, story.title)
        lines.append(_told(story, stage, is_quick))
    stage.closing(lines, time.perf_counter() - begin)
    return all(line.is_equal for line in lines)


def _told(story: Story[Any, Any], stage: Stage, is_quick: bool) -> Line:
    given = story.prepare(is_quick)
    stage.fact("input", story.describe(given))
    stage.code(story.code())

    stage.running("plain Python")
    by_plain, plain_s = timed(story.plain, given)
    stage.ran(plain_s, plain_s)
    stage.running("multiprocessing.Pool")
    by_pool, pool_s = timed(story.pool, given)
    stage.ran(pool_s, plain_s)
    stage.running("grainwise")
    by_grainwise, parts = timed_in_parts(story.naive, given)
    stage.ran(parts.total_s, plain_s, is_ours=True)

    is_equal = story.is_same(by_plain, by_pool) and story.is_same(by_plain, by_grainwise)
    stage.equality(is_equal)
    stage.fact("found", story.finding(by_grainwise))
    stage.fact("grainwise's time", split(parts))
    times = Times(plain_s, pool_s, parts)
    for number, sentence in enumerate(verdict(times, story.reasons)):
        stage.fact("" if number else "verdict", sentence)
    stage.fact("by itself, grainwise", story.by_itself)
    return Line(story.name, story.count_tasks(given), times, is_equal)


def _n_cpus() -> int:
    """Count the CPUs that this process may use, which a container can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listed(words: Sequence[str]) -> str:
    """Join words as prose does: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
