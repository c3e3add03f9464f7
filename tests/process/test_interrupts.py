"""Ctrl-C and SIGTERM: the program gets its exception at once; the engine is usable or cleanly gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..leaks import Script, assert_nothing_left, run_script, start_script
from .full_pool import LIMIT_S
from .signposts import Sign

SOON_S = 1.0

PRELUDE = """
import os, signal, sys, threading, time
import grainwise as ray

def up(name, text=""):
    with open(name + ".draft", "w") as file:
        file.write(str(text))
    os.rename(name + ".draft", name)

def wait_for(name, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not os.path.exists(name):
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.002)

@ray.remote
def double(x):
    return 2 * x

@ray.remote
def hold(begun, gate):
    up(begun)
    wait_for(gate)
    return "held"

def check_engine():
    assert ray.get([double.remote(i) for i in range(500)], timeout=60) == [2 * i for i in range(500)]

ray.init(num_cpus=2)
"""


def interrupt(script: Script) -> None:
    """Ctrl-C as a program gets it that is alone in its group."""
    os.kill(script.pid, signal.SIGINT)


def interrupt_group(script: Script) -> None:
    """Ctrl-C as a terminal sends it: to every process of the group."""
    os.killpg(script.pid, signal.SIGINT)


both_ways = pytest.mark.parametrize("press", [interrupt, interrupt_group])


def finish_cleanly(script: Script, stdout: str) -> None:
    result = script.finish(LIMIT_S)
    assert (result.stdout, result.stderr, result.returncode) == (stdout, "", 0)
    assert_nothing_left(result.mark)


# --- caught: the engine goes on -----------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    "wait", ["ray.get(ref)", "ray.wait([ref])", "ray.get([ref] * 3, timeout=1000)", "ref.future().result()"]
)
def test_a_waiting_program_is_interrupted_and_goes_on(wait: str, press: Callable[[Script], None]) -> None:
    script = start_script(
        PRELUDE
        + f"""
ref = hold.remote("begun", "gate")
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted")
check_engine()
up("gate")
print(ray.get(ref, timeout=60))  # the task itself went on
"""
    )
    Sign(script.folder / "begun").wait()
    press(script)
    finish_cleanly(script, "interrupted\nheld\n")


def test_a_submitting_program_is_interrupted_and_loses_no_task() -> None:
    script = start_script(
        PRELUDE
        + """
refs = []
try:
    while True:
        refs.append(double.remote(len(refs)))
        if len(refs) == 5_000:
            up("begun")
except KeyboardInterrupt:
    print("interrupted")
assert ray.get(refs, timeout=60) == [2 * i for i in range(len(refs))]
check_engine()
"""
    )
    Sign(script.folder / "begun").wait()
    interrupt(script)
    finish_cleanly(script, "interrupted\n")


@pytest.mark.parametrize(
    "start",
    [
        "",
        "ray.shutdown(); in_thread(lambda: ray.init(num_cpus=2))",
        "in_thread(ray.shutdown); ray.init(num_cpus=2)",
    ],
    ids=["", "started by a thread", "after a session that a thread has ended"],
)
def test_two_hundred_interrupts_at_any_moment_lose_nothing(start: str) -> None:
    """In the middle of submitting, sending, receiving and unpickling; every task still has its result."""
    script = start_script(
        PRELUDE
        + f"""
def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

{start}
"""
        + """
import random

hurry = random.Random(0)
armed = threading.Semaphore(0)
is_over = False

def press():
    while True:
        armed.acquire()
        if is_over:
            return
        end = time.perf_counter() + hurry.random() * 0.003
        while time.perf_counter() < end:
            pass
        os.kill(os.getpid(), signal.SIGINT)

assert ray.get(double.remote([1]), timeout=60) == [1, 1]  # all is loaded that is loaded late
presser = threading.Thread(target=press)
presser.start()
count = 0
everything = []
while count < 200:
    refs = []
    try:
        armed.release()
        while True:
            for i in range(20):
                refs.append(None)
                refs[-1] = double.remote([i])
            ray.get([ref for ref in refs[-20:] if ref is not None])
    except KeyboardInterrupt:
        count += 1
    everything += [(ref, i % 20) for i, ref in enumerate(refs) if ref is not None]
is_over = True
armed.release()
presser.join()
values = ray.get([ref for ref, _ in everything], timeout=60)
assert values == [[i, i] for _, i in everything]
check_engine()
print("fine")
"""
    )
    finish_cleanly(script, "fine\n")


def test_interrupts_among_large_values_lose_neither_values_nor_interrupts() -> None:
    """Whatever is being stored, mapped or dropped at that moment; each one ends in KeyboardInterrupt."""
    pytest.importorskip("numpy")
    script = start_script(
        PRELUDE
        + """
