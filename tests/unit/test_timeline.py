"""The trace made of events that come from the test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from grainwise.watch import events
from grainwise.watch.timeline import PROGRAM, WORKERS, trace

from .recorded import Session

Trace = list[dict[str, Any]]
MAIN = 140_000_000_000_123


def _by_name(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["name"] == name]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Trace:
    session = Session()
    first = session.send(7, "f", 10, 0.5)
    second = session.send(9, "g", 5, 0.75)
    session.record.requeued(2)
    session.record.taken(7, 2)
    session.report(first, 8, 1.0, 2.0, 0.5)
    session.at(2.0)
    session.record.blocked(9, 1, "g")
    inner = session.send(9, "f", 1, 2.25)
    session.report(inner, 1, 2.5, 2.75, 0.25)
    session.at(3.0)
    session.record.resumed(9, 1)
    session.report(second, 5, 1.0, 4.0, 2.0, waited_s=1.0)
    monkeypatch.setattr(events, "get_ident", lambda: MAIN)
    session.record.waited(session.start_s + 1.0, False)
    session.at(5.0)
    session.record.crashed(7)
    return trace(session.record, MAIN)


def test_batches_are_slices_of_their_worker(example: Trace) -> None:
    f = _by_name(example, "f")
    assert [(e["ph"], e["pid"], e["tid"], e["ts"], e["dur"]) for e in f] == [
        ("X", WORKERS, 1, 1e6, 1e6),
        ("X", WORKERS, 2, 2.5e6, 0.25e6),
    ]
    assert f[0]["args"] == {"tasks": 8, "run_us": 0.5e6, "from_sent_us": 0.5e6}


def test_slices_of_a_row_nest(example: Trace) -> None:
    open_until: dict[tuple[int, int], list[float]] = {}
    for event in example:
        if event["ph"] == "X":
            stack = open_until.setdefault((event["pid"], event["tid"]), [])
            while stack and stack[-1] <= event["ts"]:
                stack.pop()
            end = event["ts"] + event["dur"]
            assert not stack or end <= stack[-1], f"{event} sticks out"
            stack.append(end)


def test_blocked_tasks_instants_and_waits(example: Trace) -> None:
    [blocked] = _by_name(example, "g waits")
    assert (blocked["ts"], blocked["dur"], blocked["tid"]) == (2e6, 1e6, 2)
    [taken] = _by_name(example, "taken back")
    assert (taken["ph"], taken["tid"], taken["args"]) == ("i", 1, {"tasks": 2})
    [died] = _by_name(example, "worker died")
    assert (died["ts"], died["tid"]) == (5e6, 1)
    [wait] = _by_name(example, "wait")
    assert (wait["pid"], wait["tid"], wait["ts"], wait["dur"]) == (PROGRAM, 1, 1e6, 3e6)


def test_what_was_sent_before_the_wait_is_a_submission(example: Trace) -> None:
    [submit] = _by_name(example, "submit")
    assert (submit["ts"], submit["dur"]) == (0.5e6, 0.25e6)
    assert submit["args"] == {"batches": 2, "tasks": 13}


def test_the_counter_comes_back_to_nothing(example: Trace) -> None:
    counts = [event["args"]["tasks"] for event in _by_name(example, "tasks under way")]
    assert counts[-1] == 0
    assert max(counts) == 13


def test_rows_are_named(example: Trace) -> None:
    labels = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in _by_name(example, "thread_name")
    }
    assert labels == {(PROGRAM, 1): "main thread", (WORKERS, 1): "worker 1", (WORKERS, 2): "worker 2"}


def test_every_event_has_what_the_format_asks_for(example: Trace) -> None:
    trace_events = json.loads(json.dumps(example))
    times = [event["ts"] for event in trace_events]
    assert times == sorted(times)
    for event in trace_events:
        assert {"name", "ph", "ts", "pid", "tid", "args"} <= set(event)
        assert event["ph"] in "XiCM"
        if event["ph"] == "X":
            assert event["dur"] >= 0


def test_a_session_without_events() -> None:
    assert {event["ph"] for event in trace(Session().record, MAIN)} == {"M"}
