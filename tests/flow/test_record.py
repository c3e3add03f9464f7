"""The run record: what is kept of a run, and what happens to a run whose record can't be kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from grainwise import flow
from grainwise.flow import dynamic, map_task, task, workflow
from grainwise.flow.record import encoding, reading, schema
from grainwise.flow.record.process import is_alive, this_process


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task(retries=1)
def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd: {x}")
    return x


@dynamic
def twice(x: int) -> int:
    return add(x=add(x=x))


@workflow
def chain(x: int) -> list[int]:
    return map_task(add)(x=[twice(x=x), add(x=x)], y=[10, 20])  # type: ignore[no-any-return]


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["GRAINWISE_RUN_DIR"])


def rows(folder: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(folder / "runs.sqlite")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_a_run_is_in_the_record_when_its_call_returns(mode: str, folder: Path) -> None:
    assert chain(x=1) == [13, 22]
    [(run_id, name, kind, state, where)] = rows(folder, "SELECT run_id, name, kind, state, mode FROM runs")
    assert (name, kind, state, where) == (chain.name, "workflow", "done", mode)
    nodes = rows(folder, "SELECT path, name, kind, after, state, n_elements FROM nodes ORDER BY path")
    assert nodes == [
        ("n0", "twice", "dynamic", "[]", "done", None),
        ("n0/dn0", "add", "task", "[]", "done", None),
        ("n0/dn1", "add", "task", '["dn0"]', "done", None),
        ("n1", "add", "task", "[]", "done", None),
        ("n2", nodes[4][1], "map", '["n0", "n1"]', "done", 2),
    ]
    values = rows(folder, "SELECT path, role, name, data FROM \"values\" WHERE format = 'json'")
    assert {("", "inputs", "x", "1"), ("", "outputs", "o0", "[13, 22]"), ("n2", "inputs", "x", "[3, 2]")} <= {
        *values
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with reading.reading() as connection:
        assert reading.load_elements(connection, run_id, "n2") == {0: 13, 1: 22}
    times = rows(folder, "SELECT queued_s, started_s, ended_s FROM nodes WHERE path = 'n1'")[0]
    assert sorted(times) == list(times)


def test_where_and_when_tasks_ran(folder: Path) -> None:
    chain(x=1)
    for pid, queued_s, started_s, run_s, ended_s in rows(
        folder,
        "SELECT pid, attempts.queued_s, attempts.started_s, run_s, attempts.ended_s FROM attempts "
        "JOIN nodes USING (run_id, path) WHERE kind = 'task'",
    ):
        assert pid != os.getpid()
        assert queued_s <= started_s <= ended_s
        assert run_s >= 0


def test_a_slow_element_holds_up_the_record_of_no_other(tmp_path: Path) -> None:
    @task
    def wait_for_file(x: int, path: str) -> int:
        while x == 0 and not os.path.exists(path):
            time.sleep(0.002)
        return x

    mapped = map_task(wait_for_file, bound_inputs={"path"})
    thread = threading.Thread(target=lambda: mapped(x=list(range(30)), path=str(tmp_path / "go")))
    thread.start()
    done: set[int] = set()
    while len(done) < 29:
        for run in flow.list_runs():
            with reading.reading() as connection:
                done = set(reading.load_elements(connection, run.run_id, "n0"))
    (tmp_path / "go").touch()
    thread.join()
    assert done == set(range(1, 30))


def test_failures_and_retries_of_elements_are_kept(mode: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="odd: 1"):
        map_task(odd_fails, run_all_sub_nodes=True)(x=[0, 1, 2, 3])
    [run] = flow.list_runs()
    assert (run.state, run.kind, run.error) == ("failed", "map", "ValueError: odd: 1")
    with reading.reading() as connection:
        failed = reading.failed_elements(connection, run.run_id, "n0")
        assert [(row["element"], row["error"], row["n_attempts"]) for row in failed] == [
            (1, "ValueError: odd: 1", 2), (3, "ValueError: odd: 3", 2),
        ]  # fmt: skip
        assert "in odd_fails" in failed[0]["traceback"]
        assert reading.load_elements(connection, run.run_id, "n0") == {0: 0, 2: 2}


def test_retries_and_failures_of_tasks_are_kept(mode: str, folder: Path) -> None:
    @workflow
    def wf() -> int:
        return odd_fails(x=1)

    with pytest.raises(ValueError, match="odd"):
        wf()
    attempts = rows(folder, "SELECT attempt, state, error FROM attempts ORDER BY attempt")
    assert attempts == [(1, "failed", "ValueError: odd: 1"), (2, "failed", "ValueError: odd: 1")]
    [(state, text)] = rows(folder, "SELECT state, traceback FROM nodes")
    assert state == "failed"
    assert "odd: 1" in text


def test_cache_hits_are_kept(mode: str, folder: Path) -> None:
    cached = task(add.task_function, cache=True)

    @workflow
    def wf(x: int) -> list[int]:
        return map_task(cached)(x=[cached(x=x), 5])  # type: ignore[no-any-return]

    assert wf(x=1) == wf(x=1) == [3, 6]
    last = "(SELECT run_id FROM runs ORDER BY started_s DESC LIMIT 1)"
    assert rows(folder, f"SELECT is_cached FROM nodes WHERE run_id = {last} AND path = 'n0'") == [(1,)]
    assert rows(folder, f"SELECT sum(n_elements) FROM chunks WHERE run_id = {last} AND is_cached") == [(2,)]


def test_what_a_task_calls_is_no_run_of_its_own(mode: str) -> None:
    @task
    def outer(x: int) -> list[int]:
        return chain(x=x)

    @workflow
    def wf(x: int) -> list[int]:
        return outer(x=x)

    assert wf(x=1) == [13, 22]
    assert [run.name for run in flow.list_runs()] == [wf.name]


def test_tiny_elements_make_few_rows(folder: Path) -> None:
    n = 40_000
    with flow.inline():
        map_task(add)(x=list(range(n)))
    [(n_rows, n_elements)] = rows(folder, "SELECT count(*), sum(n_elements) FROM chunks")
    assert n_elements == n
    assert n_rows < n / 50
    [(name,)] = rows(
        folder, "SELECT file FROM \"values\" WHERE path = 'n0' AND role = 'inputs' AND name = 'x'"
    )
    [run] = flow.list_runs()
    assert (folder / "objects" / run.run_id / name).is_file()
    with reading.reading() as connection:
        assert reading.load_elements(connection, run.run_id, "n0") == {i: i + 1 for i in range(n)}


def test_of_very_many_failures_the_first_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grainwise.flow.record.recorder.MAX_LISTED", 3)
    with flow.inline():
        map_task(task(odd_fails.task_function), min_success_ratio=0.5)(x=list(range(20)))
    [run] = flow.list_runs()
    with reading.reading() as connection:
        assert [row["element"] for row in reading.failed_elements(connection, run.run_id, "n0")] == [1, 3, 5]
        assert reading.failed_indices(connection, run.run_id, "n0") == set(range(1, 20, 2))


def test_values_are_kept_as_they_were(folder: Path) -> None:
    kept: list[list[int]] = []

    @task
    def make() -> list[int]:
        kept.append([1, 2])
        return kept[0]

    @task
    def spoil(xs: list[int]) -> int:
        xs.append(3)
        return len(xs)

    @workflow
    def wf() -> int:
        return spoil(xs=make())

    with flow.inline():
        assert wf() == 3
    assert rows(folder, "SELECT data FROM \"values\" WHERE path = 'n0' AND role = 'outputs'") == [("[1, 2]",)]


def test_what_cannot_be_pickled_does_not_stop_a_run(folder: Path) -> None:
    @task
    def make() -> Any:
        return (each for each in ())

    @workflow
    def wf() -> Any:
        return make()

    with flow.inline():
        wf()
    [(format_, preview)] = rows(folder, "SELECT format, preview FROM \"values\" WHERE path = 'n0'")
    assert format_ == "none"
    assert "generator" in preview


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        1.5,
        "x",
        [1, {"a": [None, True]}],
        (1, 2),
        {1: 2},
        float("inf"),
        b"x",
        "\ud800",
        {"a"},
        10**30,
    ],
)
def test_values_come_back(value: Any) -> None:
    kept = encoding.keep(value)
    back = encoding.value_of(kept.format, b"".join(kept.parts))
    assert back == value
    assert type(back) is type(value)


def test_arrays_come_back(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    value = {"a": numpy.arange(100_000), "b": numpy.ones(3)}
    kept = encoding.keep(value)
    assert len(kept.parts) > 1  # the large one stands beside the pickle
    name = encoding.write_object(str(tmp_path), kept.parts)
    back = encoding.value_of(kept.format, (tmp_path / name).read_bytes())
    assert (back["a"] == value["a"]).all()
    back["a"][0] = 5
    assert encoding.show(value["a"]) == "ndarray of shape (100000,)"


def test_a_value_that_was_tampered_with_is_not_believed(folder: Path) -> None:
    with flow.inline():
        chain(x=1)
    [run] = flow.list_runs()
    connection = sqlite3.connect(folder / "runs.sqlite")
    with connection:
        connection.execute("UPDATE \"values\" SET data = '4' WHERE path = 'n1' AND role = 'outputs'")
    connection.close()
    with reading.reading() as opened:
        assert reading.load_values(opened, run.run_id, "n1", "outputs") is None
        assert reading.load_values(opened, run.run_id, "n0", "outputs") == {"o0": 3}


# -- a record that can't be kept -------------------------------------------------------------------------


def damage(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Spoil the record; return what is to be closed at the end."""
    if kind == "corrupt":
        folder.mkdir(mode=0o700)
        (folder / "runs.sqlite").write_bytes(b"no database" * 1000)
    elif kind == "torn":
        with flow.inline():
            chain(x=0)
        connection = sqlite3.connect(folder / "runs.sqlite")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        whole = (folder / "runs.sqlite").read_bytes()
        (folder / "runs.sqlite").write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    elif kind == "a file":
        folder.write_text("in the way")
    elif kind == "others may write":
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    elif kind == "full":
        monkeypatch.setattr(encoding, "MAX_INLINE_BYTES", 0)
        monkeypatch.setattr(encoding, "write_object", _raise_full)
    elif kind == "locked":
        monkeypatch.setattr(schema.open_tables, "__kwdefaults__", {"timeout_s": 0.0})
        with flow.inline():
            chain(x=0)
        connection = sqlite3.connect(folder / "runs.sqlite", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        return connection
    elif kind == "later":
        folder.mkdir(mode=0o700)
        connection = sqlite3.connect(folder / "runs.sqlite")
        connection.execute("PRAGMA user_version = 1000")
        connection.close()
    return None


def _raise_full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", ["corrupt", "torn", "a file", "others may write", "full", "locked", "later"])
def test_a_run_goes_on_without_a_record(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = damage(kind, folder, monkeypatch)
    try:
        from grainwise.flow.record.attached import current_record

        record = current_record()
        assert record is not None
        monkeypatch.setattr("grainwise.flow.record.writer.IDLE_S", 0.0)
        with (
            flow.inline(),
            pytest.warns(RuntimeWarning, match="record of runs in .* goes on without it") as caught,
        ):
            assert chain(x=1) == [13, 22]
        assert len(caught) == 1
    finally:
        if held is not None:
            held.close()


def test_a_record_that_is_mended_is_used_again(folder: Path) -> None:
    folder.write_text("in the way")
    with flow.inline():
        with pytest.warns(RuntimeWarning, match="goes on without it"):
            chain(x=1)
        folder.unlink()
        chain(x=1)
    assert [run.state for run in flow.list_runs()] == ["done"]


def test_the_record_can_be_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_RUN_DIR", "off")
    with flow.inline():
        chain(x=1)
    assert not folder.exists()
    with pytest.raises(flow.RecordError, match="off"):
        flow.list_runs()


# -- reading and forgetting ------------------------------------------------------------------------------


def test_runs_are_found_by_the_beginning_of_their_id_and_forgotten(folder: Path) -> None:
    with flow.inline():
        for x in range(2):
            chain(x=x)
        map_task(add)(x=list(range(30_000)))
    newest, middle, oldest = flow.list_runs()
    with reading.reading() as connection:
        assert reading.find_run(connection, oldest.run_id[:10]).run_id == oldest.run_id
        assert reading.find_run(connection, "last").run_id == newest.run_id
        for wrong in ("", "zz"):
            with pytest.raises(flow.RecordError, match="no run"):
                reading.find_run(connection, wrong)
    assert list((folder / "objects").iterdir())
    assert reading.remove_runs([newest.run_id, oldest.run_id]) == [newest.run_id, oldest.run_id]
    assert [run.run_id for run in flow.list_runs()] == [middle.run_id]
    assert not list((folder / "objects").iterdir())
    assert rows(folder, "SELECT count(*) FROM chunks")[0][0] == 1


def test_a_run_whose_program_is_gone_is_lost(folder: Path) -> None:
    with flow.inline():
        chain(x=1)
    connection = sqlite3.connect(folder / "runs.sqlite")
    with connection:
        connection.execute("UPDATE runs SET state = 'running'")
    assert [run.state for run in flow.list_runs()] == ["running"]
    [run] = flow.list_runs()
    with pytest.raises(flow.RecordError, match="under way"):
        reading.remove_runs([run.run_id])
    with connection:
        connection.execute("UPDATE drivers SET pid_started = pid_started + 1")
    connection.close()
    assert [run.state for run in flow.list_runs()] == ["lost"]


def test_processes_are_told_apart_by_when_they_started() -> None:
    pid, started = this_process()
    host = os.uname().nodename
    assert is_alive(pid, started, host)
    assert not is_alive(pid, started, "elsewhere")
    if started:
        assert not is_alive(pid, started + 1, host)


def test_old_runs_are_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grainwise.flow.record.schema import open_tables
    from grainwise.flow.record.writer import _forget_old, kept_days

    with flow.inline():
        chain(x=1)
        chain(x=2)
    newest, oldest = flow.list_runs()
    connection = open_tables(str(folder / "runs.sqlite"))
    connection.execute("UPDATE runs SET ended_s = ended_s - 31 * 86400 WHERE run_id = ?", (oldest.run_id,))
    monkeypatch.setenv("GRAINWISE_RUN_DAYS", "0")
    _forget_old(connection, str(folder))
    assert len(flow.list_runs()) == 2
    monkeypatch.setenv("GRAINWISE_RUN_DAYS", "30")
    _forget_old(connection, str(folder))
    connection.close()
    assert [run.run_id for run in flow.list_runs()] == [newest.run_id]
    monkeypatch.setenv("GRAINWISE_RUN_DAYS", "many")
    with pytest.raises(ValueError, match="GRAINWISE_RUN_DAYS"):
        kept_days()
    shutil.rmtree(folder)
