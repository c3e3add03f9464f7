"""`report` and `timeline` on real programs.

The numbers agree with the work, each finding can be provoked, and a good program hears nothing.

Work here is a loop over the clock, so that a task lasts as long as it says on any machine. Tasks that sleep
do so because waiting is what they stand for.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise import config
from grainwise.engine import current
from grainwise.watch import events

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S


@pytest.fixture(autouse=True)
def num_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(config, "available_cpus", lambda: 2)
    ray.init(num_cpus=2)
    yield 2
    ray.shutdown()


@ray.remote
def work(duration_s: float) -> float:
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        pass
    return duration_s


def _kinds() -> list[str]:
    return [finding.kind for finding in ray.report().findings]


# --- numbers ------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_work() -> None:
    assert ray.get([work.remote(0.002) for _ in range(100)], timeout=LIMIT_S) == [0.002] * 100
    told = ray.report()
    assert told.num_tasks == 100
    assert 2 <= told.num_batches <= 100
    assert told.tasks_per_batch == pytest.approx(100 / told.num_batches)
    assert told.run_s >= 100 * 0.002
    assert told.active_s >= 100 * 0.002 / 2
    assert told.active_s <= told.session_s
    assert told.utilization == pytest.approx(told.run_s / (2 * told.active_s))
    assert 0 <= told.overhead_share < 1
    assert told.occupied_s >= told.run_s
    assert told.wait_s > 0
    assert (told.num_retries, told.num_crashes, told.num_failed, told.spilled_bytes) == (0, 0, 0, 0)
    [function] = told.functions
    assert (function.name, function.num_tasks, function.num_batches) == ("work", 100, told.num_batches)
    assert str(told).startswith(f"grainwise: 100 tasks ran in {told.num_batches} batch")
    assert "100 tasks ran" in told._repr_html_()


def test_a_good_program_hears_nothing() -> None:
    ray.get([work.remote(0.002) for _ in range(200)], timeout=LIMIT_S)
    assert _kinds() == []


def test_the_record_stays_after_the_end_and_is_new_with_the_next_session() -> None:
    ray.get([work.remote(0.0) for _ in range(10)], timeout=LIMIT_S)
    ray.shutdown()
    assert ray.report().num_tasks == 10
    assert ray.report().session_s == ray.report().session_s, "it has ended"
    assert any(event["name"] == "work" for event in ray.timeline() or ())
    ray.init(num_cpus=2)
    assert ray.report().num_tasks == 0
    ray.get(work.remote(0.0), timeout=LIMIT_S)
    assert ray.report().num_tasks == 1


def test_large_arguments_and_results_that_are_not_copied() -> None:
    import numpy as np

    @ray.remote
    def first(array: Any) -> float:
        return float(array[0])

    @ray.remote
    def same(array: Any) -> Any:
        return array + 1

    array = np.zeros(250_000)
    ray.get([first.remote(array) for _ in range(5)], timeout=LIMIT_S)
    told = ray.report()
    assert told.deduplicated_bytes == 4 * array.nbytes
    assert told.shared_bytes >= 5 * array.nbytes
    assert ray.get(same.remote(array), timeout=LIMIT_S)[0] == 1
    again = ray.report()
    assert again.shared_bytes >= told.shared_bytes + 2 * array.nbytes
    assert again.saved_bytes == again.deduplicated_bytes + again.shared_bytes
    assert "not copied" in str(again)


def test_children_that_the_driver_never_heard_of_are_counted() -> None:
    @ray.remote
    def leaf(x: int) -> int:
        return x

    @ray.remote
    def parent(n: int) -> int:
        return sum(ray.get([leaf.remote(i) for i in range(n)]))

    assert ray.get([parent.remote(50) for _ in range(4)], timeout=LIMIT_S) == [1225] * 4
    told = ray.report()
    assert told.num_tasks == 4 * 51
    by_name = {log.name.rsplit(".", 1)[-1]: log.num_tasks for log in told.functions}
    assert by_name["parent"] == 4
    assert by_name.get("leaf", 0) + told.num_in_place == 200


def test_a_death_a_retry_and_a_failure(tmp_path: Path) -> None:
    @ray.remote
    def die_once(mark: Path) -> str:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    @ray.remote
    def fail() -> None:
        raise ValueError("no")

    assert ray.get(die_once.remote(tmp_path / "mark"), timeout=LIMIT_S) == "alive"
    with pytest.raises(ValueError, match="no"):
        ray.get(fail.remote(), timeout=LIMIT_S)
    told = ray.report()
    assert (told.num_crashes, told.num_retries, told.num_failed) == (1, 1, 1)
    assert "1 retry, 1 crash of workers, 1 failed" in str(told)
    assert [event["ph"] for event in ray.timeline() or () if event["name"] == "worker died"] == ["i"]


def test_the_items_of_a_map_are_tasks() -> None:
    def double(x: int) -> int:
        return 2 * x

    assert sum(ray.map(double, range(50_000))) == 50_000 * 49_999
    told = ray.report()
    assert told.num_tasks == 50_000
    assert [(log.num_tasks, log.is_mapped) for log in told.functions] == [(50_000, True)]
    assert "tiny" not in _kinds(), "there is no better way to submit them"
    with pytest.raises(ZeroDivisionError):
        list(ray.map(lambda x: 1 // x, [1, 0, 2]))
    assert ray.report().num_failed == 1


def test_nothing_is_under_way_when_all_is_over(tmp_path: Path) -> None:
    @ray.remote
    def outer() -> float:
        return sum(ray.get([work.remote(0.002) for _ in range(4)]))

    @ray.remote
    def die_once(mark: Path) -> None:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    refs = [work.remote(0.01) for _ in range(20)] + [outer.remote() for _ in range(4)]
    refs += [die_once.remote(tmp_path / str(i)) for i in range(2)]
    for ref in refs[5:15]:
        ray.cancel(ref)
    ray.wait(refs, num_returns=len(refs), timeout=LIMIT_S)
    for _ in ray.map(lambda x: x, range(1000)):
        break
    engine: Any = current.current()
    while not engine.is_idle():
        ray.get(work.remote(0.0), timeout=LIMIT_S)
    record = events.last()
    assert record is not None
    assert (record.num_out, record.active_until(1.0), record.num_crashes) == (0, record.active_s, 2)


def test_inside_a_task_there_is_no_report() -> None:
    @ray.remote
    def ask() -> Any:
        return ray.report()

    with pytest.raises(RuntimeError, match="expected one that runs or has ended"):
        ray.get(ask.remote(), timeout=LIMIT_S)


# --- findings -----------------------------------------------------------------------------------------------


def test_get_in_the_submission_loop() -> None:
    for _ in range(20):
        ray.get(work.remote(0.003), timeout=LIMIT_S)
    assert _kinds() == ["get_in_loop"]
    assert "20 times" in ray.report().findings[0].text


def test_get_one_by_one_after_submitting_all_is_fine() -> None:
    refs = [work.remote(0.003) for _ in range(60)]
    for ref in refs:
        ray.get(ref, timeout=LIMIT_S)
    assert _kinds() == []


def test_a_closure_that_captures_large_data() -> None:
    table = bytes(60_000_000)

    @ray.remote
    def count(byte: int) -> int:
        return table[byte]

    assert ray.get([count.remote(i) for i in range(10)], timeout=LIMIT_S) == [0] * 10
    [finding] = [each for each in ray.report().findings if each.kind == "captures"]
    assert "`table` (bytes), 60 MB along" in finding.text
    assert "test_report.py:" in finding.text


def test_large_data_as_an_argument_is_fine() -> None:
    table = bytes(60_000_000)

    @ray.remote
    def count(table: bytes, byte: int) -> int:
        return table[byte]

    assert ray.get([count.remote(table, i) for i in range(3)], timeout=LIMIT_S) == [0] * 3
    assert "captures" not in _kinds()


def test_a_function_defined_in_the_loop() -> None:
    def make(x: int) -> Any:
        @ray.remote
        def f() -> int:
            return x

        return f

    functions = [make(i) for i in range(60)]
    assert ray.get([f.remote() for f in functions], timeout=LIMIT_S) == list(range(60))
    [finding] = [each for each in ray.report().findings if each.kind == "redefined"]
    assert "60 times" in finding.text


def test_tasks_that_wait() -> None:
    @ray.remote
    def fetch() -> None:
        time.sleep(0.2)

    ray.get([fetch.remote() for _ in range(6)], timeout=LIMIT_S)
    [finding] = ray.report().findings
    assert finding.kind == "waits"
    assert "fetch" in finding.text


def test_tasks_that_compute_in_child_processes_do_not_wait() -> None:
    program = "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass"

    @ray.remote
    def convert() -> None:
        import subprocess
        import sys

        subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)

    ray.get([convert.remote() for _ in range(4)], timeout=LIMIT_S)
    assert "waits" not in _kinds()


def test_tasks_that_wait_for_other_tasks_are_fine() -> None:
    @ray.remote
    def outer() -> float:
        return sum(ray.get([work.remote(0.01) for _ in range(4)]))

    ray.get([outer.remote() for _ in range(6)], timeout=LIMIT_S)
    assert "waits" not in _kinds()


def test_tasks_that_return_more_than_they_compute() -> None:
    @ray.remote
    def load(i: int) -> bytes:
        return bytes(20_000_000)

    assert sum(map(len, ray.get([load.remote(i) for i in range(4)], timeout=LIMIT_S))) == 80_000_000
    [finding] = [each for each in ray.report().findings if each.kind == "returns_much"]
    assert "20 MB a task" in finding.text


def test_a_straggler() -> None:
    refs = [work.remote(0.0005) for _ in range(20)]
    refs.append(work.remote(0.8))
    ray.get(refs, timeout=LIMIT_S)
    assert _kinds() == ["straggler"]


def test_fewer_tasks_than_cpus() -> None:
    ray.get(work.remote(0.3), timeout=LIMIT_S)
    assert _kinds() == ["too_few"]


def test_tasks_too_tiny_for_any_engine() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    assert sum(ray.get([double.remote(i) for i in range(30_000)], timeout=LIMIT_S)) == 30_000 * 29_999
    assert _kinds() == ["tiny"]


def test_more_cpus_asked_for_than_used() -> None:
    ray.get([work.options(num_cpus=2).remote(0.15) for _ in range(4)], timeout=LIMIT_S)
    assert _kinds() == ["asks_too_much"]


def test_a_session_on_one_of_two_cpus() -> None:
    ray.shutdown()
    ray.init(num_cpus=1)
    ray.get([work.remote(0.05) for _ in range(6)], timeout=LIMIT_S)
    assert _kinds() == ["one_cpu"]


def test_objects_that_spill(tmp_path: Path) -> None:
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=32 << 20, spill_dir=str(tmp_path))
    refs = [ray.put(bytes([i]) * 20_000_000) for i in range(3)]
    told = ray.report()
    assert told.spilled_bytes >= 40_000_000
    assert [finding.kind for finding in told.findings] == ["spills"]
    assert [ray.get(ref)[0] for ref in refs] == [0, 1, 2]


def test_tasks_that_are_tried_again(tmp_path: Path) -> None:
    @ray.remote(retry_exceptions=True)
    def unsteady(mark: Path) -> None:
        if not mark.exists():
            mark.touch()
            raise OSError("try again")

    ray.get([unsteady.remote(tmp_path / str(i)) for i in range(10)], timeout=LIMIT_S)
    told = ray.report()
    assert told.num_retries == 10
    assert "retries" in _kinds()


# --- the timeline -------------------------------------------------------------------------------------------


def test_the_timeline_of_nested_tasks() -> None:
    @ray.remote
    def outer() -> float:
        return sum(ray.get([work.remote(0.005) for _ in range(4)]))

    ray.get([outer.remote() for _ in range(4)], timeout=LIMIT_S)
    traced = ray.timeline()
    assert traced is not None
    slices = [event for event in traced if event["ph"] == "X"]
    assert (
        sum(e["args"]["tasks"] for e in slices if e["cat"] == "batch") == 4 + 16 - ray.report().num_in_place
    )
    assert any(event["cat"] == "blocked" for event in slices)
    assert any(event["name"] == "wait" and event["cat"] == "program" for event in slices)
    ends: dict[tuple[int, int], list[float]] = {}
    for event in slices:
        stack = ends.setdefault((event["pid"], event["tid"]), [])
        end = event["ts"] + event["dur"]
        while stack and stack[-1] <= event["ts"] + 0.002:
            stack.pop()
        assert not stack or end <= stack[-1] + 0.002, f"{event} sticks out of what it began in"
        stack.append(end)


def test_the_timeline_as_a_file(tmp_path: Path) -> None:
    ray.get([work.remote(0.0) for _ in range(10)], timeout=LIMIT_S)
    assert ray.timeline(tmp_path / "trace.json") is None
    assert json.loads((tmp_path / "trace.json").read_text()) == json.loads(json.dumps(ray.timeline()))


# --- at the end of a program --------------------------------------------------------------------------------

PROGRAM = """
import os, sys
import grainwise as ray

