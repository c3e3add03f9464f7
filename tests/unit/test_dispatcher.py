"""The dispatcher over fake workers: what goes into their frames, what comes back to the queues."""

from __future__ import annotations

import itertools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from grainwise.engine.driver import taking_back
from grainwise.engine.driver.dispatcher import INLINE_BATCH_BYTES, NO_LIMIT, Dispatcher
from grainwise.engine.wire import claims, control, tasks
from grainwise.engine.wire.tasks import EACH, FUNCTION, LENDS_CPU, RUN, Call, Function, TaskSpec
from grainwise.errors import EngineClosedError
from grainwise.objects.codec import CALL_WIRE, pack
from grainwise.objects.ref import READY, ObjectRef
from grainwise.watch.events import Record
from tests.unit.small_store import ListSink

MS = 1e-3


class FakeBarrier(claims.Barrier):
    def pass_all(self) -> bool:
        return True


class FakeHandle:
    """A worker that runs nothing; a test moves its words."""

    def __init__(self, number: int) -> None:
        self.uid = self.number = number
        self.words = memoryview(bytearray(8 * control.SLOT_WORDS)).cast("Q")
        self.is_up = True
        self.actor = None
        self.next_seq = 1
        self.batches: dict[int, Any] = {}
        self.functions: set[bytes] = set()
        self.pending_free: list[tuple[int, int, int]] = []
        self.last_progress: tuple[int, int, float] = (-1, -1, 0.0)
        self.frames: list[tuple[Any, ...]] = []
        self.channel = types.SimpleNamespace(post=self._post)

    def _post(self, frame: bytes) -> bool:
        self.frames.append(tasks_of(frame))
        return False

    def can_take(self) -> bool:
        return True

    def runs(self) -> list[tuple[Any, ...]]:
        return [frame for frame in self.frames if frame[0] == RUN]

    def begin(self, seq: int, index: int, claim: int) -> None:
        self.words[control.SEQ], self.words[control.STARTED] = seq, index
        self.words[control.claim_word(seq)] = claim


def tasks_of(frame: bytes) -> tuple[Any, ...]:
    import pickle

    message: tuple[Any, ...] = pickle.loads(frame[8:])
    return message


class FakeEngine:
    def __init__(self, num_cpus: float) -> None:
        self.is_closed = False
        self.workers: dict[int, FakeHandle] = {}
        self.fails_to_start = 0
        self.failed: list[tuple[Any, BaseException]] = []
        self.store = types.SimpleNamespace(dropped=deque(), collect=lambda: None)
        self.counters = types.SimpleNamespace(batches=0, tasks=0, taken_back=0)
        self.record = Record(num_cpus)
        self.actors = types.SimpleNamespace(active={}, missed=(), dropped=())
        self.borders = types.SimpleNamespace(lender=lambda handle: lambda packed: ("lent", packed.stream))
        self.results = types.SimpleNamespace(
            fail=lambda ref, error: self.failed.append((ref, error)), dependents={}
        )
        self.pool = types.SimpleNamespace(
            workers=self.workers,
            start_worker=self._start_worker,
            watch_writes=lambda handle, is_left: None,
            note_start_failure=lambda *_: False,
        )
        self.environments = types.SimpleNamespace(unsettled={}, note_start_failure=lambda *_: None)
        engine: Any = self
        self.dispatcher = Dispatcher(engine, num_cpus)
        self.dispatcher.barrier = FakeBarrier()

    def _start_worker(self, number: int, environment: object) -> FakeHandle:
        if self.fails_to_start:
            self.fails_to_start -= 1
            raise OSError("too many open files")
        handle = self.workers[number] = FakeHandle(number)
        return handle

    def report(self, handle: FakeHandle, seq: int, count: int, mean_s: float) -> None:
        """A worker has run a whole batch, as `results` takes it."""
        batch = handle.batches.pop(seq)
        self.dispatcher.num_sent -= 1
        policy = self.dispatcher.policy
        policy.finished(handle.number, batch.spec.number, count, count, count * mean_s, mean_s)
        policy.ended(handle.number)
        handle.words[control.SEQ] = handle.words[control.STARTED] = 0
        for ref in batch.refs:
            ref._state = READY


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(taking_back, "perf_counter", lambda: made.now)
    return made


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    tasks.dead_keys.clear()
    tasks.dead_functions.clear()
    yield FakeEngine(2)
    tasks.dead_keys.clear()


