"""What is noted, the numbers made of it, and how they are told; events come from the test."""

from __future__ import annotations

import pytest

from grainwise.watch import events, show
from grainwise.watch.events import BATCH, MAX_NAMES, MAX_PAGES, OTHERS, PAGE_ROWS, ROW, Ring

from .recorded import SentByHand, Session

# --- numbers ------------------------------------------------------------------------------------------------


def test_two_batches_on_two_workers() -> None:
    session = Session(num_cpus=2)
    first = session.send(1, "f", 10, 1.0)
    second = session.send(2, "f", 30, 1.0)
    session.report(first, 10, 1.5, 2.5, 0.8)
    session.report(second, 30, 1.5, 3.0, 1.2)
    session.at(9.0)
    told = session.told()
    assert (told.num_tasks, told.num_batches, told.num_workers) == (40, 2, 2)
    assert told.session_s == pytest.approx(9.0)
    assert told.active_s == pytest.approx(2.0)
    assert told.run_s == pytest.approx(2.0)
    assert told.utilization == pytest.approx(2.0 / (2 * 2.0))
    assert told.occupied_s == pytest.approx(1.0 + 1.5), "the start of a worker is not its batch's time"
    assert told.overhead_share == pytest.approx(1 - 2.0 / 2.5)
    assert told.tasks_per_batch == pytest.approx(20)
    assert told.grain_s == pytest.approx(1.0)
    [function] = told.functions
    assert (function.name, function.num_tasks, function.num_batches) == ("f", 40, 2)


def test_time_in_which_nothing_was_under_way_does_not_count() -> None:
    session = Session(num_cpus=1)
    session.batch("f", 1, 0.0, 1.0)
    session.batch("f", 1, 5.0, 6.0)
    told = session.told()
    assert told.active_s == pytest.approx(2.0)
    assert told.utilization == pytest.approx(1.0)


def test_a_worker_that_was_free_is_occupied_from_the_sending_on() -> None:
    session = Session()
    session.batch("f", 1, 0.0, 1.0)
    log = session.send(1, "f", 1, 4.0)
    session.report(log, 1, 4.5, 5.0, 0.5)
    assert session.told().occupied_s == pytest.approx(1.0 + 1.0), "waking up counts"


def test_a_batch_that_lay_ready_occupies_its_worker_from_the_end_of_the_one_before() -> None:
    session = Session()
    first = session.send(1, "f", 1, 0.0)
    second = session.send(1, "f", 1, 0.0)
    session.report(first, 1, 0.0, 2.0, 2.0)
    session.report(second, 1, 2.25, 3.0, 0.75)
    assert session.told().occupied_s == pytest.approx(3.0)


def test_results_that_stream_back_are_counted_once() -> None:
    session = Session()
    log = session.send(1, "f", 10, 0.0)
    session.report(log, 4, 0.0, 1.0, 0.9, is_end=False)
    assert session.record.num_out == 6
    session.report(log, 6, 0.0, 2.0, 1.0)
    told = session.told()
    assert (told.num_tasks, told.num_batches, session.record.num_out) == (10, 1, 0)
    assert told.occupied_s == pytest.approx(2.0)
    assert told.run_s == pytest.approx(1.9)


def test_waiting_for_other_tasks_is_not_overhead() -> None:
    session = Session()
    log = session.send(1, "outer", 1, 0.0)
    inner = session.send(1, "inner", 1, 1.0)
    session.report(inner, 1, 1.0, 4.0, 3.0)
    session.report(log, 1, 0.0, 5.0, 2.0, waited_s=3.0)
    told = session.told()
    assert told.occupied_s == pytest.approx(5.0)
    assert told.overhead_share == pytest.approx(0.0)


def test_writing_results_is_overhead() -> None:
    session = Session()
    session.batch("f", 1, 0.0, 2.0, pack_s=0.5)
    assert session.told().overhead_share == pytest.approx(0.25)


