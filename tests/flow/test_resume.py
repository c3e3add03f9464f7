"""Resuming: what was finished does not run again, whenever the program was killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grainwise import flow
from grainwise.flow import FlyteFile, dynamic, map_task, task, workflow
from grainwise.flow.record import reading
from tests.leaks import MARK, assert_nothing_left, run_script

calls: list[str] = []
broken: set[int] = set()


@task
def numbers(n: int) -> list[int]:
    calls.append("numbers")
    return list(range(n))


@task
def step(x: int) -> int:
    calls.append(f"step {x}")
    if x in broken:
        raise ValueError(f"broken: {x}")
    return 10 * x


@task
def total(xs: list[int]) -> int:
    calls.append("total")
    return sum(xs)


@dynamic
def halves(xs: list[int]) -> list[int]:
    return [total(xs=xs[:2]), total(xs=xs[2:])]


@workflow
def whole(n: int) -> int:
    return total(xs=halves(xs=map_task(step, run_all_sub_nodes=True)(x=numbers(n=n))))


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    broken.clear()


def test_a_failed_run_goes_on() -> None:
    broken.update({1, 3})
    with flow.inline(), pytest.raises(ValueError, match="broken: 1"):
        whole(n=5)
    assert len(calls) == 6
    calls.clear()
    broken.discard(1)
    with flow.inline(), pytest.raises(ValueError, match="broken: 3"), flow.resume("last"):
        whole(n=5)
    assert calls == ["step 1", "step 3"]
    calls.clear()
    broken.clear()
    with flow.inline(), flow.resume("last") as earlier:
        assert earlier.inputs == {"n": 5}
        assert whole(**earlier.inputs) == 100
        assert (earlier.n_nodes, earlier.n_elements) == (1, 4)
    assert calls == ["step 3", "total", "total", "total"]
    [run] = flow.list_runs()
    assert (run.state, run.n_resumes, run.error) == ("done", 2, None)
    with pytest.raises(flow.RecordError, match="is done"), flow.resume("last"):
        pass


def test_on_the_engine_too(tmp_path: Path) -> None:
    @task
    def noted(x: int, folder: str) -> int:
        with open(os.path.join(folder, f"ran-{x}"), "a") as file:
            file.write(".")
        if x == 2 and not os.path.exists(os.path.join(folder, "mended")):
            raise ValueError("not yet")
        return -x

    @workflow
    def wf(folder: str) -> list[int]:
        return map_task(noted, run_all_sub_nodes=True, bound_inputs={"folder"})(
            x=list(range(50)), folder=folder
        )  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="not yet"):
        wf(folder=str(tmp_path))
    (tmp_path / "mended").touch()
    with flow.resume("last"):
        assert wf(folder=str(tmp_path)) == [-x for x in range(50)]
    assert {path.name for path in tmp_path.glob("ran-*") if path.read_text() != "."} == {"ran-2"}


def test_a_map_by_itself_goes_on() -> None:
    broken.add(7)
    mapped = map_task(step, run_all_sub_nodes=True)
    with flow.inline(), pytest.raises(ValueError, match="broken"):
        mapped(x=list(range(10)))
    calls.clear()
    broken.clear()
    with flow.inline(), flow.resume("last"):
        assert mapped(x=list(range(10))) == [10 * x for x in range(10)]
    assert calls == ["step 7"]


def test_other_inputs_run_anew() -> None:
    broken.add(4)
    with flow.inline(), pytest.raises(ValueError, match="broken"):
        whole(n=5)
    calls.clear()
    with flow.inline(), flow.resume("last"):
        assert whole(n=4) == 60
    assert calls == ["numbers", "step 0", "step 1", "step 2", "step 3", "total", "total", "total"]


def test_a_file_that_is_gone_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "made"

    @task
    def make() -> FlyteFile:
        calls.append("make")
        path.write_text("x")
        return FlyteFile(str(path))

    @task
    def use(file: FlyteFile) -> int:
        if broken:
            raise ValueError("broken")
        return len(Path(file).read_text())

    @workflow
    def wf() -> int:
        return use(file=make())

    broken.add(0)
    with flow.inline(), pytest.raises(ValueError, match="broken"):
        wf()
    with flow.inline(), pytest.raises(ValueError, match="broken"), flow.resume("last"):
        wf()
    assert calls == ["make"]
    broken.clear()
    path.unlink()
    with flow.inline(), flow.resume("last"):
        assert wf() == 1
    assert calls == ["make", "make"]


def test_the_failure_node_runs_each_time() -> None:
    @task
    def clean_up(n: int) -> None:
        calls.append("clean up")

    @workflow(on_failure=clean_up)
    def wf(n: int) -> list[int]:
        return map_task(step)(x=numbers(n=n))  # type: ignore[no-any-return]

    broken.add(0)
    with flow.inline():
        with pytest.raises(ValueError, match="broken"):
            wf(n=1)
        with pytest.raises(ValueError, match="broken"), flow.resume("last"):
            wf(n=1)
    assert calls == ["numbers", "step 0", "clean up", "step 0", "clean up"]


def test_nobody_resumes_what_is_under_way() -> None:
    with flow.inline(), pytest.raises(flow.RecordError, match="no run"), flow.resume("last"):
        pass

    @task
    def meddle() -> int:
        with pytest.raises(flow.RecordError, match="under way"), flow.resume("last"):
            pass
        return 1

    @workflow
    def wf() -> int:
        return meddle()

    with flow.inline():
        assert wf() == 1


# -- killed ----------------------------------------------------------------------------------------------

INLINE = """
import os, random, signal, sys
from grainwise import flow
from grainwise.flow import task, workflow, map_task, dynamic
from grainwise.flow.record import reading