_names = itertools.count()


def new_spec(**options: Any) -> TaskSpec:
    function = Function(b"f%d" % next(_names), pack(len, ListSink()), "f", None)
    values: dict[str, Any] = {"num_cpus": 1.0, "num_returns": 1, "max_retries": 3, "retry_exceptions": False}
    return TaskSpec(function, **(values | options), name="f")


def submit(engine: FakeEngine, spec: TaskSpec, values: Any, *, waiting: bool = True) -> list[ObjectRef[Any]]:
    refs = []
    for value in values:
        ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
        ref._state, ref._value = spec, value
        spec.open.append(ref)
        refs.append(ref)
    engine.dispatcher.active[spec] = None
    if waiting:
        engine.dispatcher.dispatch(waiting=True)
    return refs


def learn(engine: FakeEngine, spec: TaskSpec, mean_s: float, largest_batch: int = 10_000) -> None:
    for _ in range(5):
        engine.dispatcher.policy.estimates.learn(spec.number, largest_batch, largest_batch * mean_s, mean_s)


def values_in(handle: FakeHandle) -> list[Any]:
    return [value for frame in handle.runs() for value in frame[3]]


# -- sending -------------------------------------------------------------------------------------------------


def test_a_lonely_task_goes_to_a_new_worker_with_its_function(engine: FakeEngine) -> None:
    spec = new_spec()
    submit(engine, spec, ["argument"])
    (handle,) = engine.workers.values()
    function, run = handle.frames
    assert function[:2] == (FUNCTION, spec.function.id)
    assert run == (RUN, 1, LENDS_CPU, ["argument"], [(1, spec.function.id, 1, 1, "f")])
    assert not spec.open
    assert not engine.dispatcher.active
    assert spec.send_at == 1


def test_a_function_goes_to_each_worker_once(engine: FakeEngine) -> None:
    spec = new_spec()
    submit(engine, spec, [1, 2])
    for handle in list(engine.workers.values()):
        engine.report(handle, 1, 1, 1 * MS)
    submit(engine, spec, [3, 4])
    assert [[frame[0] for frame in handle.frames] for handle in engine.workers.values()] == [
        [FUNCTION, RUN, RUN],
        [FUNCTION, RUN, RUN],
    ]


def test_calls_travel_as_wires_and_atoms_bare(engine: FakeEngine) -> None:
    spec = new_spec()
    learn(engine, spec, 10e-6)
    spec.has_calls = True
    calls = [Call((1, "a"), ("x",), 10), Call((pack([1], ListSink()),), (), 10)]
    submit(engine, spec, [7, *calls])
    sent = [value for handle in engine.workers.values() for value in values_in(handle)]
    assert sent == [7, (CALL_WIRE, [1, "a"], ("x",)), (CALL_WIRE, [("lent", calls[1].args[0].stream)], ())]
    assert all(call.is_sent for call in calls)
    assert calls[0].where == (0, 1)


def test_what_was_cancelled_or_sent_otherwise_is_passed_over(engine: FakeEngine) -> None:
    spec = new_spec()
    learn(engine, spec, 10e-6)
    in_place = Call((3,), (), 0)
    in_place.is_sent = True
    spec.has_calls = True
    refs = submit(engine, spec, [1, 2, in_place, 4], waiting=False)
    refs[1]._state = READY
    engine.dispatcher.dispatch(waiting=True)
    assert values_in(engine.workers[0]) == [1, 4]
    engine.report(engine.workers[0], 1, 2, 10e-6)
    assert len(submit(engine, spec, [5])) == 1
    assert values_in(engine.workers[0]) == [1, 4, 5]  # the policy knows that the worker is free