def test_children_in_place_are_tasks_and_work() -> None:
    session = Session()
    log = session.send(1, "outer", 1, 0.0)
    session.report(log, 1, 0.0, 2.0, 0.5, waited_s=1.5, num_own=20, own_s=1.5)
    told = session.told()
    assert (told.num_tasks, told.num_in_place) == (21, 20)
    assert told.run_s == pytest.approx(2.0)
    assert told.overhead_share == pytest.approx(0.0)


def test_a_batch_of_several_functions_is_shared_out() -> None:
    session = Session()
    batch = SentByHand(1, ["f", "g"], session.record.sent(5))
    usage = (100.0, 104.0, 0.0, 2.0, 0.0, 0, 0, 0.0)
    session.record.reported(1, batch, 5, [(0, 2, 1.0, 0.5), (1, 3, 3.0, 1.0)], usage, True)
    told = session.told()
    assert [(f.name, f.num_tasks, f.run_s, f.cpu_s) for f in told.functions] == [
        ("g", 3, 3.0, 1.5),
        ("f", 2, 1.0, 0.5),
    ]


def test_a_short_batch_reports_nothing_but_the_time() -> None:
    session = Session()
    session.at(1.0)
    batch = SentByHand(1, ["f"], session.record.sent(3))
    session.at(1.5)
    session.record.reported(1, batch, 3, [(0, 3, 0.25, 0.1)], session.start_s + 1.4, True)
    told = session.told()
    assert (told.num_tasks, told.num_batches) == (3, 1)
    assert told.run_s == told.occupied_s == pytest.approx(0.25)
    assert told.active_s == pytest.approx(0.4)


def test_a_worker_that_begins_before_the_driver_has_looked_at_the_clock() -> None:
    session = Session()
    session.batch("f", 1, 0.0, 1.0)
    log = session.send(1, "f", 1, 4.0)
    session.report(log, 1, 3.5, 5.0, 1.5)
    assert session.told().occupied_s == pytest.approx(1.0 + 1.5)


def test_what_is_taken_back_is_not_under_way() -> None:
    session = Session()
    log = session.send(1, "f", 10, 0.0)
    session.record.requeued(7)
    session.record.taken(1, 7)
    assert session.record.num_out == 3
    session.report(log, 3, 0.0, 1.0, 1.0)
    assert session.record.num_out == 0
    assert session.told().num_taken_back == 7


def test_a_dead_workers_batch_is_over() -> None:
    session = Session()
    session.send(1, "f", 10, 0.0)
    session.at(2.0)
    session.record.blocked(1, 5, "f")
    session.record.crashed(1)
    session.record.lost(10)
    session.record.resumed(1, 5)
    session.record.retried("f")
    session.at(8.0)
    told = session.told()
    assert (told.num_crashes, told.num_retries, told.num_tasks) == (1, 1, 0)
    assert session.record.num_out == 0
    assert told.active_s == pytest.approx(2.0)


def test_what_stays_after_the_end() -> None:
    session = Session()
    session.record.look = lambda: {"saved_bytes": 5_000_000, "lent_bytes": 2_000_000}
    session.send(1, "f", 1, 1.0)
    session.at(3.0)
    session.record.end()
    session.at(99.0)
    session.record.end()
    told = session.told()
    assert session.record.look is None, "it would keep the engine alive"
    assert told.active_s == pytest.approx(2.0)
    assert told.session_s == pytest.approx(3.0)
    assert (told.deduplicated_bytes, told.shared_bytes, told.saved_bytes) == (5_000_000, 2_000_000, 7_000_000)


def test_a_new_session_begins_a_new_record() -> None:
    first = events.begin(2.0)
    second = events.begin(4.0)
    assert events.last() is second is not first


# --- bounds -------------------------------------------------------------------------------------------------


