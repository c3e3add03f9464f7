"""Whose turn it is: exclusion, Ctrl-C at bad moments, and who reads for whom."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from grainwise.engine.driver import turn as turn_module
from grainwise.engine.driver.turn import Deferral, Leadership, Turn

WAIT_S = 30.0
"""Only a failing test waits so long."""


@pytest.fixture(autouse=True)
def python_s_own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def turn() -> Iterator[Turn]:
    made = Turn()
    yield made
    made.unshield()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# -- the lock ------------------------------------------------------------------------------------------------


def test_one_thread_at_a_time(turn: Turn) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(300):
            with turn:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [in_thread(work) for _ in range(8)]
    for thread in threads:
        thread.join(WAIT_S)
    assert most == 1
    assert not turn.is_mine()


def test_code_that_interrupts_a_stretch_is_told_so_instead_of_hanging(turn: Turn) -> None:
    with turn:
        assert turn.is_mine()
        with pytest.raises(RuntimeError, match="signal handler or finalizer"), turn:
            pass
        assert turn.is_mine()
    with turn:
        pass


def test_another_thread_s_turn_is_not_mine(turn: Turn) -> None:
    seen = []
    with turn:
        in_thread(lambda: seen.append(turn.is_mine())).join(WAIT_S)
    assert seen == [False]


def test_an_error_in_a_stretch_ends_it(turn: Turn) -> None:
    with pytest.raises(ZeroDivisionError), turn:
        _ = 1 / 0
    with turn:
        pass


def test_what_was_put_off_runs_after_the_stretch_once(turn: Turn) -> None:
    done = []
    with turn:
        turn.deferred = lambda: done.append(turn.is_mine())
        assert done == []
    assert done == [False]
    with turn:
        pass
    assert done == [False]


# -- Ctrl-C --------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_stretch_waits_for_its_end(turn: Turn) -> None:
    turn.shield()
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- where it is raised is the point
        with turn:
            press_ctrl_c()
            press_ctrl_c()
            steps.append("the stretch went on")
        steps.append("not reached")
    assert steps == ["the stretch went on"]
    try:
        with turn:
            pass
    except KeyboardInterrupt:
        pytest.fail("raised again, by the next stretch")


def test_ctrl_c_outside_is_raised_at_once(turn: Turn) -> None:
    turn.shield()
    with turn:
        pass
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


def test_ctrl_c_while_another_thread_has_the_turn(turn: Turn) -> None:
    turn.shield()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            entered.set()
            leave.wait(WAIT_S)

    thread = in_thread(hold)
    assert entered.wait(WAIT_S)
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    leave.set()
    thread.join(WAIT_S)


def test_ctrl_c_and_something_put_off_in_one_stretch_both_happen(turn: Turn) -> None:
    turn.shield()
    done = []
    with pytest.raises(KeyboardInterrupt), turn:  # noqa: PT012 -- two things in one stretch
        turn.deferred = lambda: done.append("put off")
        press_ctrl_c()
    with turn:
        pass
    assert done == ["put off"]


def test_unshielding_gives_ctrl_c_back(turn: Turn) -> None:
    turn.shield()
    assert turn.is_shielding
    turn.shield()
    turn.unshield()
    assert not turn.is_shielding
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    turn.unshield()


def test_a_handler_of_the_program_s_waits_for_the_end_of_the_stretch(turn: Turn) -> None:
    seen = []

    def own(*_: object) -> None:
        seen.append(turn.is_mine())

    signal.signal(signal.SIGINT, own)
    turn.shield()
    with turn:
        press_ctrl_c()
        press_ctrl_c()
        assert seen == []
    assert seen == [False]  # Python, too, keeps one of each signal
    press_ctrl_c()
    assert seen == [False, False]
    turn.unshield()
    assert signal.getsignal(signal.SIGINT) is own


@pytest.mark.parametrize("name", ["SIGALRM", "SIGTERM", "SIGUSR1"])
def test_a_time_limit_that_raises_does_not_tear_a_stretch(turn: Turn, name: str) -> None:
    number = getattr(signal, name)

    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(number, give_up)
    try:
        turn.shield()
        steps = []
        with pytest.raises(TimeoutError):  # noqa: PT012 -- where it is raised is the point
            with turn:
                signal.raise_signal(number)
                steps.append("the stretch went on")
            steps.append("not reached")
        assert steps == ["the stretch went on"]
        assert not turn.is_mine()
        with pytest.raises(TimeoutError):
            signal.raise_signal(number)
        turn.unshield()
        assert signal.getsignal(number) is give_up
    finally:
        signal.signal(number, before)


def test_a_handler_that_was_set_later_is_met_at_the_next_wait(turn: Turn) -> None:
    turn.shield()
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(turn.is_mine()))
    turn.shield()
    with turn:
        press_ctrl_c()
    assert seen == [False]


def test_a_session_that_ended_in_another_thread_leaves_the_next_one_its_shield(turn: Turn) -> None:
    before = Turn()
    before.shield()
    in_thread(before.unshield).join(WAIT_S)  # only the main thread may change handlers
    turn.shield()
    steps = []
    with pytest.raises(KeyboardInterrupt), turn:  # noqa: PT012 -- where it is raised is the point
        press_ctrl_c()
        steps.append("the stretch went on")
    assert steps == ["the stretch went on"]


def test_starting_leaves_a_handler_of_the_program_s_alone() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    with Deferral():
        press_ctrl_c()
    assert seen == [1]


def test_a_handler_that_the_user_sets_later_stays(turn: Turn) -> None:
    turn.shield()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    turn.unshield()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_cannot_shield(turn: Turn) -> None:
    in_thread(turn.shield).join(WAIT_S)
    assert not turn.is_shielding
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- starting and ending under Ctrl-C ------------------------------------------------------------------------


def test_ctrl_c_waits_until_a_start_is_complete(turn: Turn) -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- where it is raised is the point
        with Deferral():
            press_ctrl_c()
            turn.shield()
            steps.append("started")
        steps.append("not reached")
    assert steps == ["started"]
    assert turn.is_shielding
    turn.unshield()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_waits_until_an_end_is_complete(turn: Turn) -> None:
    turn.shield()
    with pytest.raises(KeyboardInterrupt), Deferral():  # noqa: PT012 -- where it is raised is the point
        press_ctrl_c()
        turn.unshield()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_quiet_start_changes_nothing_else() -> None:
    with Deferral():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    in_thread(lambda: Deferral().__enter__()).join(WAIT_S)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- leader and followers ------------------------------------------------------------------------------------


@pytest.fixture
def no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks around by himself: whoever is not woken waits for ever."""
    monkeypatch.setattr(turn_module, "SLICE_S", 1000.0)