def test_a_queue_of_cancelled_tasks_occupies_nobody(engine: FakeEngine) -> None:
    spec = new_spec()
    for ref in submit(engine, spec, [1, 2, 3], waiting=False):
        ref._state = READY
    engine.dispatcher.dispatch(waiting=True)
    assert not any(handle.runs() for handle in engine.workers.values())
    assert not engine.dispatcher.active
    assert engine.dispatcher.num_sent == 0
    submit(engine, spec, [4, 5])
    assert sorted(value for handle in engine.workers.values() for value in values_in(handle)) == [4, 5]


def test_tasks_that_must_not_run_twice_are_reported_one_by_one(engine: FakeEngine) -> None:
    submit(engine, new_spec(max_retries=0), [1])
    assert engine.workers[0].runs()[0][2] == EACH


def test_suspects_go_one_at_a_time(engine: FakeEngine) -> None:
    spec = new_spec()
    learn(engine, spec, 10e-6)
    submit(engine, spec, [0])
    engine.report(engine.workers[0], 1, 1, 10e-6)
    engine.dispatcher.suspect(spec)
    engine.workers[0].frames.clear()
    submit(engine, spec, range(10))
    sent = [frame[3] for handle in engine.workers.values() for frame in handle.runs()]
    assert sent
    assert {len(values) for values in sent} == {1}
    assert len(spec.open) == 10 - len(sent)


