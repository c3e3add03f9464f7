"""What tasks print reaches the program's streams, never blocks a task, and survives a crash."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import grainwise as ray

from ..leaks import assert_nothing_left, run_script, start_script
from .full_pool import LIMIT_S
from .signposts import Sign

PRELUDE = """
import os, sys, time
import grainwise as ray
ray.init(num_cpus=2, tag_output=False)
"""
TAGGED = PRELUDE.replace(", tag_output=False", "")


def run(source: str, *, prelude: str = PRELUDE) -> tuple[str, str, int]:
    result = run_script(prelude + source, timeout=LIMIT_S)
    assert_nothing_left(result.mark)
    return result.stdout, result.stderr, result.returncode


def run_with_unread_output(source: str, *, errors: bool = False) -> int:
    """Run a program whose standard output (and error) is a pipe that nobody reads; return its exit code."""
    near, far = os.pipe()
    try:
        program = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + source],
            stdout=far,
            stderr=far if errors else subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        os.close(far)
        try:
            _, stderr = program.communicate(timeout=LIMIT_S)
        finally:
            program.kill()
    finally:
        os.close(near)
    assert errors or stderr == b""
    return program.returncode


# --- arrives ------------------------------------------------------------------------------------------------


def test_lines_arrive_whole_and_in_order_each_on_its_stream() -> None:
    stdout, stderr, status = run(
        """
@ray.remote
def speak(i):
    for j in range(100):
        print(f"task {i} line {j} äöü €")
        print(f"task {i} error {j}", file=sys.stderr)

ray.get([speak.remote(i) for i in range(20)])
"""
    )
    assert status == 0
    for text, word, tail in ((stdout, "line", " äöü €"), (stderr, "error", "")):
        lines = text.splitlines()
        assert len(lines) == 2_000
        for i in range(20):
            own = [line for line in lines if line.startswith(f"task {i} ")]
            assert own == [f"task {i} {word} {j}{tail}" for j in range(100)]


def test_a_line_is_seen_while_its_task_still_runs() -> None:
    script = start_script(
        PRELUDE
        + """
@ray.remote
def speak():
    print("I am at work", flush=True)
    while not os.path.exists("seen"):
        time.sleep(0.002)

ray.get(speak.remote())
"""
    )
    deadline = time.monotonic() + LIMIT_S
    while script.read_stdout() != "I am at work\n":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    Sign(script.folder / "seen").put_up()
    result = script.finish(LIMIT_S)
    assert (result.stdout, result.stderr, result.returncode) == ("I am at work\n", "", 0)


@pytest.mark.parametrize("way", ["nothing more", "crash", "task error", "sys.exit", "shutdown"])
def test_the_last_words_are_seen_however_it_ends(way: str) -> None:
    end = {
        "nothing more": "",
        "crash": "os._exit(1)",
        "task error": "raise ValueError('by itself')",
        "sys.exit": "",
        "shutdown": "",
    }[way]
    after = {"sys.exit": "sys.exit(3)", "shutdown": "ray.shutdown()"}.get(way, "")
    stdout, stderr, status = run(
        f"""
@ray.remote(max_retries=0)
def speak():
    print("last words")
    sys.stdout.write("without an end of line")
    sys.stdout.flush()
    print("last error", file=sys.stderr)
    {end}

try:
    ray.get(speak.remote())
except (ray.errors.WorkerCrashedError, ValueError):
    pass
{after}
"""
    )
    assert stdout.splitlines() == ["last words", "without an end of line"]
    assert stderr.splitlines() == ["last error"]
    assert status == (3 if way == "sys.exit" else 0)


def test_a_crash_s_error_quotes_the_last_lines(tmp_path: Path) -> None:
    ray.init(num_cpus=1)

    @ray.remote(max_retries=0)
    def speak() -> None:
        for i in range(1_000):
            print(f"error line {i}", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.errors.WorkerCrashedError, match="error line 999"):
        ray.get(speak.remote(), timeout=LIMIT_S)


def test_output_of_c_code_and_raw_bytes() -> None:
    stdout, _, status = run(
        r"""