class Pump:
    """A pump that stands still until it is told to go on, as a poll without traffic does."""

    def __init__(self) -> None:
        self.timeouts_s: list[float] = []
        self.pumpers: list[int] = []
        self.is_in = threading.Event()
        self.go_on = threading.Semaphore(0)

    def __call__(self, timeout_s: float) -> None:
        self.timeouts_s.append(timeout_s)
        self.pumpers.append(threading.get_ident())
        self.is_in.set()
        assert self.go_on.acquire(timeout=WAIT_S)


def test_nobody_pumps_when_it_is_done_already() -> None:
    pump = Pump()
    assert Leadership(pump, lambda: None).until(lambda: True, None)
    assert not pump.timeouts_s


def test_the_leader_pumps_until_it_has_what_it_waits_for() -> None:
    pump = Pump()
    afters: list[int] = []
    pump.go_on.release(3)
    leadership = Leadership(pump, lambda: afters.append(len(pump.pumpers)))
    assert leadership.until(lambda: len(pump.pumpers) == 3, None)
    assert leadership.rounds == 3
    assert afters == [1, 2, 3]


def test_a_deadline_that_has_passed_still_gets_one_look() -> None:
    pump = Pump()
    pump.go_on.release(2)
    leadership = Leadership(pump, lambda: None)
    assert not leadership.until(lambda: False, monotonic() - 1)
    assert leadership.until(lambda: len(pump.pumpers) == 2, monotonic() - 1)
    assert pump.timeouts_s == [0.0, 0.0]


def test_a_deadline_bounds_each_round() -> None:
    pump = Pump()
    pump.go_on.release(1)
    Leadership(pump, lambda: None).until(lambda: bool(pump.pumpers), monotonic() + 0.02)
    assert 0 < pump.timeouts_s[0] <= 0.02


