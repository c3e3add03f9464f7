"""Reading output files: lines and their tags however the reads fall, and what is dropped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from grainwise.engine.printed import frames, tail
from grainwise.engine.printed.tail import TEXT, Piece, Tail, last_lines
from grainwise.engine.processes.output import as_text
from grainwise.engine.processes.process import anonymous_file

ONE = frames.tag_frame(7, "one")
TWO = frames.tag_frame(7, "two")
RECORD = frames.record_frame(
    frames.LOG, {"name": "lib", "levelname": "INFO", "msg": "text", "exc_text": None}
)


@pytest.fixture
def fd() -> Iterator[int]:
    made = anonymous_file("output-test")
    yield made
    os.close(made)


def shown(pieces: list[Piece]) -> str:
    """Return pieces as the program would show them; a record as <record>."""
    return "".join(as_text(p.data, p.tag) if p.kind == TEXT else "<record>\n" for p in pieces)


def test_a_tag_holds_until_the_next(fd: int) -> None:
    os.write(fd, b"before\n" + ONE + b"a\nb\n" + TWO + b"c\n" + RECORD + b"d\n" + ONE + ONE)
    pieces = Tail(fd, is_error=True).read()
    assert shown(pieces) == ("before\n(one pid=7) a\n(one pid=7) b\n(two pid=7) c\n<record>\n(two pid=7) d\n")


def test_however_the_reads_fall(fd: int) -> None:
    """A line and a frame may be seen in halves; an open line ends where another task prints, not before."""
    data = ONE + b"open " + ONE + b"line\nnext " + RECORD + b"one\nlast" + TWO + b"two \xc3\xa4\nend"
    expected = "(one pid=7) open line\n<record>\n(one pid=7) next one\n(one pid=7) last\n(two pid=7) two ä\n"
    for step in (1, 2, 3, 5, 17, 1000):
        os.ftruncate(fd, 0)
        one = Tail(fd, is_error=False)
        pieces: list[Piece] = []
        for start in range(0, len(data), step):
            os.write(fd, data[start : start + step])
            pieces += one.read()
        assert shown(pieces) == expected
        assert shown(one.read(is_last=True)) == "(two pid=7) end\n"
        assert one.read(is_last=True) == []


def test_a_frame_cut_short_by_the_end_is_no_text(fd: int) -> None:
    os.write(fd, ONE + b"line\nopen" + TWO[:-4])
    assert shown(Tail(fd, is_error=False).read(is_last=True)) == "(one pid=7) line\n(one pid=7) open\n"


def test_a_line_that_does_not_grow_is_shown(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(tail, "monotonic", lambda: now)
    one = Tail(fd, is_error=False)
    os.write(fd, ONE + b"ready?")
    assert shown(one.read()) == ""
    now += tail.STALE_S + 0.1
    os.write(fd, b" go")
    assert shown(one.read()) == ""
    now += tail.STALE_S + 0.1
    assert shown(one.read()) == "(one pid=7) ready? go\n"
    os.write(fd, b"next\n")
    assert shown(one.read()) == "(one pid=7) next\n"


@pytest.mark.parametrize("is_bound", [False, True])
def test_what_is_too_much_is_dropped_at_a_line(
    fd: int, is_bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is not known behind the gap, until it is said again."""
    monkeypatch.setattr(tail, "_CHUNK_BYTES", 1_000)
    one = Tail(fd, is_error=False)
    one.max_bytes = 10_000
    os.write(fd, ONE + b"first\n")
    text = shown(one.read())
    os.write(fd, TWO + b"".join(b"line %04d of many\n" % i for i in range(1_000)) + TWO + b"last\n")
    if is_bound:
        text += shown(one.bound())
        assert one.size() - one.offset <= 10_000
    while one.offset < one.size():
        text += shown(one.read())
    lines = text.splitlines()
    assert lines[0] == "(one pid=7) first"
    assert lines[1].startswith("(pid=7) [... ")
    assert lines[1].endswith(" bytes of output dropped: nobody read them ...]")
    numbers = [int(line.split()[2]) for line in lines[2:-1]]
    assert numbers == list(range(1_000 - len(numbers), 1_000))
    assert 500 < len(numbers) < 560
    assert {line.partition(" line")[0] for line in lines[2:-1]} == {"(pid=7)"}
    assert lines[-1] == "(two pid=7) last"


def test_a_very_long_line_is_cut(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MAX_LINE_BYTES", 1_000)
    one = Tail(fd, is_error=False)
    os.write(fd, b"x" * 1_500 + b"\n")
    assert sum(len(piece.data.replace(b"\n", b"")) for piece in one.read(is_last=True)) == 1_500


def test_last_lines_are_text(fd: int) -> None:
    os.write(fd, b"z" * 200_000 + b"\n" + ONE + b"line\n" + RECORD + TWO + b"end")
    assert last_lines(fd).splitlines()[-3:] == ["line", "INFO:lib:text", "end"]
    assert len(last_lines(fd)) <= tail.LAST_LINES_BYTES


def test_damaged_records_and_foreign_bytes_are_passed_over(fd: int) -> None:
    os.write(fd, frames.BEGIN + b"Lnonsense\n" + frames.BEGIN + b"\n" + frames.BEGIN + b"T\nline\n")
    assert last_lines(fd) == "line"
    with pytest.raises(ValueError, match="damaged"):
        frames.read_record(b"")


def test_what_was_overwritten_is_not_shown() -> None:
    assert as_text(b"\r1 %\r2 %\r\nplain\n\ra\r\r\n", "(t) ") == "(t) 2 %\n(t) plain\n(t) a\n"
    assert as_text(b"plain\n\n", "") == "plain\n\n"
    assert as_text(b"plain\n\n", "(t) ") == "(t) plain\n(t) \n"
