"""Programs that fork: the child is refused with a clear error, the parent notices nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ..leaks import assert_nothing_left, run_script, start_script
from .full_pool import LIMIT_S
from .signposts import Sign, wait_until_gone

PRELUDE = """
import os, signal, sys, threading, time, warnings
import grainwise as ray
from grainwise.errors import EngineClosedError

@ray.remote
def double(x):
    return 2 * x

warnings.simplefilter("ignore")  # newer interpreters warn of forks beside threads: that is what is tested

def check_engine():
    assert ray.get([double.remote(i) for i in range(300)], timeout=60) == [2 * i for i in range(300)]

def check_child(pid, status=0):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status

ray.init(num_cpus=2)
check_engine()
"""


def run_cleanly(source: str, stdout: str = "fine\n") -> None:
    result = run_script(PRELUDE + source, timeout=LIMIT_S)
    assert (result.stdout, result.stderr, result.returncode) == (stdout, "", 0)
    assert_nothing_left(result.mark)


# --- the program forks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leave", "status"), [("os._exit(7)", 7), ("sys.exit(8)", 8), ("raise SystemExit(9)", 9), ("pass", 0)]
)
def test_a_child_ends_in_its_own_way_and_the_parent_goes_on(leave: str, status: int) -> None:
    """Also when the child runs its exit handlers, with tasks of the parent under way."""
    run_cleanly(
        f"""
refs = [double.remote(i) for i in range(1_000)]
pid = os.fork()
if pid == 0:
    {leave}
else:
    check_child(pid, {status})
    assert ray.get(refs, timeout=60) == [2 * i for i in range(1_000)]
    check_engine()
    print("fine")
"""
    )


def test_every_word_is_refused_in_a_child() -> None:
    run_cleanly(
        """
fresh = ray.remote(lambda x: x)
ref, done = double.remote(1), double.remote(2)
ray.get(done)
words = {
    "remote": lambda: double.remote(1),
    "remote, bound before": lambda: [double.remote(i) for i in range(1_000)],
    "first remote": lambda: fresh.remote(1),
    "options": lambda: double.options(num_cpus=0).remote(1),
    "keyword": lambda: double.remote(x=[1]),
    "put": lambda: ray.put([1]),
    "get": lambda: ray.get(ref),
    "get of many": lambda: ray.get([ref, done]),
    "get, in time": lambda: ray.get(ref, timeout=0),
    "wait": lambda: ray.wait([ref]),
    "cancel": lambda: ray.cancel(ref),
    "future": lambda: ref.future(),
    "init": lambda: ray.init(),
}
pid = os.fork()
if pid == 0:
    status = 0
    for name, word in words.items():
        try:
            word()
        except EngineClosedError as error:
            if "forked" not in str(error):
                print(name, error)
        except BaseException as error:
            print(name, repr(error))
        else:
            print(name, "was not refused")
    assert not ray.is_initialized()
    ray.shutdown()
    sys.exit(5)
check_child(pid, 5)
assert ray.get(ref, timeout=60) == 2
check_engine()
print("fine")
"""
    )


def test_multiprocessing_forks_beside_the_engine() -> None:
    run_cleanly(
        """
import multiprocessing

def square(x):
    return x * x

context = multiprocessing.get_context("fork")
refs = [double.remote(i) for i in range(1_000)]
with context.Pool(2) as pool:
    assert pool.map(square, range(100)) == [i * i for i in range(100)]
child = context.Process(target=sys.exit, args=(4,))
child.start()
child.join()
assert child.exitcode == 4
assert ray.get(refs, timeout=60) == [2 * i for i in range(1_000)]
check_engine()
print("fine")
"""
    )


def test_a_child_may_start_an_engine_of_its_own_once_the_parent_s_has_ended() -> None:
    run_cleanly(
        """
ray.shutdown()
pid = os.fork()
if pid == 0:
    ray.init(num_cpus=1)
    check_engine()
    ray.shutdown()
    os._exit(0)
check_child(pid)
ray.init(num_cpus=1)
check_engine()
print("fine")
"""
    )


def test_a_library_that_was_only_imported_may_be_forked() -> None:
    result = run_script(
        """
import os
import grainwise as ray

@ray.remote
def double(x):
    return 2 * x

pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        ray.init(num_cpus=1)
        assert ray.get(double.remote(4), timeout=60) == 8
        ray.shutdown()
        os._exit(0)
    pids.append(pid)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
assert ray.get(double.remote(5), timeout=60) == 10
print("fine")
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)
    assert_nothing_left(result.mark)


def test_a_child_that_lives_on_does_not_keep_the_parent_s_processes() -> None:
    """The session's processes go when it ends, whoever else holds copies of its descriptors."""
    run_cleanly(
        """
near, far = os.pipe()
worker = ray.get(ray.remote(os.getpid).remote())
pid = os.fork()
if pid == 0:
    os.close(far)
    os.read(near, 1)  # until the parent lets go
    os._exit(0)
begin = time.monotonic()
ray.shutdown()
assert time.monotonic() - begin < 4.5  # it would be killed after five
try:
    os.kill(worker, 0)
except ProcessLookupError:
    print("fine")
os.close(far)
check_child(pid)
"""
    )


def test_nor_does_it_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = start_script(
        PRELUDE
        + f"""
worker = ray.get(ray.remote(os.getpid).remote())
pid = os.fork()
if pid == 0:
    with open({str(tmp_path / "draft")!r}, "w") as file:
        file.write(f"{{worker}} {{os.getpid()}}")
    os.rename({str(tmp_path / "draft")!r}, {str(tmp_path / "born")!r})
    signal.pause()
signal.pause()
"""
    )
    worker, child = map(int, Sign(tmp_path / "born").wait().split())
    script.kill()
    script.wait()
    try:
        wait_until_gone(worker)
    finally:
        os.kill(child, signal.SIGKILL)
    result = script.finish(LIMIT_S)
    assert_nothing_left(result.mark)


def test_forks_from_a_thread_while_others_submit() -> None:
    run_cleanly(
        """
is_over = False
counts = []
def submit():
    count = 0
    while not is_over or count < 200:
        refs = [double.remote(i) for i in range(50)]
        assert ray.get(refs, timeout=60) == [2 * i for i in range(50)]
        count += 50
    counts.append(count)

threads = [threading.Thread(target=submit) for _ in range(3)]
for thread in threads:
    thread.start()

def fork():
    for i in range(40):
        pid = os.fork()
        if pid == 0:
            try:
                double.remote(1)
            except EngineClosedError:
                os._exit(i)
            os._exit(99)
        check_child(pid, i)

forker = threading.Thread(target=fork)
forker.start()
forker.join()
is_over = True
for thread in threads:
    thread.join()
assert len(counts) == 3
print("fine")
"""
    )


def test_ctrl_c_reaches_a_child() -> None:
    """Whatever the parent's threads were doing when it was born."""
    run_cleanly(
        """
is_over = False
def submit():
    while not is_over:
        ray.get([double.remote(i) for i in range(20)], timeout=60)

def fork():
    global is_over
    try:
        for _ in range(20):
            near, far = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(far, b"!")
                    while True:
                        time.sleep(0.01)
                except KeyboardInterrupt:
                    os._exit(6)
            os.read(near, 1)
            os.kill(pid, signal.SIGINT)
            check_child(pid, 6)
            os.close(near)
            os.close(far)
    finally:
        is_over = True

forker = threading.Thread(target=fork)
forker.start()
submit()
forker.join()
print("fine")
"""
    )


def test_a_busy_program_with_warm_blas_starts_the_engine_again_and_again() -> None:
    """Twenty threads in the middle of anything: nobody is copied while it holds a lock."""
    pytest.importorskip("numpy")
    run_cleanly(
        """
import logging
import numpy as np
ray.shutdown()
is_over = False
matrix = np.random.default_rng(0).random((150, 150))
log = logging.getLogger("busy")
log.addHandler(logging.NullHandler())
def busy():
    while not is_over:
        matrix @ matrix
        log.error("working")
        time.sleep(0.001)

threads = [threading.Thread(target=busy) for _ in range(20)]
for thread in threads:
    thread.start()

@ray.remote
def total(a):
    return float((a @ a).sum())

expected = float((matrix @ matrix).sum())
try:
    for _ in range(10):
        ray.init(num_cpus=2)
        assert abs(ray.get(total.remote(matrix), timeout=60) - expected) < 1e-6 * expected
        ray.shutdown()
finally:
    is_over = True
for thread in threads:
    thread.join()
print("fine")
"""
    )
