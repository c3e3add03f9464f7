"""Handlers of the program's own: they stay in place, may use or end the engine, and may raise at any time."""

from __future__ import annotations

from ..leaks import assert_nothing_left, run_script, start_script
from .full_pool import LIMIT_S
from .signposts import Sign
from .test_interrupts import PRELUDE, finish_cleanly, interrupt


def test_a_handler_of_the_program_s_own_stays_in_place() -> None:
    script = start_script(
        """
import signal
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
"""
        + PRELUDE
        + """
ref = hold.remote("begun", "gate")
threading.Thread(target=lambda: (wait_for("pressed"), up("gate"))).start()
print(ray.get(ref, timeout=60), len(caught))
ray.shutdown()
os.kill(os.getpid(), signal.SIGINT)
print(len(caught))
"""
    )
    Sign(script.folder / "begun").wait()
    interrupt(script)
    Sign(script.folder / "pressed").put_up()
    finish_cleanly(script, "held 1\n2\n")


def test_python_s_handler_is_back_after_the_end() -> None:
    result = run_script(
        PRELUDE
        + """
check_engine()
ray.shutdown()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr) == ("True\n", "")


def test_a_handler_may_end_the_session_while_the_program_waits() -> None:
    """Its alarm clock shuts the engine down; the program is told and nothing hangs."""
    result = run_script(
        PRELUDE
        + """
from grainwise.errors import EngineClosedError
ref = hold.remote("begun", "gate")
ray.wait([ref], timeout=0)
wait_for("begun")
signal.signal(signal.SIGALRM, lambda *_: ray.shutdown())
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    ray.get(ref)
except EngineClosedError as error:
    print(error)
print(ray.is_initialized())
check_engine()
""",
        timeout=LIMIT_S,
    )
    told, *rest = result.stdout.splitlines()
    assert "shut down" in told
    assert (rest, result.stderr, result.returncode) == (["False"], "", 0)
    assert_nothing_left(result.mark)


def test_a_handler_may_end_the_session_while_the_program_submits() -> None:
    """What was submitted before fails, what comes after belongs to a new session; nothing hangs."""
    result = run_script(
        PRELUDE
        + """
from grainwise.errors import EngineClosedError
check_engine()
is_over = False
def on_alarm(*_):
    global is_over
    ray.shutdown()
    is_over = True
signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.05)
refs = []
while not is_over:
    try:
        refs.append(double.remote(len(refs)))
    except EngineClosedError:  # the alarm rang in the middle of this very call
        refs.append(double.remote(len(refs)))
outcomes = set()
refs += [double.remote(len(refs) + i) for i in range(10)]
for i, ref in enumerate(refs):
    try:
        assert ray.get(ref, timeout=60) == 2 * i
        outcomes.add("value")
    except EngineClosedError:
        outcomes.add("closed")
print(sorted(outcomes))
check_engine()
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("['closed', 'value']\n", "", 0)
    assert_nothing_left(result.mark)


def test_a_handler_may_use_the_engine_while_the_program_waits() -> None:
    """It interrupts `get` in the very thread that reads for all; it gets a value or an error, and no hang."""
    result = run_script(
        PRELUDE
        + """
answers = []
def on_alarm(*_):
    try:
        answers.append(ray.get(double.remote(21), timeout=30))
    except RuntimeError as error:
        answers.append(42 if "signal handler" in str(error) else error)
    up("gate")
signal.signal(signal.SIGALRM, on_alarm)
ref = hold.remote("begun", "gate")
ray.wait([ref], timeout=0)
wait_for("begun")
signal.setitimer(signal.ITIMER_REAL, 0.2)
print(ray.get(ref, timeout=60), answers)
check_engine()
""",
        timeout=LIMIT_S * 2,
    )
    assert (result.stdout, result.stderr) == ("held [42]\n", "")
    assert_nothing_left(result.mark)


def test_an_exception_from_a_handler_ends_the_wait() -> None:
    """An alarm that raises is how programs limit the time of anything."""
    result = run_script(
        PRELUDE
        + """
class OutOfTime(Exception):
    pass
def on_alarm(*_):
    raise OutOfTime
signal.signal(signal.SIGALRM, on_alarm)
ref = hold.remote("begun", "gate")
for _ in range(20):
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        ray.get(ref)
    except OutOfTime:
        pass
    check_engine()
up("gate")
print(ray.get(ref, timeout=60))
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr) == ("held\n", "")
    assert_nothing_left(result.mark)


def test_exceptions_from_handlers_at_any_moment_lose_nothing() -> None:
    """As with Ctrl-C, but the handler is the program's own, so that nothing can be put off."""
    result = run_script(
        PRELUDE
        + """
import random
hurry = random.Random(1)
class OutOfTime(Exception):
    pass
def on_alarm(*_):
    raise OutOfTime
assert ray.get(double.remote([1]), timeout=60) == [1, 1]  # all is loaded that is loaded late
check_engine()
signal.signal(signal.SIGALRM, on_alarm)
everything = []
for _ in range(200):
    refs = []
    end = time.monotonic() + 1  # one that strikes in a finalizer is shown by Python and lost
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + hurry.random() * 0.004)
        while time.monotonic() < end:
            for i in range(20):
                refs.append(None)
                refs[-1] = double.remote([i])
            ray.get([ref for ref in refs[-20:] if ref is not None])
    except OutOfTime:
        pass
    everything += [(ref, i % 20) for i, ref in enumerate(refs) if ref is not None]
values = ray.get([ref for ref, _ in everything], timeout=30)
assert values == [[i, i] for _, i in everything]
check_engine()
print("fine")
""",
        timeout=LIMIT_S * 2,
    )
    assert (result.stdout, result.stderr) == ("fine\n", "")
    assert_nothing_left(result.mark)