import ctypes

@ray.remote
def speak():
    os.write(1, b"raw \xff\xfe bytes\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"from C\n")
    libc.fflush(None)
    sys.stdout.buffer.write("unbuffered text\n".encode())
    sys.stdout.buffer.flush()

ray.get(speak.remote())
"""
    )
    assert stdout.splitlines() == [r"raw \xff\xfe bytes", "from C", "unbuffered text"]
    assert status == 0


@pytest.mark.parametrize("end", ["\\n", ""], ids=["line", "no line"])
def test_a_line_of_five_megabytes(end: str) -> None:
    stdout, stderr, status = run(
        f"""
@ray.remote
def speak():
    sys.stdout.write("y" * 5_000_000 + "{end}")
    sys.stdout.flush()

ray.get(speak.remote())
"""
    )
    assert stdout.rstrip("\n") == "y" * 5_000_000
    assert (stderr, status) == ("", 0)


def test_into_whatever_standard_output_is_at_that_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Notebooks and test runners replace the streams."""
    ray.init(num_cpus=1)

    @ray.remote(name="speak")
    def speak() -> None:
        print("for the notebook")

    ray.get(speak.remote(), timeout=LIMIT_S)
    ray.shutdown()
    assert re.fullmatch(r"\(speak pid=\d+\) for the notebook\n", capsys.readouterr().out)


# --- tags ---------------------------------------------------------------------------------------------------


def tagged(text: str) -> list[tuple[str, str]]:
    """Return (task's name, rest) of each line, and fail if one has no tag."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"\((?:(.+) )?pid=\d+\) (.*)", line)
        assert match is not None, line
        found.append((match[1] or "", match[2]))
    return found


def test_each_line_names_its_task_and_worker() -> None:
    stdout, stderr, status = run(
        """
@ray.remote
def speak(i):
    print("hello", i)
    print("two\\nlines", file=sys.stderr)
    return os.getpid()

pids = ray.get([speak.remote(i) for i in range(100)])
ray.shutdown()
print(*[f"(speak pid={pid}) hello {i}" for i, pid in enumerate(pids)], sep="\\n")
""",
        prelude=TAGGED,
    )
    lines = stdout.splitlines()
    assert sorted(lines[:100]) == sorted(lines[100:])
    by_worker = sorted(stderr.splitlines(), key=lambda line: line.partition(")")[0])  # theirs may alternate
    assert tagged("\n".join(by_worker)) == [("speak", "two"), ("speak", "lines")] * 100
    assert status == 0


def test_functions_that_share_batches() -> None:
    stdout, stderr, status = run(
        """
@ray.remote
def one(x):
    print("one", x)
    return x

@ray.remote
def two(x):
    sys.stdout.write("two ")
    sys.stdout.write(f"{x}\\n")
    return x

@ray.remote
def three(x):
    sys.stdout.write("three without an end")
    return x

for _ in range(3):
    refs = []
    for i in range(300):
        refs.append(one.remote(i))
        refs.append(two.remote(refs[-1]))
        refs.append(three.options(name="my three").remote(i))
    ray.get(refs)
""",
        prelude=TAGGED,
    )
    lines = tagged(stdout)
    assert {name for name, line in lines if line.startswith("one")} == {"one"}
    assert {name for name, line in lines if line.startswith("two")} == {"two"}
    assert {name for name, line in lines if line.startswith("three")} == {"my three"}
    for number in ("one", "two"):
        own = sorted(line for name, line in lines if name == number)
        assert own == sorted([f"{number} {i}" for i in range(300)] * 3)
    assert "".join(line for name, line in lines if name == "my three") == "three without an end" * 900
    assert (stderr, status) == ("", 0)


def test_tasks_within_tasks() -> None:
    stdout, _, status = run(
        """
@ray.remote
def inner(i):
    print("inner", i)

@ray.remote
def outer():
    print("before")
    ray.get([inner.remote(i) for i in range(20)])
    print("after")

ray.get([outer.remote() for _ in range(3)])
""",
        prelude=TAGGED,
    )
    lines = tagged(stdout)
    assert sorted(lines) == sorted(
        [("outer", "before"), ("outer", "after")] * 3 + [("inner", f"inner {i}") for i in range(20)] * 3
    )
    assert status == 0


def test_subprocesses_and_c_code_carry_the_task_s_name() -> None:
    stdout, _, status = run(
        """
import ctypes, subprocess

@ray.remote
def shell(i):
    subprocess.run(["echo", f"shell {i}"])

@ray.remote
def c_code(i):
    libc = ctypes.CDLL(None)
    libc.printf(b"c %d\\n", i)
    libc.fflush(None)
    time.sleep(0.005)  # tiny tasks carry the worker's tag

for i in range(3):
    ray.get(shell.remote(i))
    ray.get(c_code.remote(i))
""",
        prelude=TAGGED,
    )
    assert sorted(tagged(stdout)) == sorted(
        [("shell", f"shell {i}") for i in range(3)] + [("c_code", f"c {i}") for i in range(3)]
    )
    assert status == 0


def test_a_task_that_captures_its_descriptors_finds_no_frames() -> None:
    stdout, _, status = run(
        """
@ray.remote
def first():
    print("from the first")

@ray.remote
def capture():
    saved = os.dup(1)
    with open("captured", "wb") as file:
        os.dup2(file.fileno(), 1)
        print("captured", flush=True)
        os.system("echo captured")
    os.dup2(saved, 1)
    os.close(saved)
    with open("captured") as file:
        return file.read()

for _ in range(2):
    ray.get(first.remote())
    assert ray.get(capture.remote()) == "captured\\ncaptured\\n"
""",
        prelude=TAGGED,
    )
    assert tagged(stdout) == [("first", "from the first")] * 2
    assert status == 0


def test_a_progress_bar_is_shown_as_it_was_last() -> None:
    stdout, _, status = run(
        r"""
@ray.remote
def bar():
    for percent in range(0, 101, 10):
        sys.stdout.write(f"\r{percent} %")
        sys.stdout.flush()
    sys.stdout.write("\n")
    print("windows\r")
    sys.stdout.write("50 %\r     \rdone\n")

ray.get(bar.remote())
""",
        prelude=TAGGED,
    )
    assert tagged(stdout) == [("bar", "100 %"), ("bar", "windows"), ("bar", "done")]
    assert status == 0


def test_a_line_without_an_end_is_shown_after_a_while() -> None:
    script = start_script(
        TAGGED
        + """
@ray.remote
def ask():
    sys.stdout.write("still here?")
    sys.stdout.flush()
    while not os.path.exists("seen"):
        time.sleep(0.002)

ray.get(ask.remote())
"""
    )
    deadline = time.monotonic() + LIMIT_S
    while not script.read_stdout().endswith("still here?\n"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    Sign(script.folder / "seen").put_up()
    result = script.finish(LIMIT_S)
    assert tagged(result.stdout) == [("ask", "still here?")]


def test_output_is_seen_soon_after_the_result() -> None:
    """Not with the next look of an idle engine, which may be a quarter of a second later."""
    script = start_script(
        TAGGED
        + """
@ray.remote
def speak(i):
    print("hello", i)

for i in range(20):
    ray.get(speak.remote(i))
    begin = time.monotonic()
    while open("../stdout").read().count("\\n") <= i:
        assert time.monotonic() < begin + 30
        time.sleep(0.0005)
    with open("delays", "a") as file:
        print(time.monotonic() - begin, file=file)
"""
    )
    result = script.finish(LIMIT_S)
    assert result.returncode == 0, result.stderr
    delays = sorted(map(float, (script.folder / "delays").read_text().split()))
    assert delays[10] < 0.1


def test_a_file_stays_short_while_the_printing_thread_is_stuck() -> None:
    near, far = os.pipe()
    try:
        program = subprocess.Popen(
            [
                sys.executable,
                "-c",
                TAGGED
                + """
def held():
    size = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "grainwise-output" in os.readlink(f"/proc/self/fd/{fd}"):
                size += os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
        except OSError:
            pass
    return size

@ray.remote
def shout():
    line = "x" * 999 + "\\n"
    for _ in range(20_000):
        sys.stdout.write(line)

for _ in range(10):
    ray.get(shout.remote())
deadline = time.monotonic() + 20
while held() > 80 << 20 and time.monotonic() < deadline:
    time.sleep(0.01)
sys.stderr.write(str(held() >> 20))
sys.stderr.flush()
os._exit(0)
""",
            ],
            stdout=far,
            stderr=subprocess.PIPE,
        )
        os.close(far)
        try:
            _, stderr = program.communicate(timeout=LIMIT_S)
        finally:
            program.kill()
    finally:
        os.close(near)
    assert int(stderr) <= 80


# --- never blocks -------------------------------------------------------------------------------------------

LOUD = """
@ray.remote
def shout(i):
    line = "x" * 999 + "\\n"
    for _ in range(10_000):
        sys.stdout.write(line)
        if {errors}:
            sys.stderr.write(line)
    return i

assert ray.get([shout.remote(i) for i in range({count})]) == list(range({count}))
"""


@pytest.mark.parametrize("errors", [False, True], ids=["output", "output and errors"])
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "ray.shutdown(); sys.exit(4)", "os._exit(5)"])
def test_output_that_nobody_reads_blocks_neither_tasks_nor_the_end(end: str, errors: bool) -> None:
    source = LOUD.format(errors=errors, count=2) + end
    expected = next((int(digit) for digit in end if digit.isdigit()), 0)
    assert run_with_unread_output(source, errors=errors) == expected


def test_a_hundred_megabytes_that_nobody_reads() -> None:
    assert run_with_unread_output(LOUD.format(errors=False, count=10)) == 0


def test_a_hundred_megabytes_that_are_read() -> None:
    """What is left out, if anything, is said; the last line of each worker is there."""
    stdout, stderr, status = run(
        LOUD.format(errors=False, count=10)
        + """
@ray.remote
def last():
    print("the last line")

ray.get(last.remote())
"""
    )
    assert (stderr, status) == ("", 0)
    lines = stdout.splitlines()
    assert "the last line" in lines
    assert lines.count("x" * 999) == 100_000 or any("dropped" in line for line in lines)


def test_ten_megabytes_arrive_complete() -> None:
    stdout, _, status = run(LOUD.format(errors=False, count=1))
    assert stdout == ("x" * 999 + "\n") * 10_000
    assert status == 0


def test_memory_of_output_is_given_back() -> None:
    """A task may print for days: what has been shown takes no memory."""
    stdout, stderr, status = run(
        """
@ray.remote
def shout():
    for _ in range(20_000):
        sys.stdout.write("x" * 999 + "\\n")
        if _ % 1000 == 0:
            time.sleep(0.005)  # a task that prints steadily

def held():
    size = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "grainwise-output" in os.readlink(f"/proc/self/fd/{fd}"):
                size += os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
        except OSError:
            pass
    return size

for _ in range(5):
    ray.get(shout.remote())
deadline = time.monotonic() + 20
while held() > 8 << 20 and time.monotonic() < deadline:
    time.sleep(0.01)
print("held", held(), file=sys.stderr)
"""
    )
    assert int(stderr.split()[-1]) <= 8 << 20
    assert status == 0
    assert stdout.count("\n") == 100_000


@pytest.mark.parametrize(
    "close",
    [
        "sys.stdout.close()",
        "os.close(1)",
        "sys.stdout = None",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = open('/dev/full', 'w')",
        "import io; sys.stdout = io.BytesIO()",
    ],
)
def test_without_a_standard_output_tasks_run_all_the_same(close: str) -> None:
    result = run_script(
        PRELUDE
        + f"""
@ray.remote
def speak(i):
    print("into the void", i)
    return i

{close}
ok = ray.get([speak.remote(i) for i in range(100)]) == list(range(100))
with open("result", "w") as file:
    file.write(str(ok))
ray.shutdown()
os._exit(0)
""",
        timeout=LIMIT_S,
    )
    assert (result.folder / "result").read_text() == "True"
    assert result.returncode == 0
    assert_nothing_left(result.mark)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_program_started_without_standard_streams(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """As services are."""
    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + """
@ray.remote
def speak(i):
    print("into the void", i, flush=True)
    print("into the void", i, file=sys.stderr)
    return i

assert ray.get([speak.remote(i) for i in range(100)]) == list(range(100))
large = ray.put(bytes(1 << 20))
assert ray.get(ray.remote(len).remote(large)) == 1 << 20
ray.shutdown()
with open("result", "w") as file:
    file.write("fine")
"""
    )
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    command = f'exec "{sys.executable}" program.py {redirections}'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result").read_text() == "fine"


def test_a_reader_that_goes_away_ends_nothing_but_the_output() -> None:
    """`program | head -1`."""
    near, far = os.pipe()
    program = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + LOUD.format(errors=False, count=2) + "os._exit(6)"],
        stdout=far,
        stderr=subprocess.PIPE,
    )
    os.close(far)
    with os.fdopen(near) as reader:
        assert reader.readline() == "x" * 999 + "\n"
    _, stderr = program.communicate(timeout=LIMIT_S)
    assert (stderr, program.returncode) == (b"", 6)


# --- silence ------------------------------------------------------------------------------------------------


def test_a_program_with_large_arrays_says_nothing_of_its_own() -> None:
    pytest.importorskip("numpy")
    stdout, stderr, status = run(
        """
import numpy as np

@ray.remote
def work(array, i):
    return array + i

array = np.ones(1_250_000)
refs = [work.remote(array, i) for i in range(20)]
kept = ray.get(refs)
assert [int(a[0]) for a in kept] == list(range(1, 21))
nested = [work.remote(ref, 1) for ref in refs]
assert [int(a[-1]) for a in ray.get(nested)] == list(range(2, 22))
"""
    )
    assert (stdout, stderr, status) == ("", "", 0)


def test_a_thread_that_prints_while_the_session_ends() -> None:
    """Streams of the program are used by others, too: no lock is left behind, no line torn."""
    stdout, stderr, status = run(
        r"""
import threading
is_over = False
count = 0
def chat():
    global count
    while not is_over:
        sys.stdout.write("from the program\n")  # print() would write the end of the line by itself
        count += 1

thread = threading.Thread(target=chat)
thread.start()

@ray.remote
def speak(i):
    print("from a task")

for _ in range(3):
    ray.init(num_cpus=2, tag_output=False, ignore_reinit_error=True)
    ray.get([speak.remote(i) for i in range(200)])
    ray.shutdown()
is_over = True
thread.join()
print("count", count)
"""
    )
    lines = stdout.splitlines()
    assert lines.count("from a task") == 600
    assert lines[-1] == f"count {lines.count('from the program')}"
    assert (stderr, status) == ("", 0)


def test_threads_are_idle_in_a_quiet_session() -> None:
    """Output costs no thread until there is some."""
    before = threading.active_count()
    ray.init(num_cpus=1)
    assert ray.get(ray.remote(len).remote("abc"), timeout=LIMIT_S) == 3
    assert threading.active_count() <= before + 1