def test_old_rows_are_dropped_and_counted() -> None:
    ring = Ring()
    total = PAGE_ROWS * (MAX_PAGES + 3) + 5
    for number in range(total):
        ring.append((BATCH, number, 0, 0, 0, 0, 0, 0))
    rows = ring.rows()
    assert len(rows) + ring.num_dropped == total
    assert 0 < ring.num_dropped <= 4 * PAGE_ROWS
    assert [row[1] for row in (rows[0], rows[-1])] == [ring.num_dropped, total - 1]
    assert all(len(row) == ROW for row in (rows[0], rows[-1]))


def test_too_many_names_share_one() -> None:
    session = Session()
    for number in range(MAX_NAMES + 10):
        session.batch(f"f{number}", 1, float(number), number + 0.5)
    assert len(session.record.functions) == MAX_NAMES + 1
    assert session.record.functions[OTHERS].num_tasks == 10
    assert session.told().num_tasks == MAX_NAMES + 10


def test_exports_and_captures_are_bounded() -> None:
    session = Session()
    for number in range(MAX_NAMES + 10):
        session.record.exported(f"f{number}", None, events.LARGE_BYTES, 0.0)
    assert len(session.record.exports) == MAX_NAMES
    assert len(session.record.captures) == events.MAX_CAPTURES


# --- words --------------------------------------------------------------------------------------------------


def test_a_session_without_tasks() -> None:
    told = Session().told()
    assert str(told) == "grainwise: no task has come back"
    assert (told.utilization, told.overhead_share, told.findings) == (0.0, 0.0, [])
    assert "no task" in told._repr_html_()


def test_the_text() -> None:
    session = Session()
    session.record.look = lambda: {"saved_bytes": 1_800_000_000, "lent_bytes": 200_000_000}
    for number in range(100):
        session.batch("double", 250, number * 0.01, number * 0.01 + 0.01, run_s=0.009, worker=1)
    session.record.taken(1, 12)
    session.record.retried("double")
    assert str(session.told()).splitlines() == [
        "grainwise: 25,000 tasks ran in 100 batches of about 9 ms (250 tasks each)",
        "  time      2 CPUs were 45 % busy with tasks in the 1 s that work was under way;",
        "            overhead 10 %",
        "  memory    2 GB not copied: 1.8 GB recognised as stored, 200 MB read in place",
        "  also      12 taken back for idle workers, 1 retry",
        "  function                                  tasks    a task    in all  share",
        "  double                                   25,000     36 µs    900 ms  100 %",
    ]


def test_the_text_fits_a_terminal() -> None:
    session = Session(num_cpus=8)
    session.record.look = lambda: {"saved_bytes": 10**13, "lent_bytes": 10**13, "spilled_bytes": 10**13}
    for number in range(8):
        name = "a_function_with_a_very_long_name_" * 5 + str(number)
        session.batch(name, 10**9, number * 1e4, number * 1e4 + 9e3, run_s=500.0, cpu_s=1.0)
        session.record.exported(name, test_the_text, 10**12, 5.0)
    session.record.taken(1, 10**9)
    session.record.num_failed = session.record.num_own = 10**9
    lines = str(session.told(available_cpus=64)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "  and 4 more" in lines
    assert [line[2:4] for line in lines if line[2:4] in ("1.", "2.", "3.", "4.")] == ["1.", "2.", "3."]


def test_html_is_escaped() -> None:
    session = Session()
    session.batch("<lambda> & co", 3, 0.0, 1.0)
    html = session.told()._repr_html_()
    assert "&lt;lambda&gt; &amp; co" in html
    assert "<lambda>" not in html


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0 ns"), (5e-8, "50 ns"), (1e-6, "1 µs"), (1.25e-5, "12.5 µs"), (9.999e-4, "1 ms"),
        (0.25, "250 ms"), (1.0, "1 s"), (61.5, "61.5 s"), (600.0, "10.0 min"),
    ],
)  # fmt: skip
def test_seconds(value: float, words: str) -> None:
    assert show.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 KB"), (999_900, "1 MB"), (3 * 10**8, "300 MB")],
)
def test_size(value: int, words: str) -> None:
    assert show.size(value) == words
