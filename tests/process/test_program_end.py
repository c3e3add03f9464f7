"""The user's program ends with work in flight: promptly, with its own exit code and its own last words."""

from __future__ import annotations

import os
import sys

import pytest

from tests.leaks import ScriptResult, assert_nothing_left, run_script

from .full_pool import LIMIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PATH = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

BUSY = """
import os, sys, threading, time
import grainwise as ray

@ray.remote
def hang(i):
    while True:
        time.sleep(1000)

@ray.remote
def double(x):
    return 2 * x

ray.init(num_cpus=2)
assert ray.get(double.remote(1)) == 2
refs = [hang.remote(i) for i in range(2)] + [double.remote(i) for i in range(1000)]
dependant = double.remote(refs[0])
future = refs[0].future()
array = ray.put(bytes(1 << 20))
"""


def run_to_the_end(source: str) -> ScriptResult:
    result = run_script(source, timeout=LIMIT_S, env=PATH)
    assert_nothing_left(result.mark)
    return result


ENDINGS = {
    "end of the script": ("print('last line')", 0, ""),
    "sys.exit()": ("print('last line'); sys.exit()", 0, ""),
    "sys.exit(3)": ("print('last line'); sys.exit(3)", 3, ""),
    "sys.exit('text')": ("print('last line'); sys.exit('because')", 1, "because\n"),
    "os._exit(4)": ("print('last line', flush=True); os._exit(4)", 4, ""),
    "in a function": ("def f():\n    local = refs\n    print('last line'); sys.exit(5)\nf()", 5, ""),
    "while a task prints": ("print('last line')\nray.remote(lambda: print('x' * 10**6)).remote()", 0, ""),
    "after shutdown": ("ray.shutdown(); print('last line'); sys.exit(6)", 6, ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_program_that_ends_with_work_in_flight(name: str) -> None:
    ending, status, stderr = ENDINGS[name]
    result = run_to_the_end(BUSY + ending)
    assert (result.returncode, result.stderr) == (status, stderr)
    assert "last line\n" in result.stdout


def test_an_uncaught_error_is_the_last_word() -> None:
    result = run_to_the_end(BUSY + "raise KeyError('nobody catches this')")
    assert result.returncode == 1
    assert result.stderr.count("Traceback") == 1
    assert result.stderr.endswith("KeyError: 'nobody catches this'\n")


def test_an_uncaught_error_of_a_task_is_the_last_word() -> None:
    source = BUSY + "ray.get(ray.remote(lambda: 1 / 0).options(name='divides', num_cpus=0).remote())"
    result = run_to_the_end(source)
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ZeroDivisionError): division by zero")


def test_an_uncaught_error_while_refs_live_in_its_traceback() -> None:
    ending = """
def deep(refs, n):
    held = ray.get(array)
    if n == 0:
        raise ValueError("deep down")
    deep(refs, n - 1)

deep(refs, 5)
"""
    result = run_to_the_end(BUSY + ending)
    assert result.returncode == 1
    assert result.stderr.endswith("ValueError: deep down\n")


# --- threads ------------------------------------------------------------------------------------------------


def test_a_daemon_thread_that_waits_for_ever_does_not_matter() -> None:
    ending = """
started = threading.Event()

def wait():
    started.set()
    ray.get(refs[0])

threading.Thread(target=wait, daemon=True).start()
started.wait()
sys.exit(3)
"""
    result = run_to_the_end(BUSY + ending)
    assert (result.returncode, result.stderr) == (3, "")


def test_a_thread_at_work_is_waited_for_as_python_does() -> None:
    """The main thread ends first; a thread that is not a daemon goes on, and its tasks with it."""
    source = """
import threading
import grainwise as ray

double = ray.remote(lambda x: 2 * x)
main_is_over = threading.Event()

def work():
    threading.main_thread().join()
    print(sum(ray.get([double.remote(i) for i in range(1000)])))
    print(ray.get(double.remote(21)))

ray.init(num_cpus=2)
ray.get(double.remote(0))
threading.Thread(target=work).start()
"""
    result = run_to_the_end(source)
    assert (result.stdout, result.stderr) == ("999000\n42\n", "")
    assert result.returncode == 0


def test_a_thread_in_get_is_waited_for_as_python_does() -> None:
    """It waits for a task that ends only after the main thread has."""
    source = """
import os, threading
import grainwise as ray

os.mkfifo("gate")
gated = ray.remote(lambda path: open(path).read())
ray.init(num_cpus=2)
ref = gated.remote(os.path.abspath("gate"))

def open_gate():
    threading.main_thread().join()
    with open("gate", "w") as file:
        file.write("opened")

threading.Thread(target=open_gate).start()
threading.Thread(target=lambda: print(ray.get(ref, timeout=30))).start()
"""
    result = run_to_the_end(source)
    assert (result.stdout, result.stderr, result.returncode) == ("opened\n", "", 0)


def test_an_engine_started_by_a_thread_that_outlives_the_main_thread() -> None:
    source = """
import threading
import grainwise as ray

def work():
    threading.main_thread().join()
    print(ray.get(ray.remote(lambda: 42).remote(), timeout=30))

threading.Thread(target=work).start()
"""
    result = run_to_the_end(source)
    assert (result.stdout, result.stderr, result.returncode) == ("42\n", "", 0)


def test_a_session_started_in_a_thread_that_has_ended() -> None:
    source = """
import threading
import grainwise as ray

thread = threading.Thread(target=lambda: ray.init(num_cpus=2))
thread.start()
thread.join()
double = ray.remote(lambda x: 2 * x)
print(sum(ray.get([double.remote(i) for i in range(1000)], timeout=30)))
"""
    result = run_to_the_end(source)
    assert (result.stdout, result.stderr, result.returncode) == ("999000\n", "", 0)


def test_sys_exit_in_a_thread_ends_only_the_thread() -> None:
    ending = """
thread = threading.Thread(target=sys.exit, args=(9,))
thread.start()
thread.join()
print(ray.get(double.remote(4)) if False else "main")
sys.exit(2)
"""
    result = run_to_the_end(BUSY + ending)
    assert (result.stdout, result.returncode) == ("main\n", 2)


# --- exit handlers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_handler_of_the_program_shuts_down_by_itself(when: str) -> None:
    register = "import atexit; atexit.register(lambda: (ray.shutdown(), print('handler')))\n"
    source = "import grainwise as ray\n" + (register + BUSY if when == "before" else BUSY + register)
    result = run_to_the_end(source + "\nsys.exit(3)")
    assert (result.stdout, result.stderr, result.returncode) == ("handler\n", "", 3)


def test_a_handler_that_still_runs_tasks() -> None:
    """Registered after the session began, so Python runs it before the session's own end."""
    source = """
import atexit, sys
import grainwise as ray

double = ray.remote(lambda x: 2 * x)
ray.init(num_cpus=2)
kept = double.remote(20)
atexit.register(lambda: print(ray.get(double.remote(21), timeout=30), ray.get(kept, timeout=30)))
sys.exit(3)
"""
    result = run_to_the_end(source)
    assert (result.stdout, result.stderr, result.returncode) == ("42 40\n", "", 3)


def test_a_finalizer_that_asks_for_results_at_the_very_end() -> None:
    """Too late: whatever it gets, the program ends with its own exit code."""
    ending = """
class Late:
    def __del__(self):
        try:
            ray.get(refs[0], timeout=30)
        except BaseException:
            pass

late = Late()
late.cycle = late
sys.exit(3)
"""
    result = run_to_the_end(BUSY + ending)
    assert (result.returncode, result.stderr) == (3, "")


def test_results_alive_at_the_very_end() -> None:
    """Arrays, refs and futures in module globals are taken down by the interpreter in any order."""
    ending = """
import numpy as np

arrays = ray.get([ray.remote(lambda i: np.full(300_000, i)).options(num_cpus=0).remote(i) for i in range(4)])
views = [a[10:20] for a in arrays]
sys.modules["keeps_them"] = type(sys)("keeps_them")
sys.modules["keeps_them"].everything = (arrays, views, refs, dependant, future, array, hang, double)
"""
    result = run_to_the_end(BUSY + ending)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("form", ["file", "command", "stdin"])
def test_every_way_to_start_a_program(form: str) -> None:
    source = BUSY + "print('last line'); sys.exit(3)"
    result = run_script(source, timeout=LIMIT_S, env=PATH, form=form)  # type: ignore[arg-type]
    assert_nothing_left(result.mark)
    assert (result.stdout, result.stderr, result.returncode) == ("last line\n", "", 3)


def test_a_program_that_never_uses_its_session() -> None:
    result = run_to_the_end("import sys\nimport grainwise as ray\nray.init(num_cpus=2)\nsys.exit(3)")
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 3)


def test_a_program_that_ends_while_its_workers_start() -> None:
    source = """
import sys
import grainwise as ray

refs = [ray.remote(lambda x: x).remote(i) for i in range(1000)]
sys.exit(3)
"""
    result = run_to_the_end(source)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 3)


def test_a_closed_standard_output() -> None:
    """As after `program | head`: what tasks print goes nowhere, and the exit code stays."""
    ending = """
ray.get(ray.remote(lambda: print("from a task")).options(num_cpus=0).remote())
os.close(1)
os.close(2)
sys.stdout = sys.stderr = None
sys.exit(3)
"""
    assert run_to_the_end(BUSY + ending).returncode == 3