import random
import numpy as np

@ray.remote
def same(array):
    return array

ray.get(same.remote(np.ones(10_000)))
hurry = random.Random(0)
armed = threading.Semaphore(0)
is_over = False

def press():
    while True:
        armed.acquire()
        if is_over:
            return
        end = time.perf_counter() + hurry.random() * 0.002
        while time.perf_counter() < end:
            pass
        os.kill(os.getpid(), signal.SIGINT)

def check(ref, number):
    array = ray.get(ref, timeout=60)
    assert array.shape == (10_000 + number,) and (array == number).all()

presser = threading.Thread(target=press)
presser.start()
count = number = 0
kept = []
deadline = time.monotonic() + 60
while count < 150 and time.monotonic() < deadline:
    try:
        armed.release()
        while time.monotonic() < deadline:
            number += 1
            array = np.full(10_000 + number, float(number))
            kept.append((same.remote(array) if number % 2 else ray.put(array), number))
            if len(kept) > 40:
                check(*kept.pop(number % 40))
    except KeyboardInterrupt:
        count += 1
is_over = True
armed.release()
presser.join()
for ref, number in kept:
    check(ref, number)
check_engine()
print(count)
"""
    )
    finish_cleanly(script, "150\n")


def test_an_interrupt_inside_a_nested_wait_reaches_the_program_only() -> None:
    script = start_script(
        PRELUDE
        + """
@ray.remote
def parent():
    return ray.get(hold.remote("begun", "gate"))

ref = parent.remote()
try:
    ray.get(ref)
except KeyboardInterrupt:
    print("interrupted")
up("gate")
print(ray.get(ref, timeout=60))
"""
    )
    Sign(script.folder / "begun").wait()
    interrupt_group(script)
    finish_cleanly(script, "interrupted\nheld\n")


# --- maps ---------------------------------------------------------------------------------------------------

MAP_PRELUDE = (
    PRELUDE
    + """
import asyncio

def hold_item(name):
    up(f"{name} begun")
    wait_for("never")

def hold_two(name, _):
    hold_item(name)

def read_slowly():
    yield 1
    up("item begun")
    wait_for("never")

async def collect(results):
    return [value async for value in results]

def consume(results):
    for value in results:
        up("item begun")
        wait_for("never")

def check():
    assert list(ray.map(abs, range(-500, 0))) == list(range(500, 0, -1))
    check_engine()
"""
)


@both_ways
@pytest.mark.parametrize(
    "run",
    [
        "list(ray.map(hold_item, ['item'] * 20))",
        "list(ray.map(hold_item, ['item'] * 20, ordered=False, timeout=1000))",
        "list(ray.map(hold_item, iter(['item'] * 20), retries=3, return_exceptions=True, progress=True))",
        "list(ray.starmap(hold_two, [('item', i) for i in range(20)]))",
        "asyncio.run(collect(ray.map(hold_item, ['item'] * 20)))",
        "list(ray.map(abs, read_slowly()))",
        "consume(ray.map(abs, range(1000)))",
    ],
    ids=["map", "unordered", "safe", "starmap", "asynchronous", "in the input", "in the loop's body"],
)
def test_a_map_is_interrupted_at_once_and_its_items_too(run: str, press: Callable[[Script], None]) -> None:
    script = start_script(
        MAP_PRELUDE
        + f"""
try:
    {run}
except KeyboardInterrupt:
    up("interrupted")
check()  # needs the workers of the items that would never end
print("fine")
"""
    )
    Sign(script.folder / "item begun").wait()
    begin = time.monotonic()
    press(script)
    Sign(script.folder / "interrupted").wait()
    assert time.monotonic() - begin < SOON_S
    finish_cleanly(script, "fine\n")


@pytest.mark.parametrize(
    "work", ["ray.get(hold.remote('item begun', 'never'))", "list(ray.map(hold_item, ['item'] * 4))"]
)
def test_a_second_interrupt_in_quick_succession_is_one_more_keyboard_interrupt(work: str) -> None:
    """It may come while the first is on its way out, or behind it; the program sees one, or two."""
    script = start_script(
        MAP_PRELUDE
        + f"""
def work():
    try:
        {work}
    finally:
        wait_for("pressed twice")

try:
    try:
        work()
    finally:
        wait_for("pressed twice")
except KeyboardInterrupt:
    print("interrupted")