def test_a_batch_carries_so_many_bytes_and_no_more(engine: FakeEngine) -> None:
    spec = new_spec()
    learn(engine, spec, 1e-6)
    spec.has_calls = True
    submit(engine, spec, [Call((i,), (), INLINE_BATCH_BYTES // 4) for i in range(100)])
    sizes = [len(frame[3]) for handle in engine.workers.values() for frame in handle.runs()]
    assert set(sizes) == {4}
    assert len(spec.open) == 100 - sum(sizes)


def test_the_first_sub_block_is_small(engine: FakeEngine) -> None:
    """One quick sample must not bind a thousand slow ones: what is claimed can't be taken back."""
    spec = new_spec()
    learn(engine, spec, 1e-8, largest_batch=1)
    submit(engine, spec, range(1000))
    assert max(frame[4][0][2] for handle in engine.workers.values() for frame in handle.runs()) <= 4
    learn(engine, spec, 1e-8, largest_batch=1000)
    for handle in list(engine.workers.values()):
        for seq, batch in list(handle.batches.items()):
            engine.report(handle, seq, len(batch.refs), 1e-8)
    submit(engine, spec, range(1000))
    assert max(frame[4][0][2] for handle in engine.workers.values() for frame in handle.runs()) > 100


def test_while_the_program_submits_crumbs_stay_and_it_is_told_when_to_look_again(engine: FakeEngine) -> None:
    spec = new_spec()
    learn(engine, spec, 10e-6)
    submit(engine, spec, [1], waiting=False)
    engine.dispatcher.look_at(spec)
    assert not engine.workers
    assert spec.send_at > 1
    assert spec in engine.dispatcher.active
    engine.dispatcher.dispatch(waiting=True)
    assert values_in(engine.workers[0]) == [1]


def test_what_a_signal_handler_submitted_is_not_forgotten(engine: FakeEngine) -> None:
    spec = new_spec()
    submit(engine, spec, [1], waiting=False)
    engine.dispatcher.active.clear()
    engine.dispatcher.missed.append(spec)
    engine.dispatcher.dispatch(waiting=True)
    assert values_in(engine.workers[0]) == [1]


def test_a_closed_engine_sends_nothing(engine: FakeEngine) -> None:
    engine.is_closed = True
    submit(engine, new_spec(), [1])
    assert not engine.workers


def test_specs_that_are_gone_are_forgotten(engine: FakeEngine) -> None:
    spec = new_spec()
    number = spec.number
    learn(engine, spec, 1 * MS)
    refs = submit(engine, spec, [1])
    engine.report(engine.workers[0], 1, 1, 1 * MS)
    refs.clear()
    del spec
    assert number in tasks.dead_keys
    engine.dispatcher.dispatch(waiting=True)
    assert engine.dispatcher.policy.mean_s(number) is None


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_a_worker_that_cannot_be_started_loses_nothing(engine: FakeEngine) -> None:
    spec = new_spec()
    engine.fails_to_start = 2
    refs = submit(engine, spec, [1, 2])
    assert list(spec.open) == refs
    engine.dispatcher.dispatch(waiting=True)
    assert sorted(value for handle in engine.workers.values() for value in values_in(handle)) == [1, 2]


def test_a_value_of_an_ended_session_fails_its_own_batch(engine: FakeEngine) -> None:
    def lender(handle: Any) -> Any:
        def lend(packed: Any) -> Any:
            raise EngineClosedError("ended")

        return lend

    spec = new_spec()
    spec.has_calls = True
    submit(engine, spec, [0])
    engine.report(engine.workers[0], 1, 1, 1 * MS)
    engine.borders.lender = lender
    (ref,) = submit(engine, spec, [Call((pack([1], ListSink()),), (), 0)])
    assert [(failed, type(error)) for failed, error in engine.failed] == [(ref, EngineClosedError)]
    submit(engine, spec, [2])
    assert values_in(engine.workers[0])[-1] == 2


def test_an_interrupted_send_keeps_its_tasks(engine: FakeEngine) -> None:
    """A signal handler of the program's raises in the middle."""

    def lender(handle: Any) -> Any:
        raise TimeoutError("alarm")

    spec = new_spec()
    real, engine.borders.lender = engine.borders.lender, lender
    with pytest.raises(TimeoutError):
        submit(engine, spec, [1, 2])
    engine.borders.lender = real
    engine.dispatcher.dispatch(waiting=True)
    assert sorted(value for handle in engine.workers.values() for value in values_in(handle)) == [1, 2]


# -- taking back ---------------------------------------------------------------------------------------------


def one_full_worker(
    engine: FakeEngine, count: int = 8, mean_s: float = 1 * MS
) -> tuple[FakeHandle, TaskSpec]:
    """Return a worker that has begun the first item of a batch, with a CPU free beside it."""
    spec = new_spec()
    engine.dispatcher.policy.num_cpus = 1
    learn(engine, spec, mean_s)
    for _ in range(count):
        submit(engine, spec, [], waiting=False)
    submit(engine, spec, range(count), waiting=False)
    handle = engine.workers.setdefault(0, FakeHandle(0))
    engine.dispatcher.by_number[0] = handle  # type: ignore[assignment]
    refs = [spec.open.popleft() for _ in range(count)]
    engine.dispatcher.policy.sent(0, spec.number, count)
    engine.dispatcher.send_batch(handle, refs, [(len(refs), spec)])  # type: ignore[arg-type]
    engine.dispatcher.active.clear()
    engine.dispatcher.policy.num_cpus = 2
    handle.begin(1, 0, 1)
    return handle, spec


def test_half_of_what_is_not_begun_goes_to_a_free_worker(engine: FakeEngine, clock: Any) -> None:
    handle, _ = one_full_worker(engine)
    engine.dispatcher.rebalance()
    assert handle.words[control.claim_word(1) + 1] == handle.batches[1].stop == 4
    assert set(values_in(engine.workers[1])) <= {4, 5, 6, 7}
    assert values_in(engine.workers[1])[0] == 4  # in their order
    assert engine.counters.taken_back == 4


def test_all_behind_a_late_task_goes_and_the_second_look_tells(engine: FakeEngine, clock: Any) -> None:
    handle, _spec = one_full_worker(engine, mean_s=10e-6)
    engine.dispatcher.rebalance()
    assert 1 not in engine.workers  # the clock starts with the first look
    clock.now += 0.1
    engine.dispatcher.rebalance()
    assert handle.batches[1].stop == 1
    assert engine.counters.taken_back == 7


def test_progress_starts_the_clock_anew(engine: FakeEngine, clock: Any) -> None:
    handle, _ = one_full_worker(engine, mean_s=10e-6)
    for index in range(5):
        handle.begin(1, index, index + 1)
        engine.dispatcher.rebalance()
        clock.now += 0.1
    assert 1 not in engine.workers


def test_time_of_rest_is_no_run_time(engine: FakeEngine, clock: Any) -> None:
    """A worker that has rested for a second and whose next batch is on its way is not late."""
    spec = new_spec()
    learn(engine, spec, 10e-6)
    submit(engine, spec, [1, 2])
    handle = engine.workers[0]
    engine.dispatcher.rebalance()
    engine.report(handle, 1, 2, 10e-6)
    clock.now += 1.0
    submit(engine, spec, range(20))
    engine.dispatcher.rebalance()
    assert engine.counters.taken_back == 0
    assert list(engine.workers) == [0]


def test_what_is_claimed_blocked_suspect_or_not_up_is_left(engine: FakeEngine, clock: Any) -> None:
    handle, spec = one_full_worker(engine, mean_s=1.0)
    handle.begin(1, 0, 8)
    engine.dispatcher.rebalance()
    handle.begin(1, 0, 1)
    handle.is_up = False
    engine.dispatcher.rebalance()
    handle.is_up = True
    handle.batches[1].is_blocked = True
    engine.dispatcher.rebalance()
    handle.batches[1].is_blocked = False
    engine.dispatcher.suspects.add(spec)
    engine.dispatcher.rebalance()
    assert engine.counters.taken_back == 0
    engine.dispatcher.suspects.clear()
    engine.dispatcher.rebalance()
    assert engine.counters.taken_back > 0


def test_the_end_of_the_last_batch_is_taken_first(engine: FakeEngine) -> None:
    handle, spec = one_full_worker(engine)
    refs = submit(engine, spec, range(100, 103), waiting=False)
    spec.open.clear()
    engine.dispatcher.policy.sent(0, spec.number, 3)
    engine.dispatcher.send_batch(handle, refs, [(len(refs), spec)])  # type: ignore[arg-type]
    taken = engine.dispatcher.take_back(handle, 5)  # type: ignore[arg-type]
    assert taken == 5
    assert [ref._value for ref in spec.open] == [6, 7, 100, 101, 102]
    assert (handle.batches[1].stop, handle.batches[2].stop) == (6, 0)


def test_items_whose_results_have_come_are_not_taken(engine: FakeEngine) -> None:
    handle, spec = one_full_worker(engine)
    handle.batches[1].base = 5
    assert engine.dispatcher.take_back(handle, 100) == 3  # type: ignore[arg-type]
    assert [ref._value for ref in spec.open] == [5, 6, 7]


def test_new_batches_begin_with_nothing_claimed_and_no_limit(engine: FakeEngine) -> None:
    handle, spec = one_full_worker(engine)
    at = control.claim_word(2)
    handle.words[at], handle.words[at + 1] = 17, 3  # of a batch long ago
    refs = submit(engine, spec, [1], waiting=False)
    engine.dispatcher.send_batch(handle, refs, [(len(refs), spec)])  # type: ignore[arg-type]
    assert (handle.words[at], handle.words[at + 1]) == (0, NO_LIMIT)


def test_what_came_back_can_be_sent_again(engine: FakeEngine) -> None:
    handle, spec = one_full_worker(engine)
    call = Call((1,), (), 0)
    call.is_sent = True
    spec.has_calls = True
    batch = handle.batches[1]
    batch.refs[7]._value = call
    engine.dispatcher.requeue(handle, batch, 7)  # type: ignore[arg-type]
    assert not call.is_sent
    assert spec in engine.dispatcher.active
    batch.refs[6]._state = READY  # cancelled meanwhile
    engine.dispatcher.requeue(handle, batch, 6)  # type: ignore[arg-type]
    assert [ref._value for ref in spec.open] == [call]
