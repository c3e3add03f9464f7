"""Warnings of tasks arrive in the program's `warnings`; its filters decide."""

from __future__ import annotations

import pytest

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S

PRELUDE = """
import os, sys, time, warnings
import grainwise as ray

{before}
ray.init(num_cpus=2)

@ray.remote
def work(i=0):
    warnings.warn("low memory", {category})
    return i
"""
CALL = "\nassert ray.get([work.remote(i) for i in range(100)]) == list(range(100))\n"


def run(source: str, *, before: str = "", category: str = "UserWarning", flag: str = "") -> str:
    """Run a program; return its error output."""
    env = {"PYTHONWARNINGS": flag} if flag else {}
    result = run_script(PRELUDE.format(before=before, category=category) + source, timeout=LIMIT_S, env=env)
    assert_nothing_left(result.mark)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return result.stderr


def test_a_warning_is_shown_once_per_place_whichever_workers_ran_it() -> None:
    first, second = run(CALL).splitlines()
    assert first.endswith("program.py:10: UserWarning: low memory (in task work)")
    assert second == '  warnings.warn("low memory", UserWarning)'


@pytest.mark.parametrize(
    ("before", "category", "is_shown"),
    [
        ("warnings.simplefilter('ignore')", "UserWarning", False),
        ("warnings.filterwarnings('ignore', message='low')", "UserWarning", False),
        ("", "DeprecationWarning", True),  # in __main__
        ("warnings.filterwarnings('ignore', module='__main__')", "UserWarning", False),
        ("warnings.simplefilter('ignore', DeprecationWarning)", "DeprecationWarning", False),
        ("", "PendingDeprecationWarning", False),
        ("warnings.simplefilter('default')", "PendingDeprecationWarning", True),
    ],
)
def test_the_program_s_filters_decide(before: str, category: str, is_shown: bool) -> None:
    errors = run(CALL, before=before, category=category)
    assert errors.count(f"{category}: low memory") == is_shown
    assert bool(errors) == is_shown


def test_a_filter_that_is_set_between_two_tasks() -> None:
    errors = run(
        """
warnings.simplefilter("ignore")
ray.get(work.remote())
ray.shutdown()
warnings.simplefilter("default")
ray.get(work.remote())
"""
    )
    assert errors.count("low memory") == 2  # the text and the line


def test_error_on_the_command_line_raises_in_the_task() -> None:
    errors = run(
        """
try:
    ray.get(work.remote())
except UserWarning as error:
    assert "low memory" in str(error)
else:
    raise AssertionError
""",
        flag="error::UserWarning",
    )
    assert errors == ""


def test_error_by_a_filter_of_the_program_shows_the_warning() -> None:
    """It can't be raised where nobody could catch it; what comes after it arrives all the same."""
    errors = run(
        CALL + "ray.get(ray.remote(lambda: print('later', file=sys.stderr)).remote())\n",
        before="warnings.simplefilter('error')",
    )
    assert "UserWarning: low memory" in errors
    assert "later" in errors
    assert "Traceback" not in errors


def test_captured_by_logging() -> None:
    errors = run(
        CALL,
        before="import logging\n"
        "logging.basicConfig(format='%(name)s|%(levelname)s|%(message)s')\n"
        "logging.captureWarnings(True)",
    )
    assert errors.startswith("py.warnings|WARNING|")
    assert errors.count("UserWarning: low memory") == 1


def test_a_function_of_the_program_s_that_shows_warnings() -> None:
    errors = run(
        CALL,
        before="def show(message, category, filename, lineno, file=None, line=None):\n"
        "    print(message.task_name, category.__name__, lineno, message.worker_pid > 0, file=sys.stderr)\n"
        "warnings.showwarning = show",
    )
    assert errors == "work UserWarning 12 True\n"


def test_classes_of_the_program_and_of_workers_alone() -> None:
    errors = run(
        """
class Own(UserWarning):
    pass

class Odd(UserWarning):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

with open("extra.py", "w") as file:
    file.write("class Rare(RuntimeWarning): pass")
sys.path.insert(0, os.getcwd())

@ray.remote
def warn():
    sys.path.insert(0, os.getcwd())
    import extra
    warnings.warn("one", Own)
    warnings.warn(Odd("two", "three"))
    warnings.warn("four", extra.Rare)

ray.get(warn.remote())
"""
    )
    shown = [line.partition(": ")[2] for line in errors.splitlines() if "(in task warn)" in line]
    assert shown == [
        "Own: one (in task warn)",
        "UserWarning: Odd: two and three (in task warn)",
        "RuntimeWarning: Rare: four (in task warn)",
    ]


def test_a_task_that_catches_its_warnings() -> None:
    errors = run(
        """
@ray.remote
def catch():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("kept")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn("ignored")
    return [str(each.message) for each in caught]

assert ray.get(catch.remote()) == ["kept"]
"""
    )
    assert errors == ""


def test_without_tags_the_text_is_as_it_was() -> None:
    errors = run(CALL, before="os.environ['GRAINWISE_TAG_OUTPUT'] = '0'")
    assert errors.splitlines()[0].endswith(": UserWarning: low memory")