def test_only_one_thread_pumps_and_a_follower_takes_over(no_slices: None) -> None:
    pump, done = Pump(), {"leader": False, "follower": False}
    leadership = Leadership(pump, lambda: None)
    leader = in_thread(lambda: leadership.until(lambda: done["leader"], None))
    assert pump.is_in.wait(WAIT_S)
    assert not leadership.round(0.0)  # somebody does
    follower = in_thread(lambda: leadership.until(lambda: done["follower"], None))
    done["leader"] = True
    pump.is_in.clear()
    pump.go_on.release()  # what the leader waited for has come: it leaves
    leader.join(WAIT_S)
    assert not leader.is_alive()
    assert pump.is_in.wait(WAIT_S)
    assert pump.pumpers[-1] == follower.ident
    done["follower"] = True
    pump.go_on.release()
    follower.join(WAIT_S)
    assert not follower.is_alive()


def test_a_follower_leaves_as_soon_as_the_leader_has_read_what_it_waits_for(no_slices: None) -> None:
    pump, done = Pump(), {"leader": False, "follower": False}
    leadership = Leadership(pump, lambda: None)
    leader = in_thread(lambda: leadership.until(lambda: done["leader"], None))
    assert pump.is_in.wait(WAIT_S)
    follower = in_thread(lambda: leadership.until(lambda: done["follower"], None))
    done["follower"] = True
    pump.go_on.release()
    follower.join(WAIT_S)
    assert not follower.is_alive()
    assert leader.is_alive()
    done["leader"] = True
    pump.go_on.release()
    leader.join(WAIT_S)


def test_many_waiters_all_leave(no_slices: None) -> None:
    """Each waits for a round of its own; whoever leads, nobody is left behind."""
    count = 0

    def pump(timeout_s: float) -> None:
        nonlocal count
        count += 1

    leadership = Leadership(pump, lambda: None)
    threads = [
        in_thread(lambda goal=goal: leadership.until(lambda: count >= goal, None))  # type: ignore[misc]
        for goal in range(0, 400, 20)
    ]
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)


def test_a_pump_that_fails_gives_the_lead_back() -> None:
    def explode(timeout_s: float) -> None:
        raise ZeroDivisionError

    leadership = Leadership(explode, lambda: None)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            leadership.until(lambda: False, None)


def test_a_wait_on_top_of_the_leader_s_own_wait_pumps_too() -> None:
    """A signal handler that calls get() while the main thread is polling in get()."""
    depth: list[int] = []

    def pump(timeout_s: float) -> None:
        depth.append(len(depth))
        if len(depth) == 1:
            assert leadership.until(lambda: len(depth) == 3, None)

    leadership = Leadership(pump, lambda: None)
    assert leadership.until(lambda: len(depth) >= 3, None)
    assert leadership.rounds == 3
    assert not leadership._lead.locked()


def test_waking_without_followers_is_harmless() -> None:
    leadership = Leadership(lambda timeout_s: None, lambda: None)
    leadership.wake()
    assert leadership.round(0.0)


def test_a_lead_that_nobody_has_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler raised right behind the leader's `acquire`: nobody would ever release it."""
    monkeypatch.setattr(turn_module, "SLICE_S", 1e-3)
    monkeypatch.setattr(turn_module, "ORPHAN_S", 0.0)
    rounds: list[float] = []
    leadership = Leadership(rounds.append, lambda: None)
    assert leadership._lead.acquire(False)
    assert leadership.until(lambda: bool(rounds), None)
    assert not leadership._lead.locked()


def test_a_leader_that_pumps_for_long_keeps_the_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "SLICE_S", 1e-3)
    monkeypatch.setattr(turn_module, "ORPHAN_S", 0.0)
    pump, done, num_looks = Pump(), {"leader": False}, 0
    leadership = Leadership(pump, lambda: None)
    leader = in_thread(lambda: leadership.until(lambda: done["leader"], None))
    assert pump.is_in.wait(WAIT_S)

    def has_looked_often() -> bool:
        nonlocal num_looks
        num_looks += 1
        return num_looks > 20

    assert leadership.until(has_looked_often, None)
    assert len(pump.pumpers) == 1
    done["leader"] = True
    pump.go_on.release()
    leader.join(WAIT_S)
    assert not leader.is_alive()