check()
"""
    )
    Sign(script.folder / "item begun").wait()
    interrupt_group(script)
    interrupt_group(script)
    Sign(script.folder / "pressed twice").put_up()
    finish_cleanly(script, "interrupted\n")


def test_interrupts_at_any_moment_of_maps_lose_nothing() -> None:
    """While it reads, sends, waits, or cancels; every interrupt arrives, and the next map is right."""
    script = start_script(
        MAP_PRELUDE
        + """
import random

hurry = random.Random(3)
armed = threading.Semaphore(0)
is_over = False

def press():
    while True:
        armed.acquire()
        if is_over:
            return
        end = time.perf_counter() + hurry.random() * 0.003
        while time.perf_counter() < end:
            pass
        os.kill(os.getpid(), signal.SIGINT)

def box(x):
    return [x]

def read(count):
    for i in range(count):
        yield [i]

assert list(ray.map(box, read(10))) == [[[i]] for i in range(10)]
presser = threading.Thread(target=press)
presser.start()
count = 0
deadline = time.monotonic() + 60
while count < 150 and time.monotonic() < deadline:
    try:
        armed.release()
        while time.monotonic() < deadline:
            assert list(ray.map(abs, range(300))) == list(range(300))
            assert list(ray.map(box, read(30), retries=1)) == [[[i]] for i in range(30)]
            with ray.map(abs, range(1000), ordered=False, timeout=1000) as results:
                assert next(results) < 1000
    except KeyboardInterrupt:
        count += 1
is_over = True
armed.release()
presser.join()
check()
print(count)
"""
    )
    finish_cleanly(script, "150\n")


# --- not caught: the program ends ---------------------------------------------------------------------------


@both_ways
def test_an_uncaught_interrupt_ends_the_program_with_one_traceback(press: Callable[[Script], None]) -> None:
    script = start_script(
        PRELUDE
        + """
refs = [hold.remote("begun", "gate")] + [double.remote(i) for i in range(100)]
ray.get(refs)
"""
    )
    Sign(script.folder / "begun").wait()
    press(script)
    result = script.finish(LIMIT_S)
    assert result.returncode == -signal.SIGINT
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")
    assert_nothing_left(result.mark)


def test_pressing_again_and_again_still_ends_it_cleanly() -> None:
    """Impatient users press Ctrl-C until the prompt is back."""
    script = start_script(PRELUDE + 'ray.get([hold.remote("begun", "gate"), hold.remote("begun", "gate")])')
    Sign(script.folder / "begun").wait()
    interrupt_group(script)
    while script.poll() is None:
        interrupt_group(script)
        os.sched_yield()
    result = script.finish(LIMIT_S)
    assert result.returncode != 0
    assert "Fatal Python error" not in result.stderr
    assert_nothing_left(result.mark)


def test_sigterm_ends_the_program_and_everything_with_it() -> None:
    script = start_script(PRELUDE + 'ray.get([hold.remote("begun", "gate") for _ in range(4)])')
    Sign(script.folder / "begun").wait()
    script.send_signal(signal.SIGTERM)
    result = script.finish(LIMIT_S)
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGTERM, "", "")
    assert_nothing_left(result.mark)


def test_an_interrupt_in_asyncio_leaves_the_engine_usable() -> None:
    script = start_script(
        PRELUDE
        + """
import asyncio
async def main():
    await hold.remote("begun", "gate")
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
check_engine()
"""
    )
    Sign(script.folder / "begun").wait()
    interrupt(script)
    finish_cleanly(script, "interrupted\n")


def test_an_interrupt_while_the_engine_starts_or_ends_leaves_nothing(tmp_path: Path) -> None:
    result = run_script(
        """
import os, random, signal, threading, time
import grainwise as ray

@ray.remote
def double(x):
    return 2 * x

hurry = random.Random(2)
ray.init(num_cpus=1)
ray.get(double.remote(1))
ray.shutdown()
before = len(os.listdir("/proc/self/fd"))
for _ in range(30):
    presser = threading.Timer(hurry.random() * 0.1, os.kill, (os.getpid(), signal.SIGINT))
    try:
        presser.start()
        while True:
            ray.init(num_cpus=1)
            ray.get(double.remote(1))
            ray.shutdown()
    except KeyboardInterrupt:
        pass
    ray.shutdown()
    presser.join()
after = len(os.listdir("/proc/self/fd"))
print("fine" if after <= before else f"{after - before} descriptors more")
children = os.popen(f"ps -o pid= --ppid {os.getpid()}").read().split()
print(len(children) <= 1)  # ps's own shell
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr) == ("fine\nTrue\n", "")
    assert_nothing_left(result.mark)