N = 300
log = None
kill_at = None
rng = random.Random({seed})

def note(text):
    os.write(log, (text + "\\n").encode())
    global kill_at
    if kill_at is not None:
        kill_at -= 1
        if kill_at == 0:
            os.kill(os.getpid(), signal.SIGKILL)

@task
def numbers(n: int) -> list[int]:
    note("numbers")
    return list(range(n))

@task
def step(x: int) -> int:
    if x % 60 == 0:  # long enough for what came before to be written
        import time
        time.sleep(0.03)
    note(f"step {{x}}")
    return 3 * x

@task
def total(xs: list[int]) -> int:
    note(f"total {{len(xs)}} {{sum(xs)}}")
    return sum(xs)

@dynamic
def parts(xs: list[int]) -> list[int]:
    return [total(xs=xs[:k]) for k in (10, 20, 30)]

@workflow
def whole(n: int) -> int:
    return total(xs=parts(xs=map_task(step)(x=numbers(n=n))))

def begin(folder):
    global log
    os.environ["GRAINWISE_RUN_DIR"] = folder
    log = os.open(folder + ".log", os.O_RDWR | os.O_CREAT | os.O_APPEND)

def recorded():
    found = set()
    with reading.reading() as connection:
        [run] = connection.execute("SELECT run_id FROM runs").fetchall()
        for row in connection.execute("SELECT path, state FROM nodes").fetchall():
            if row["path"] == "n1":
                found |= {{f"step {{i}}" for i in reading.load_elements(connection, run["run_id"], "n1")}}
            elif row["state"] == "done" and row["path"] == "n0":
                found.add("numbers")
            elif row["state"] == "done" and row["path"].startswith("n2/"):
                size = 10 * (1 + int(row["path"][-1]))
                found.add(f"total {{size}} {{sum(3 * x for x in range(size))}}")
    return found

with flow.inline():
    folders = []
    for k in range({n_points}):
        folders.append(f"{folder}/run{{k}}")
        at = rng.randrange(1, N + 6)
        child = os.fork()
        if child == 0:
            begin(folders[-1])
            kill_at = at
            whole(n=N)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    n_twice = []
    for folder in folders:
        begin(folder)
        try:
            done = recorded()
        except ValueError:  # killed before the run was in the record
            continue
        at = os.fstat(log).st_size
        with flow.resume("last") as earlier:
            assert whole(**earlier.inputs) == 3 * sum(sum(range(k)) for k in (10, 20, 30))
        ran = os.pread(log, 1 << 20, at).decode().split("\\n")[:-1]
        assert len(ran) == len(set(ran)), ran
        assert not done & set(ran), done & set(ran)
        before = os.pread(log, at, 0).decode().split("\\n")[:-1]
        assert {{f"step {{x}}" for x in range(N)}} <= set(before) | set(ran)
        n_twice.append(len(set(before) & set(ran)))
        # All but what came since the last pause: the record is at most some milliseconds behind.
        assert len(set(before) - set(ran) - done) == 0
    print(len(n_twice), max(n_twice))
