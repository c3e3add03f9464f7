"""A worker dies: it costs at most the one task that it was running, and the pool is whole again."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import ObjectStoreFullError, WorkerCrashedError, WorkerStartError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's signals and /proc")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


# --- killed from outside ------------------------------------------------------------------------------------


class Victim:
    """A task that, in its first run, tells its pid over a fifo and waits to be killed."""

    def __init__(self, folder: Path, max_retries: int) -> None:
        self.log = log = RunLog(folder)
        self.fifo = fifo = str(folder / "pid")
        os.mkfifo(fifo)

        def victim(x: int) -> int:
            log.note()
            if len(log.pids()) == 1:
                Path(fifo).write_text(str(os.getpid()))
                signal.pause()
            return x * x

        self.remote = ray.remote(max_retries=max_retries)(victim).remote

    def await_pid(self) -> int:
        return int(Path(self.fifo).read_text())


def test_a_killed_task_runs_once_more_and_gives_the_same_result(tmp_path: Path) -> None:
    victim = Victim(tmp_path, max_retries=3)
    ref = victim.remote(12)
    os.kill(victim.await_pid(), signal.SIGKILL)
    assert ray.get(ref, timeout=LIMIT_S) == 144
    pids = victim.log.pids()
    assert len(pids) == 2
    assert pids[0] != pids[1]
    assert_pool_is_full(tmp_path)


def test_without_retries_the_error_names_task_worker_and_signal(tmp_path: Path) -> None:
    victim = Victim(tmp_path, max_retries=0)
    ref = victim.remote(12)
    pid = victim.await_pid()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerCrashedError) as info:
        ray.get(ref, timeout=LIMIT_S)
    assert (info.value.signal, info.value.exit_code, info.value.pid) == (signal.SIGKILL, None, pid)
    assert "victim" in info.value.task_name
    for part in ("victim", "SIGKILL", str(pid)):
        assert part in str(info.value)
    assert len(victim.log.pids()) == 1
    assert_pool_is_full(tmp_path)


def test_a_worker_killed_while_the_program_waits_in_get(tmp_path: Path) -> None:
    """The program is blocked in `get` already when the worker dies: nothing but the death wakes it."""
    victim = Victim(tmp_path, max_retries=1)
    ref = victim.remote(3)
    killer = threading.Thread(target=lambda: os.kill(victim.await_pid(), signal.SIGKILL))
    killer.start()
    assert ray.get(ref, timeout=LIMIT_S) == 9
    killer.join()


def test_a_worker_killed_while_the_program_waits_otherwise(tmp_path: Path) -> None:
    """A `wait`, a future and a dependant all learn of the death."""
    victim = Victim(tmp_path, max_retries=0)
    ref = victim.remote(3)
    dependant = ray.remote(lambda x: x).remote(ref)
    future = ref.future()
    os.kill(victim.await_pid(), signal.SIGKILL)
    ready, rest = ray.wait([ref, dependant], num_returns=2, timeout=LIMIT_S)
    assert (ready, rest) == ([ref, dependant], [])
    with pytest.raises(WorkerCrashedError, match="SIGKILL"):
        future.result(timeout=LIMIT_S)
    with pytest.raises(WorkerCrashedError, match="victim"):
        ray.get(dependant, timeout=LIMIT_S)


def test_all_workers_killed_at_once_while_busy(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    fifos = [str(tmp_path / name) for name in "ab"]
    for fifo in fifos:
        os.mkfifo(fifo)

    @ray.remote
    def victim(fifo: str) -> str:
        log.note(fifo)
        if log.runs().count(fifo) == 1:
            Path(fifo).write_text(str(os.getpid()))
            signal.pause()
        return fifo

    refs = [victim.remote(fifo) for fifo in fifos]
    pids = [int(Path(fifo).read_text()) for fifo in fifos]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert ray.get(refs, timeout=LIMIT_S) == fifos
    assert sorted(log.runs()) == sorted([*fifos, *fifos])
    assert_pool_is_full(tmp_path)


def test_all_workers_killed_while_idle(tmp_path: Path) -> None:
    pid_of = ray.remote(lambda _: os.getpid())
    for pid in set(ray.get([pid_of.remote(i) for i in range(10)], timeout=LIMIT_S)):
        os.kill(pid, signal.SIGKILL)
    assert_pool_is_full(tmp_path)


@pytest.mark.parametrize("num_returns", [0, 1, 3])
def test_a_killed_task_of_several_results(num_returns: int, tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(num_returns=num_returns, max_retries=1)
    def task(runs_to_die: int) -> object:
        log.note(runs_to_die)
        if log.runs().count(str(runs_to_die)) <= runs_to_die:
            os.kill(os.getpid(), signal.SIGKILL)
        return 7 if num_returns == 1 else list(range(num_returns))

    lucky, unlucky = task.remote(1), task.remote(2)
    if num_returns == 1:
        assert ray.get(lucky, timeout=LIMIT_S) == 7
    elif num_returns == 3:
        assert ray.get(lucky, timeout=LIMIT_S) == [0, 1, 2]
    for ref in [unlucky] if num_returns == 1 else unlucky or []:
        with pytest.raises(WorkerCrashedError):
            ray.get(ref, timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)
    while len(log.runs()) < 4:  # nobody waits for a task without results
        time.sleep(0.01)
    assert sorted(log.runs()) == ["1", "1", "2", "2"]


def test_what_a_worker_has_made_outlives_it(tmp_path: Path) -> None:
    """Results and stored objects of a dead worker stay readable, by the program and by other tasks."""
    np = pytest.importorskip("numpy")

    @ray.remote
    def make(i: int) -> object:
        return np.full(300_000, i), ray.put(np.full(300_000, -i)), os.getpid()

    @ray.remote
    def add(made: tuple[object, ray.ObjectRef[object], int]) -> int:
        whole, stored, _ = made
        return int((whole + 2 * ray.get(stored)).sum())

    refs = [make.remote(i) for i in range(4)]
    pids = {ray.get(ref, timeout=LIMIT_S)[2] for ref in refs}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        await_end(pid)
    assert_pool_is_full(tmp_path)
    for i, ref in enumerate(refs):
        whole, stored, _ = ray.get(ref, timeout=LIMIT_S)
        assert (whole == i).all()
        assert (ray.get(stored, timeout=LIMIT_S) == -i).all()
        del whole
    assert ray.get([add.remote(ref) for ref in refs], timeout=LIMIT_S) == [-300_000 * i for i in range(4)]


def make_and_die(nbytes: int) -> ray.ObjectRef[bytes]:
    """Return a result whose worker is dead."""

    @ray.remote
    def make() -> tuple[int, bytes]:
        return os.getpid(), bytes([7]) * nbytes

    ref = make.remote()
    pid = ray.get(ref, timeout=LIMIT_S)[0]
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
    ray.get(ray.remote(lambda: None).remote(), timeout=LIMIT_S)
    return ref


def test_what_dead_workers_have_left_counts_as_used() -> None:
    """The limit of the store holds, however many workers die."""
    ray.shutdown()
    ray.init(num_cpus=1, object_store_memory=64 << 20, spill_dir="off")
    refs = [make_and_die(24 << 20) for _ in range(2)]
    with pytest.raises(ObjectStoreFullError):  # noqa: PT012 - whichever comes too late
        for _ in range(3):
            refs.append(make_and_die(24 << 20))
    refs.clear()
    assert len(ray.get(make_and_die(48 << 20), timeout=LIMIT_S)[1]) == 48 << 20


def test_memory_of_dead_workers_comes_back_piece_by_piece() -> None:
    """A small result that is kept does not keep the large ones that the same worker had made."""

    @ray.remote
    def make(nbytes: int) -> tuple[int, bytes]:
        return os.getpid(), bytes([7]) * nbytes

    def shared_memory_bytes() -> int:
        blocks = 0
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if "memfd:grainwise" in os.readlink(f"/proc/self/fd/{fd}"):
                    blocks += os.stat(f"/proc/self/fd/{fd}").st_blocks
        return blocks * 512

    ray.shutdown()
    ray.init(num_cpus=1)
    before = shared_memory_bytes()
    large, small = make.remote(200 << 20), make.remote(200_000)
    pids = {pid for pid, _ in ray.get([large, small], timeout=LIMIT_S)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        await_end(pid)
    ray.get(ray.remote(lambda: None).remote(), timeout=LIMIT_S)
    assert shared_memory_bytes() - before > 200 << 20
    del large
    deadline = time.monotonic() + 3.0
    while shared_memory_bytes() - before > 64 << 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert shared_memory_bytes() - before <= 64 << 20
    assert ray.get(small, timeout=LIMIT_S)[1] == bytes([7]) * 200_000


def test_many_deaths_in_one_session_hold_no_descriptors(tmp_path: Path) -> None:
    die = ray.remote(max_retries=0)(lambda _: os._exit(3))

    def let_die(count: int) -> None:
        refs = [die.remote(i) for i in range(count)]
        ray.wait(refs, num_returns=count, timeout=LIMIT_S)

    let_die(4)
    assert_pool_is_full(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    let_die(40)
    assert_pool_is_full(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_interpreter_is_gone_when_the_parent_of_all_workers_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can fork workers any more: everybody who waits is told, and when it can be done again, it is."""
    parent = ray.get(ray.remote(os.getppid).remote(), timeout=LIMIT_S)
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    os.kill(parent, signal.SIGKILL)
    await_end(parent)
    work = ray.remote(lambda x: x)
    refs = [work.remote(i) for i in range(20)]
    future = refs[-1].future()
    for ref in refs:
        with pytest.raises(WorkerStartError, match="/does/not/exist"):
            ray.get(ref, timeout=LIMIT_S)
    with pytest.raises(WorkerStartError):
        future.result(timeout=LIMIT_S)
    monkeypatch.undo()
    assert_pool_is_full(tmp_path)


