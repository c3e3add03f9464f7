"""`grainwise map`: formats, failures, and going on after an interruption at any byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grainwise.cli import main
from grainwise.commands.sink import Failure, Sink
from tests.leaks import MARK, assert_nothing_left

FUNCTIONS = """
import json
from grainwise.flow import task


def shout(line):
    if line == "bad":
        raise ValueError("a bad line")
    return line.upper()


def breaks(line):
    return line + "\\n"


def size(row):
    return {"n": len(row), "row": row}


@task
def typed(line: str) -> int:
    return len(line)


class Words:
    @staticmethod
    def count(line):
        return len(line.split())


not_callable = 3
"""

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    (tmp_path / "row_functions_for_tests.py").write_text(FUNCTIONS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "row_functions_for_tests", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["map", f"row_functions_for_tests.py:{name}", *arguments])

    return call


def test_lines_stay_lines(call: Call) -> None:
    Path("in.txt").write_bytes(b"a b\n\nc\xff \xc3\xa9\nlast")
    assert call("shout", "in.txt", "-o", "out.txt").exit_code == 0
    assert Path("out.txt").read_bytes() == b"A B\n\nC\xff \xc3\x89\nLAST\n"
    assert not Path("out.txt.state").exists()
    for name, wanted in (("Words.count", "2\n0\n2\n1\n"), ("typed", "3\n0\n4\n4\n")):
        assert call(name, "in.txt", "-o", "out.txt").exit_code == 0
        assert Path("out.txt").read_text() == wanted


def test_rows_of_every_format(call: Call) -> None:
    Path("in.jsonl").write_text('{"a": 1}\n\n[1, 2]\n')
    Path("in.csv").write_text('a,b\n1,"x\ny"\n')
    Path("in.tsv").write_text("a\tb\n1\t2\n")
    for name, wanted in (
        ("in.jsonl", [{"n": 1, "row": {"a": 1}}, {"n": 2, "row": [1, 2]}]),
        ("in.csv", [{"n": 2, "row": {"a": "1", "b": "x\ny"}}]),
        ("in.tsv", [{"n": 2, "row": {"a": "1", "b": "2"}}]),
    ):
        assert call("size", name, "-o", "out.jsonl").exit_code == 0
        assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == wanted
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": list(range(5000))}), "in.parquet")
    assert call("size", "in.parquet", "-o", "out.jsonl").exit_code == 0
    lines = Path("out.jsonl").read_text().splitlines()
    assert (len(lines), json.loads(lines[4999])) == (5000, {"n": 1, "row": {"a": 4999}})


def test_output_formats(call: Call) -> None:
    Path("in.txt").write_text("a\n")
    assert call("shout", "in.txt", "-o", "out.jsonl").exit_code == 0
    assert Path("out.jsonl").read_text() == '"A"\n'
    failed = call("breaks", "in.txt", "-o", "out.txt")
    assert (failed.exit_code, "line breaks" in failed.output) == (1, True)
    assert call("breaks", "in.txt", "-o", "out2.txt", "--output-format", "jsonl").exit_code == 0
    assert Path("out2.txt").read_text() == '"a\\n"\n'


def test_a_row_that_fails_ends_it(call: Call) -> None:
    Path("in.txt").write_text("a\nbad\nc\n")
    result = call("shout", "in.txt", "-o", "out.txt")
    assert result.exit_code == 1
    assert "row 2 failed: ValueError: a bad line" in result.output
    assert "in shout" in result.output
    assert "--resume goes on" in result.output
    assert Path("out.txt").read_text() == "A\n"
    refused = call("shout", "in.txt", "-o", "out.txt")
    assert (refused.exit_code, "--restart" in refused.output) == (2, True)
    again = call("shout", "in.txt", "-o", "out.txt", "--resume")
    assert (again.exit_code, "row 2 failed" in again.output) == (1, True)
    assert call("shout", "in.txt", "-o", "out.txt", "--restart", "--errors", "skip").exit_code == 0
    assert Path("out.txt").read_text() == "A\nC\n"


def test_failed_rows_are_skipped_or_recorded(call: Call) -> None:
    Path("in.txt").write_text("bad\na\nbad\nc\nbad\n")
    skipped = call("shout", "in.txt", "-o", "out.txt", "--errors", "skip")
    assert (skipped.exit_code, skipped.output) == (0, "3 rows failed\n")
    assert call("shout", "in.txt", "-o", "out.txt", "--errors", "record").exit_code == 0
    assert Path("out.txt").read_text() == "A\nC\n"
    recorded = [json.loads(line) for line in Path("out.txt.errors.jsonl").read_text().splitlines()]
    assert [(each["index"], each["error"], each["row"]) for each in recorded] == [
        (index, "ValueError: a bad line", "bad") for index in (0, 2, 4)
    ]
    assert "in shout" in recorded[0]["traceback"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shout", "nowhere.txt"], "input can't be read"),
        (["nope", "in.txt"], "'nope'"),
        (["not_callable", "in.txt"], "expected a function"),
        (["shout", "in.txt", "--resume"], "-o PATH"),
        (["shout", "in.txt", "--errors", "record"], "-o PATH"),
        (["shout", "in.txt", "-o", "nowhere/out.txt"], "output can't be written"),
        (["shout", "in.txt", "--format", "parquet"], "input can't be read"),
        (["shout", "-", "--format", "parquet"], "standard input"),
    ],
)
def test_wrong_calls_are_refused(call: Call, arguments: list[str], words: str) -> None:
    Path("in.txt").write_text("a\n")
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_wrong_functions_are_refused() -> None:
    for name, words in (
        ("json", "MODULE:FUNCTION"),
        ("no_such_module_here:f", "no module"),
        ("nowhere.py:f", "no file"),
    ):
        result = CliRunner().invoke(main, ["map", name, "in.txt"])
        assert (result.exit_code, words in result.output) == (2, True), result.output


# -- going on --------------------------------------------------------------------------------------------

ROWS = ["a", "bad", "bb", "ccc", "bad", "bad", "d", "bad"]
DONE = [None if row == "bad" else row.upper() for row in ROWS]


def sink_of(path: Path, *, is_resumed: bool = False) -> Sink:
    sink = Sink(str(path), {"function": "f"})
    assert sink.open(is_resumed=is_resumed, is_restarted=False)
    return sink


def fill(sink: Sink) -> None:
    for index in range(sink.n_done, len(ROWS)):
        line = DONE[index]
        if line is None:
            sink.take_failure(Failure(index, "ValueError", "", ROWS[index]))
        else:
            sink.take(line)


def test_it_goes_on_from_every_byte_of_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sink = sink_of(path)
    fill(sink)
    sink.close(is_complete=False, is_recorded=True)
    whole, state = path.read_bytes(), (tmp_path / "out.state").read_text()
    for at in range(len(whole) + 1):
        path.write_bytes(whole[:at])
        (tmp_path / "out.state").write_text(state + '{"index": 7, "err')  # cut short
        sink = sink_of(path, is_resumed=True)
        n_lines = whole[:at].count(b"\n")
        assert sink.n_done - len(sink.failures) == n_lines
        assert [failure.index for failure in sink.failures] == [
            index for index in range(sink.n_done) if DONE[index] is None
        ]
        fill(sink)
        sink.close(is_complete=True, is_recorded=True)
        assert path.read_bytes() == whole
        recorded = (tmp_path / "out.errors.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in recorded] == [1, 4, 5, 7]
        assert not (tmp_path / "out.state").exists()


def test_failures_are_written_before_what_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grainwise.commands.sink.WRITE_S", -1.0)  # each line at once
    sink = sink_of(tmp_path / "out")
    for index, line in enumerate(DONE):
        if line is None:
            sink.take_failure(Failure(index, "", "", ""))
        else:
            sink.take(line)
            n_failed = (tmp_path / "out.state").read_text().count("index")
            n_lines = (tmp_path / "out").read_text().count("\n")
            assert n_lines + n_failed == index + 1
    sink.close(is_complete=True, is_recorded=False)


def test_another_map_does_not_go_on(call: Call) -> None:
    Path("in.txt").write_text("a\nbad\n")
    assert call("shout", "in.txt", "-o", "out.txt").exit_code == 1
    other = call("breaks", "in.txt", "-o", "out.txt", "--resume")
    assert (other.exit_code, "another function" in other.output) == (2, True)
    Path("in.txt").write_text("a\nbad\nc\n")
    other = call("shout", "in.txt", "-o", "out.txt", "--resume")
    assert (other.exit_code, "another input" in other.output) == (2, True)
    assert call("shout", "in.txt", "-o", "out.txt", "--restart", "--errors", "skip").exit_code == 0
    complete = call("shout", "in.txt", "-o", "out.txt", "--errors", "skip", "--resume")
    assert (complete.exit_code, complete.output) == (0, "out.txt is complete\n")


WAITING = """
import os, time