"""


def killed_inline(tmp_path: Path, n_points: int, seed: int) -> None:
    program = INLINE.format(folder=tmp_path, n_points=n_points, seed=seed)
    done = run_script(program, timeout=30 + 2 * n_points)
    assert done.returncode == 0, done.stderr
    n_resumed, most = map(int, done.stdout.split())
    assert n_resumed > n_points // 2
    assert most < 200


def test_killed_at_ten_points(tmp_path: Path) -> None:
    killed_inline(tmp_path, 10, seed=1)


@pytest.mark.slow
def test_killed_at_two_hundred_points(tmp_path: Path) -> None:
    killed_inline(tmp_path, 200, seed=2)


ENGINE = """
import os, time
from grainwise.flow import task, workflow, map_task

def note(text: str) -> None:
    log = os.open(os.environ["FLOW_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, (text + "\\n").encode())
    os.close(log)

@task
def numbers(n: int) -> list[int]:
    note("numbers")
    return list(range(n))

@task
def step(x: int) -> int:
    time.sleep(0.001)
    note(f"step {x}")
    return 3 * x

@task
def total(xs: list[int]) -> int:
    note("total")
    return sum(xs)

@workflow
def whole(n: int) -> int:
    return total(xs=map_task(step)(x=numbers(n=n)))
"""
COMMAND = [sys.executable, "-c", "from grainwise.cli import main; main()", "run"]


def killed_on_the_engine(tmp_path: Path, at: int, n: int) -> None:
    """Kill a driver when so many elements have run, and resume it."""
    log, file = tmp_path / f"log{at}", tmp_path / "flow_that_is_killed.py"
    file.write_text(ENGINE)
    log.touch()
    mark = f"{os.environ[MARK]}/{tmp_path.name}-{at}"
    surroundings = {
        **os.environ,
        MARK: mark,
        "FLOW_LOG": str(log),
        "GRAINWISE_RUN_DIR": str(tmp_path / f"runs{at}"),
    }
    run = subprocess.Popen(
        [*COMMAND, str(file), "whole", "--n", str(n)], env=surroundings, stdout=subprocess.PIPE, text=True
    )
    while log.read_bytes().count(b"\n") < at and run.poll() is None:
        pass
    run.send_signal(signal.SIGKILL)
    out = run.communicate(timeout=60)[0]
    assert run.returncode == -signal.SIGKILL, out
    assert_nothing_left(mark)
    os.environ["GRAINWISE_RUN_DIR"] = surroundings["GRAINWISE_RUN_DIR"]  # the fixture puts it back
    [info] = flow.list_runs()
    assert info.state == "lost"
    with reading.reading() as connection:
        done = set(reading.load_elements(connection, info.run_id, "n1"))
    before = log.read_text().split("\n")[:-1]
    resumed: Any = subprocess.run(
        [*COMMAND, "--resume", "last"], env=surroundings, capture_output=True, text=True, timeout=60
    )
    assert (resumed.returncode, resumed.stdout) == (0, f"{3 * sum(range(n))}\n"), resumed.stderr
    ran = [line for line in log.read_text().split("\n")[:-1] if line.startswith("step")]
    again = set(ran[sum(line.startswith("step") for line in before) :])
    assert not {f"step {x}" for x in done} & again
    assert set(ran) == {f"step {x}" for x in range(n)}


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    killed_on_the_engine(tmp_path, 150, 400)


@pytest.mark.slow
def test_commands_killed_at_many_points_go_on(tmp_path: Path) -> None:
    rng = random.Random(3)
    for at in sorted(rng.sample(range(1, 395), 30)):
        killed_on_the_engine(tmp_path, at, 400)