def test_the_parent_of_all_workers_killed(tmp_path: Path) -> None:
    """The process that forks workers is killed, and they with it: another one takes over."""
    log = RunLog(tmp_path)
    fifo = str(tmp_path / "parent")
    os.mkfifo(fifo)

    @ray.remote
    def victim(x: int) -> int:
        log.note()
        if len(log.pids()) == 1:
            Path(fifo).write_text(str(os.getppid()))
            signal.pause()
        return x * x

    ref = victim.remote(12)
    os.kill(int(Path(fifo).read_text()), signal.SIGKILL)
    assert ray.get(ref, timeout=LIMIT_S) == 144
    assert len(log.pids()) == 2
    assert_pool_is_full(tmp_path)


# --- dying by itself ----------------------------------------------------------------------------------------


def touch_a_truncated_file() -> None:
    """SIGBUS: the page is mapped, and the file behind it is gone."""
    fd = os.memfd_create("short")
    os.ftruncate(fd, mmap.PAGESIZE)
    mapping = mmap.mmap(fd, mmap.PAGESIZE)
    os.ftruncate(fd, 0)
    mapping[0]


CRASHES: dict[str, tuple[Callable[[], object], signal.Signals]] = {
    "null pointer": (lambda: ctypes.string_at(0), signal.SIGSEGV),
    "abort": (os.abort, signal.SIGABRT),
    "truncated mapping": (touch_a_truncated_file, signal.SIGBUS),
    "illegal instruction": (lambda: signal.raise_signal(signal.SIGILL), signal.SIGILL),
    "its whole process group": (lambda: os.kill(0, signal.SIGABRT), signal.SIGABRT),
    "division in C": (lambda: signal.raise_signal(signal.SIGFPE), signal.SIGFPE),
    "stack overflow in C": (lambda: faulthandler._stack_overflow(), signal.SIGSEGV),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_in_native_code_is_told_with_signal_and_stack(name: str, tmp_path: Path) -> None:
    crash, number = CRASHES[name]

    @ray.remote(max_retries=0)
    def crashing_task(i: int) -> int:
        if i == 100:
            crash()
        return i

    refs = [crashing_task.remote(i) for i in range(201)]
    with pytest.raises(WorkerCrashedError) as info:
        ray.get(refs[100], timeout=LIMIT_S)
    assert info.value.signal == number
    text = str(info.value)
    assert number.name in text
    assert "crashing_task" in text
    assert "Fatal Python error" in info.value.detail
    assert "in crashing_task" in info.value.detail, "the stack that faulthandler wrote"
    innocents = refs[:100] + refs[101:]
    assert ray.get(innocents, timeout=LIMIT_S) == [i for i in range(201) if i != 100]


@pytest.mark.parametrize("max_retries", [0, 2])
def test_innocent_batch_mates_of_a_crash(max_retries: int, tmp_path: Path) -> None:
    """200 tiny tasks around one that kills its worker: all keep their results, without retries of one run."""
    log = RunLog(tmp_path)

    @ray.remote(max_retries=max_retries)
    def one_of_many(i: int) -> int:
        log.note(i)
        if i == 100:
            ctypes.string_at(0)
        return i * i

    refs = [one_of_many.remote(i) for i in range(201)]
    ray.wait(refs, num_returns=len(refs), timeout=LIMIT_S)
    with pytest.raises(WorkerCrashedError):
        ray.get(refs[100], timeout=LIMIT_S)
    assert ray.get(refs[:100] + refs[101:], timeout=LIMIT_S) == [i * i for i in range(201) if i != 100]
    runs = log.runs()
    assert runs.count("100") == 1 + max_retries
    if not max_retries:
        assert sorted(map(int, runs)) == list(range(201))
    assert_pool_is_full(tmp_path)


def test_a_crash_after_quick_tasks_of_the_same_function(tmp_path: Path) -> None:
    """The function is known to be quick, so the fatal call is claimed with its neighbours."""

    @ray.remote(max_retries=1)
    def quick(i: int) -> int:
        if i < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    assert ray.get([quick.remote(i) for i in range(20_000)], timeout=LIMIT_S) == list(range(20_000))
    calls = [-1 if i % 2000 == 1999 else i for i in range(20_000)]
    refs = [quick.remote(i) for i in calls]
    for ref, i in zip(refs, calls):
        if i < 0:
            with pytest.raises(WorkerCrashedError):
                ray.get(ref, timeout=LIMIT_S)
        else:
            assert ray.get(ref, timeout=LIMIT_S) == i
    assert_pool_is_full(tmp_path)


def test_results_reported_before_the_crash_stand(tmp_path: Path) -> None:
    """A result that the program has seen is never computed again."""
    log = RunLog(tmp_path)

    @ray.remote
    def task(i: int) -> int:
        log.note(i)
        if i == 1 and log.runs().count("1") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    assert ray.get(task.remote(0), timeout=LIMIT_S) == 0
    assert ray.get([task.remote(i) for i in (1, 2)], timeout=LIMIT_S) == [1, 2]
    assert log.runs().count("0") == 1


@pytest.mark.parametrize("nbytes", [100 << 20, 60_000], ids=["100 MB", "60 kB"])
def test_a_crash_while_large_arguments_are_on_their_way(nbytes: int, tmp_path: Path) -> None:
    """The first task dies while the arguments of the others fill the sockets."""

    @ray.remote(max_retries=0)
    def measure(i: int, data: bytes) -> int:
        if i == 0:
            ctypes.string_at(0)
        return len(data)

    data = bytes(nbytes)
    count = 4 if nbytes > 1 << 20 else 400
    refs = [measure.remote(i, data) for i in range(count)]
    with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
        ray.get(refs[0], timeout=LIMIT_S)
    assert ray.get(refs[1:], timeout=LIMIT_S) == [nbytes] * (count - 1)
    assert_pool_is_full(tmp_path)


def test_what_a_killed_task_has_started_goes_with_it(tmp_path: Path) -> None:
    fifo = str(tmp_path / "grandchild")
    os.mkfifo(fifo)

    @ray.remote(max_retries=0)
    def task() -> None:
        child = subprocess.Popen(["sleep", "1000"])
        Path(fifo).write_text(str(child.pid))
        signal.pause()

    ref = task.remote()
    grandchild = int(Path(fifo).read_text())
    os.kill(parent_of(grandchild), signal.SIGKILL)
    with pytest.raises(WorkerCrashedError):
        ray.get(ref, timeout=LIMIT_S)
    await_end(grandchild)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def await_end(pid: int) -> None:
    """Wait until a process that is not ours to wait for has ended; a zombie has."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still alive")


# --- dying at awkward moments -------------------------------------------------------------------------------


class Fatal:
    """Kills the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (7,)


def test_a_function_that_kills_every_worker_that_unpickles_it(tmp_path: Path) -> None:
    fatal = Fatal()
    task = ray.remote(max_retries=1, name="fatal_function")(lambda x: (x, fatal))
    with pytest.raises(WorkerCrashedError, match="fatal_function") as info:
        ray.get(task.remote(1), timeout=LIMIT_S)
    assert info.value.exit_code == 7
    assert_pool_is_full(tmp_path)


def test_an_argument_that_kills_every_worker_that_unpickles_it(tmp_path: Path) -> None:
    task = ray.remote(max_retries=1, name="takes_anything")(lambda x: x)
    with pytest.raises(WorkerCrashedError, match="takes_anything") as info:
        ray.get(task.remote(Fatal()), timeout=LIMIT_S)
    assert info.value.exit_code == 7
    assert_pool_is_full(tmp_path)


def test_a_result_that_kills_its_worker_when_pickled(tmp_path: Path) -> None:
    class FatalResult:
        def __reduce__(self) -> tuple[object, ...]:
            os._exit(8)

    task = ray.remote(max_retries=1, name="gives_anything")(lambda: FatalResult())
    with pytest.raises(WorkerCrashedError, match="gives_anything") as info:
        ray.get(task.remote(), timeout=LIMIT_S)
    assert info.value.exit_code == 8
    assert_pool_is_full(tmp_path)


def test_a_worker_that_dies_after_the_function_has_returned(tmp_path: Path) -> None:
    """Between the return and the report: a task that must not run twice does not."""
    log = RunLog(tmp_path)

    class FatalStream:
        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            os._exit(9)

    @ray.remote(max_retries=0)
    def task() -> int:
        log.note()
        sys.stdout = FatalStream()  # type: ignore[assignment]
        return 1

    ref = task.remote()
    ray.wait([ref], timeout=LIMIT_S)
    assert len(log.runs()) == 1


def test_a_task_that_closes_every_descriptor(tmp_path: Path) -> None:
    """As code that makes a daemon of its process does. The worker can't report any more."""

    @ray.remote(max_retries=0)
    def task() -> int:
        os.closerange(3, 1024)
        return 1

    with pytest.raises(WorkerCrashedError, match="task"):
        ray.get(task.remote(), timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


def test_a_program_that_a_broken_pipe_would_end(tmp_path: Path) -> None:
    """A program with SIGPIPE at its default, as many have for `| head`, survives the death of a worker."""
    previous = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        victim = Victim(tmp_path, max_retries=0)
        refs = [victim.remote(0)]
        pid = victim.await_pid()
        os.kill(pid, signal.SIGKILL)
        await_end(pid)
        work = ray.remote(lambda data: len(data))
        refs += [work.remote(bytes(50_000)) for _ in range(100)]
        assert ray.get(refs[1:], timeout=LIMIT_S) == [50_000] * 100
    finally:
        signal.signal(signal.SIGPIPE, previous)


def test_a_program_that_blocks_signals_learns_of_a_death(tmp_path: Path) -> None:
    """Programs that take signals with sigwait block them everywhere; what they start inherits that."""
    ray.shutdown()
    blocked = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        ray.init(num_cpus=2)
        task = ray.remote(max_retries=0)(lambda: os._exit(3))
        with pytest.raises(WorkerCrashedError, match="exit code 3"):
            ray.get(task.remote(), timeout=LIMIT_S)
        assert_pool_is_full(tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