@ray.remote
def double(x):
    return 2 * x

assert ray.get([double.remote(i) for i in range(10)]) == list(range(0, 20, 2))
"""


def _run(end: str, report: str | None = "1") -> tuple[int, str, str]:
    env = {} if report is None else {"GRAINWISE_REPORT": report}
    result = run_script(PROGRAM + end, timeout=60, env=env)
    assert_nothing_left(result.mark)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def no_session(num_cpus: int) -> None:
    ray.shutdown()


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize(
    ("end", "status", "count"),
    [
        ("", 0, 1),
        ("ray.shutdown()", 0, 1),
        ("ray.shutdown()\nray.get(double.remote(1))", 0, 2),
        ("ray.shutdown()\nray.init()", 0, 1),
        ("raise ValueError('mine')", 1, 1),
        ("sys.exit(3)", 3, 1),
        ("if not os.fork(): sys.exit()\nos.wait()", 0, 1),
        ("os.environ['GRAINWISE_REPORT'] = '0'", 0, 1),
    ],
)
def test_the_report_at_the_end(end: str, status: int, count: int) -> None:
    returncode, stdout, stderr = _run(end)
    assert (returncode, stdout) == (status, "")
    assert stderr.count("grainwise: 10 tasks ran in ") == 1
    assert stderr.count("grainwise: ") == count
    if status == 1:
        assert stderr.index("ValueError: mine") < stderr.index("grainwise: 10 tasks")


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("report", [None, "0"])
def test_no_report_that_nobody_asked_for(report: str | None) -> None:
    assert _run("", report) == (0, "", "")


@pytest.mark.usefixtures("no_session")
def test_the_argument_goes_before_the_variable() -> None:
    call: Callable[[str], tuple[int, str, str]] = lambda value: _run(  # noqa: E731
        f"ray.shutdown()\nray.init(report={value})\nray.get(double.remote(1))", "0"
    )
    assert call("True")[2].count("grainwise: 1 task ran") == 1
    assert call("False") == (0, "", "")


@pytest.mark.usefixtures("no_session")
def test_before_any_session() -> None:
    program = (
        "import grainwise\ntry:\n    grainwise.report()\nexcept RuntimeError as error:\n    print(error)"
    )
    result = run_script(program, timeout=60)
    assert "before any session" in result.stdout
