"""Each finding on events that provoke it, and none on events that nearly do."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from grainwise.watch import captures
from grainwise.watch.augmented import augmented
from grainwise.watch.events import LARGE_BYTES
from grainwise.watch.findings import MAX_FINDINGS, REDEFINED

from .recorded import Session


def _kinds(session: Session, available_cpus: int = 2) -> list[str]:
    return [finding.kind for finding in session.told(available_cpus).findings]


def _even(session: Session, name: str = "f", tasks: int = 100, cpu_share: float = 1.0) -> None:
    """Two workers with equal work: a run that leaves nothing to be wished for."""
    for begin_s in range(10):
        logs = [session.send(worker, name, tasks, begin_s) for worker in (1, 2)]
        for log in logs:
            session.report(log, tasks, begin_s, begin_s + 0.99, 0.98, cpu_s=0.98 * cpu_share)


def test_nothing_is_found_in_a_good_run() -> None:
    session = Session()
    _even(session)
    session.record.exported("f", test_nothing_is_found_in_a_good_run, 1000, 0.001)
    session.record.waited(session.start_s, False)
    assert _kinds(session) == []


# --- submission ---------------------------------------------------------------------------------------------


def _get_one_by_one(session: Session, times: int, *, is_lone: bool = True) -> None:
    for number in range(times):
        session.batch("f", 1, float(number), number + 0.9, cpu_s=0.9)
        session.record.waited(session.start_s + number, is_lone)


def test_get_in_the_loop() -> None:
    session = Session()
    _get_one_by_one(session, 20)
    [finding] = session.told().findings
    assert finding.kind == "get_in_loop"
    assert "20 times" in finding.text
    assert finding.lost_s == pytest.approx(20 * 0.9 / 2)


@pytest.mark.parametrize(("cpus", "times", "is_lone"), [(1.0, 20, True), (2.0, 9, True), (2.0, 20, False)])
def test_no_get_in_the_loop(cpus: float, times: int, is_lone: bool) -> None:
    session = Session(num_cpus=cpus)
    _get_one_by_one(session, times, is_lone=is_lone)
    assert "get_in_loop" not in _kinds(session, available_cpus=1)


def test_a_few_lone_gets_in_a_long_run_are_fine() -> None:
    session = Session()
    _get_one_by_one(session, 10)
    session.batch("f", 1000, 20.0, 60.0)
    assert "get_in_loop" not in _kinds(session)


def _one() -> int:
    return 1


@pytest.mark.parametrize(("times", "found"), [(REDEFINED - 1, []), (REDEFINED, ["redefined"])])
def test_a_function_redefined_in_a_loop(times: int, found: list[str]) -> None:
    session = Session()
    _even(session)
    for _ in range(times):
        session.record.exported("f", _one, 1000, 0.003)
    assert _kinds(session) == found


def test_many_different_functions_are_fine() -> None:
    session = Session()
    _even(session)
    for number in range(REDEFINED * 2):
        session.record.exported(f"f{number}", _one, 1000, 0.001)
    assert _kinds(session) == []


total: Any = 0
seen: list[int] = []


def _adds(number: int) -> None:
    global total, seen
    total = total * 1
    total -= number
    seen += [number]


def _adds_inside(number: int) -> Any:
    def inner() -> None:
        global total
        total |= number

    return inner


def _adds_elsewhere(number: int) -> int:
    """Set one, read others, add to what is its own."""
    global total
    here = number
    here += total
    seen[0] += here
    total = seen[0] + here
    total = [here]
    return here


@pytest.mark.parametrize(
    ("function", "names"), [(_adds, ["total", "seen"]), (_adds_inside, ["total"]), (_adds_elsewhere, [])]
)
def test_global_variables_that_a_function_adds_to(function: Any, names: list[str]) -> None:
    assert augmented(function.__code__) == names


def test_a_global_variable_that_is_far_down_the_list_of_names() -> None:
    lines = "\n    ".join(f"a{number}.b" for number in range(300))
    places: dict[str, Any] = {}
    exec(f"def f():\n    global far\n    {lines}\n    far += 1", places)
    assert augmented(places["f"].__code__) == ["far"]


def test_adding_to_a_global_variable_comes_first() -> None:
    session = Session()
    _get_one_by_one(session, 20)
    session.record.exported("add", _adds, 1000, 0.001)
    found = session.told().findings
    assert [finding.kind for finding in found] == ["globals", "globals", "get_in_loop"]
    assert "`add` (test_findings.py:" in found[0].text
    assert "`total`" in found[0].text


def test_tasks_too_tiny_for_any_engine() -> None:
    session = Session()
    session.batch("double", 100_000, 0.0, 0.1, run_s=0.01, cpu_s=0.01)
    [finding] = session.told().findings
    assert finding.kind == "tiny"
    assert "100 ns a task" in finding.text
    assert "grainwise.map(double, items)" in finding.fix


def test_tiny_items_of_a_map_are_fine() -> None:
    session = Session()
    session.batch("double", 100_000, 0.0, 0.1, run_s=0.01)
    session.record.functions["double"].is_mapped = True
    assert _kinds(session) == []


def test_too_few_tasks() -> None:
    session = Session(num_cpus=4)
    session.batch("f", 1, 0.0, 2.0, cpu_s=2.0)
    [finding] = session.told(4).findings
    assert finding.kind == "too_few"
    assert finding.lost_s == pytest.approx(1.5)


def test_one_quick_task_is_fine() -> None:
    session = Session(num_cpus=4)
    session.batch("f", 1, 0.0, 0.01, cpu_s=0.01)
    assert _kinds(session, 4) == []


# --- tasks --------------------------------------------------------------------------------------------------


def test_a_function_that_waits() -> None:
    session = Session()
    _even(session, "fetch", 10, cpu_share=0.02)
    [finding] = session.told().findings
    assert finding.kind == "waits"
    assert "waits 98 % of its time and holds a CPU" in finding.text
    assert "num_cpus=0.1" in finding.fix


@pytest.mark.parametrize(("num_calls", "found"), [(30, ["actor_waits"]), (1, [])])
def test_a_method_that_waits_while_other_calls_wait_for_it(num_calls: int, found: list[str]) -> None:
    session = Session()
    for number in range(15):
        log = session.send(1, "Site.fetch", num_calls, float(number))
        log.spec.actor = object()
        session.report(log, num_calls, number, number + 0.9, 0.9, cpu_s=0.01)
    assert _kinds(session) == found
    if found:
        assert "an actor runs one at a time" in session.told().findings[0].text


def test_a_function_that_computes_half_of_the_time_may_share_its_cpu_with_other_programs() -> None:
    session = Session()
    _even(session, "f", 10, cpu_share=0.5)
    assert _kinds(session) == []


def test_a_function_that_waits_without_holding_a_cpu_is_fine() -> None:
    session = Session()
    session.record.function("fetch").num_cpus = 0.1
    _even(session, "fetch", 10, cpu_share=0.02)
    assert _kinds(session) == []


def test_a_task_that_waits_for_other_tasks_is_fine() -> None:
    session = Session()
    for number in range(10):
        log = session.send(1, "outer", 1, float(number))
        session.report(log, 1, number, number + 0.9, 0.1, waited_s=0.8, cpu_s=0.0)
    assert _kinds(session) == []


def test_processor_time_that_was_not_measured_says_nothing() -> None:
    session = Session()
    session.batch("f", 100, 0.0, 1.0, worker=1, cpu_s=-1.0)
    session.batch("f", 100, 0.0, 1.0, worker=2, cpu_s=-1.0)
    assert _kinds(session) == []


def test_a_task_that_returns_more_than_it_computes() -> None:
    session = Session()
    session.batch("load", 10, 0.0, 1.0, run_s=0.95, pack_s=0.9, cpu_s=0.95, result_bytes=400_000_000)
    [finding] = session.told().findings
    assert finding.kind == "returns_much"
    assert "40 MB a task take 90 ms to hand over, 5 ms to compute" in finding.text


def test_a_large_result_that_took_long_to_compute_is_fine() -> None:
    session = Session()
    session.batch("load", 10, 0.0, 1.0, run_s=0.95, pack_s=0.3, cpu_s=0.95, result_bytes=400_000_000)
    assert _kinds(session) == []


def test_a_straggler() -> None:
    session = Session()
    many, one = session.send(1, "f", 50, 0.0), session.send(2, "f", 1, 0.0)
    session.report(many, 50, 0.0, 0.5, 0.5, worst_s=0.02, cpu_s=0.5)
    session.report(one, 1, 0.0, 5.0, 5.0, worst_s=5.0, cpu_s=5.0)
    [finding] = session.told().findings
    assert finding.kind == "straggler"
    assert "took 5 s of the 5 s" in finding.text
    assert "the 50 others 10 ms on average" in finding.text


def test_a_long_task_beside_which_others_had_work_is_fine() -> None:
    session = Session()
    many, one = session.send(1, "f", 50, 0.0), session.send(2, "f", 1, 0.0)
    session.report(one, 1, 0.0, 5.0, 5.0, worst_s=5.0, cpu_s=5.0)
    session.report(many, 50, 0.0, 5.0, 5.0, worst_s=0.12, cpu_s=5.0)
    assert _kinds(session) == []


def test_threads_that_get_in_each_others_way() -> None:
    session = Session(num_cpus=4)
    for worker in range(4):
        session.batch("fit", 10, 0.0, 2.0, worker=worker, cpu_s=6.0)
    [finding] = session.told(4).findings
    assert finding.kind == "crowded"
    assert "uses 3.0 CPUs and asks for 1" in finding.text
    assert "num_cpus=3" in finding.fix


def test_threads_that_were_asked_for_are_fine() -> None:
    session = Session(num_cpus=4)
    session.record.function("fit").num_cpus = 4.0
    session.batch("fit", 10, 0.0, 2.0, cpu_s=7.5)
    assert _kinds(session, 4) == []


# --- what was asked for -------------------------------------------------------------------------------------


def test_a_function_that_asks_for_more_cpus_than_it_uses() -> None:
    session = Session(num_cpus=4)
    session.record.function("f").num_cpus = 4.0
    session.batch("f", 10, 0.0, 4.0, cpu_s=4.0)
    [finding] = session.told(4).findings
    assert finding.kind == "asks_too_much"
    assert finding.fix == "@remote(num_cpus=1)"
    assert finding.lost_s == pytest.approx(3.0)


def test_a_session_on_one_cpu() -> None:
    session = Session(num_cpus=1)
    session.batch("f", 10, 0.0, 4.0, cpu_s=4.0)
    [finding] = session.told(available_cpus=8).findings
    assert finding.kind == "one_cpu"
    assert finding.lost_s == pytest.approx(3.5)
    assert _kinds(session, available_cpus=1) == []


def test_spilling() -> None:
    session = Session()
    _even(session)
    session.record.look = lambda: {"spilled_bytes": 2_000_000_000, "capacity_bytes": 500_000_000}
    [finding] = session.told().findings
    assert finding.kind == "spills"
    assert "2 GB went to disk: the store holds 500 MB" in finding.text
    assert "object_store_memory=2.5e+09" in finding.fix


@pytest.mark.parametrize(("times", "found"), [(100, ["retries"]), (99, [])])
def test_retries(times: int, found: list[str]) -> None:
    session = Session()
    _even(session)  # 2,000 tasks
    for _ in range(times):
        session.record.retried("f")
    assert _kinds(session) == found


def test_retries_after_crashes() -> None:
    session = Session()
    _even(session, tasks=1)
    for _ in range(10):
        session.record.retried("f")
        session.record.crashed(1)
    [finding] = session.told().findings
    assert "10 workers died" in finding.text
    assert "max_retries=0" in finding.fix


# --- which ones ---------------------------------------------------------------------------------------------


def test_the_most_costly_come_first_and_no_more_than_three() -> None:
    session = Session()
    _get_one_by_one(session, 20)
    for number in range(REDEFINED * 8):
        session.record.exported("f" if number % 2 else "g", _one, 1000, 0.001 if number % 2 else 0.0001)
    session.record.exported("h", _one, LARGE_BYTES, 0.05)
    session.record.look = lambda: {"spilled_bytes": 1_000_000_000, "capacity_bytes": 500_000_000}
    found = session.told().findings
    assert [finding.kind for finding in found] == ["get_in_loop", "spills", "redefined"]
    assert len(found) == MAX_FINDINGS
    assert "`f`" in found[2].text


def test_what_costs_next_to_nothing_is_not_worth_a_line() -> None:
    session = Session()
    session.batch("f", 30_000, 0.0, 60.0, run_s=0.03)
    assert _kinds(session) == []


# --- what a function takes along ----------------------------------------------------------------------------

TABLE = [0.5] * 50_000
"""A global of this module, which a function of it would not take along: workers import it."""


def _reads_table() -> int:
    return len(TABLE)


def test_captures_are_named_with_their_place() -> None:
    table = bytes(1000)

    def load() -> int:
        return len(table)

    session = Session()
    _even(session)
    session.record.exported("load", load, 300_000_000, 0.3)
    [finding] = session.told().findings
    assert finding.kind == "captures"
    line = load.__code__.co_firstlineno
    assert (
        finding.text == f"`load` (test_findings.py:{line}) takes `table` (bytes), 300 MB along with its code."
    )


def _closure() -> tuple[Any, str, str]:
    small, large = [1, 2, 3], {"a": ["x" * 1000] * 1000}

    def f() -> int:
        return len(small) + len(large)

    return f, "large", "dict"


def _default() -> tuple[Any, str, str]:
    def f(x: int, words: list[str] = ["word"] * 1000, *, few: tuple[int, ...] = (1,)) -> int:
        return len(words) + len(few)

    return f, "words", "list"


def _partial() -> tuple[Any, str, str]:
    return functools.partial(print, bytes(10), sep="," * 500), "sep", "str"


def _method() -> tuple[Any, str, str]:
    class Model:
        def __init__(self) -> None:
            self.weights = bytes(10_000)
            self.name = "model"

        def predict(self) -> int:
            return len(self.weights)

    return Model().predict, "self.weights", "bytes"


def _through_another_function() -> tuple[Any, str, str]:
    table = bytes(10_000)

    def inner() -> int:
        return len(table)

    def f() -> int:
        return inner()

    return f, "table (through inner)", "bytes"


def _global_of_the_program() -> tuple[Any, str, str]:
    namespace: dict[str, Any] = {"__name__": "__main__", "table": bytes(10_000)}
    exec("def f():\n    return [len(table) for _ in range(3)]", namespace)
    return namespace["f"], "table", "bytes"


def _array() -> tuple[Any, str, str]:
    import numpy as np

    image, words = np.zeros((100, 100)), "w" * 70_000

    def f() -> int:
        return len(image) + len(words)

    return f, "image", "ndarray"


def _frame() -> tuple[Any, str, str]:
    import pandas as pd

    frame, words = pd.DataFrame({"a": range(10_000)}), "w" * 70_000

    def f() -> int:
        return len(frame) + len(words)

    return f, "frame", "DataFrame"


def _nothing() -> tuple[Any, str, str]:
    return _one, "", ""


@pytest.mark.parametrize(
    "make",
    [
        _closure, _default, _partial, _method, _through_another_function, _global_of_the_program, _array,
        _frame, _nothing,
    ],
    ids=lambda make: make.__name__.strip("_"),
)  # fmt: skip
def test_the_heaviest_capture_is_named(make: Any) -> None:
    function, name, kind = make()
    assert captures.largest(function) == (name, kind)


def test_globals_of_an_importable_function_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = type(sys)("importable")
    module.f = _reads_table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "importable", module)
    monkeypatch.setattr(_reads_table, "__module__", "importable")
    monkeypatch.setattr(_reads_table, "__qualname__", "f")
    assert captures.largest(_reads_table) == ("", "")


class Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_hostile_objects_do_no_harm() -> None:
    hostile, table = Hostile(), bytes(1000)

    def f() -> Any:
        return hostile, table

    name, _ = captures.largest(f)
    assert name in ("table", "")
    assert captures.weigh([hostile]) == 0