def double(line):
    while int(line) >= 1000 and not os.path.exists("go"):
        time.sleep(0.01)
    log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, (line + "\\n").encode())
    os.close(log)
    return int(line) * 2
"""
COMMAND = [sys.executable, "-c", "from grainwise.cli import main; main()", "map"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_it_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    """Rows from 1,000 on wait, so it does not end before it is interrupted."""
    (tmp_path / "waiting_function_for_tests.py").write_text(WAITING)
    (tmp_path / "in").write_text("".join(f"{i}\n" for i in range(1500)))
    command = [*COMMAND, "waiting_function_for_tests.py:double", "in", "-o", "out"]
    mark = f"{os.environ[MARK]}/{tmp_path.name}"
    surroundings = {**os.environ, MARK: mark}
    with subprocess.Popen(command, cwd=tmp_path, env=surroundings, stderr=subprocess.PIPE) as run:
        while not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(how)
        run.wait(timeout=60)
    assert_nothing_left(mark)
    assert run.returncode == (130 if how == signal.SIGINT else -how)
    n_done = (tmp_path / "out").read_text().count("\n")
    assert 0 < n_done <= 1000
    (tmp_path / "log").unlink()
    (tmp_path / "go").touch()
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "".join(f"{2 * i}\n" for i in range(1500))
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(n_done, 1500))


def test_from_a_pipe_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "row_functions_for_tests.py").write_text(FUNCTIONS)
    command = [*COMMAND, "row_functions_for_tests:shout"]
    done = subprocess.run(command, cwd=tmp_path, input=b"a\nb", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"A\nB\n"), done.stderr
