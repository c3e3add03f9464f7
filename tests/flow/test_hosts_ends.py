"""Ends of hosts, programs and replicas that nobody planned, and those that come with time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grainwise.flow.hosts import Definition, Host, HostError, find_or_start, list_hosts, stop
from tests.flow import hosted_functions as functions
from tests.flow.hosting import own_runtime_folder
from tests.leaks import run_script, start_script


@pytest.fixture(autouse=True)
def runtime_folder() -> Iterator[str]:
    with own_runtime_folder() as folder:
        yield folder


def values(outcomes: Any) -> list[Any]:
    return [outcome.result() for outcome in outcomes]


def wait_for_file(path: Path) -> None:
    while not path.exists():
        pass


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not our child is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    select.select([fd], [], [])
    os.close(fd)


def the_host() -> Any:
    [status] = list_hosts()
    return status


# --- deaths ----------------------------------------------------------------------------------------------


def test_a_killed_host_is_replaced_in_the_middle_of_a_map(tmp_path: Path) -> None:
    host = find_or_start(Definition("killed", replicas=(2, 2)))
    killed = []

    def numbers() -> Iterator[int]:
        yield from range(15_000)
        killed.append(the_host())
        os.kill(killed[0].pid, signal.SIGKILL)
        yield from range(15_000, 30_000)

    assert values(host.map(functions.double, numbers())) == [2 * x for x in range(30_000)]
    assert the_host().pid != killed[0].pid
    for pid in killed[0].replicas:
        wait_for_end(pid)


def test_a_killed_host_is_replaced_between_calls() -> None:
    host = find_or_start(Definition("killed"))
    first = host.call(os.getppid)
    os.kill(the_host().pid, signal.SIGKILL)
    assert host.call(os.getppid) != first


def test_what_a_killed_host_left_is_removed_by_who_lists(runtime_folder: str) -> None:
    host = find_or_start(Definition("killed"))
    pid = the_host().pid
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    host.close()
    assert list_hosts() == []
    assert os.listdir(Path(runtime_folder, "hosts")) == []


def test_a_host_that_is_killed_each_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill_host() -> None:
        template = os.getppid()
        stat = Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(stat[1]), signal.SIGKILL)
        signal.pause()

    host = find_or_start(Definition("cursed"))
    with pytest.raises(HostError, match="lost its host 4 times"):
        host.call(kill_host)


def test_a_replica_that_dies_is_replaced_with_its_state(tmp_path: Path) -> None:
    host = find_or_start(Definition("replica", replicas=(1, 1)))
    first = host.call(functions.load_and_count, ("model",))
    assert first[1] == 1
    [outcome] = host.map(functions.die_once, [str(tmp_path / "died")])
    again = host.call(functions.load_and_count, ("model",))
    assert outcome.result() == again[0] != first[0]
    assert again[1] == 1


def test_a_replica_that_dies_is_replaced_when_time_is_bounded(tmp_path: Path) -> None:
    host = find_or_start(Definition("replica", replicas=(1, 1)))
    [outcome] = host.map(functions.die_once, [str(tmp_path / "died")], timeout_s=60)
    assert outcome.result() > 0
    assert outcome.attempts == 2


PROGRAM = """
import os, sys
from pathlib import Path
from grainwise.flow.hosts import Definition, find_or_start
import time

def run_for_ever(path):
    Path(path).touch()
    while True:
        time.sleep(0.01)

host = find_or_start(Definition("of a program", replicas=(1, 1), ttl_s=60))
for outcome in host.map(run_for_ever, [sys.argv[1]]):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_work_of_a_program_that_ends_is_cancelled(tmp_path: Path, number: int) -> None:
    program = start_script(PROGRAM, args=[str(tmp_path / "begun")])
    wait_for_file(tmp_path / "begun")
    assert the_host().num_busy == 1
    program.send_signal(number)
    assert program.finish(30).returncode != 0
    while the_host().num_busy:
        pass
    assert the_host().num_clients == 0


# --- two programs ----------------------------------------------------------------------------------------

ASKS = """
import os, sys
from grainwise.flow.hosts import Definition, find_or_start

host = find_or_start(Definition(sys.argv[1], variables={"SIZE": sys.argv[2]}, ttl_s=60))
print(host.fingerprint, host.call(os.getpid), host.call(os.getenv, ("SIZE",)))
"""


def ask(folder: Path, name: str, size: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASKS, name, size], cwd=folder, stdout=subprocess.PIPE, text=True
    )


def test_programs_that_start_one_environment_at_once_get_one_host(tmp_path: Path) -> None:
    programs = [ask(tmp_path, "same", "small") for _ in range(4)]
    answers = {program.communicate(timeout=60)[0] for program in programs}
    assert len(answers) == 1
    assert the_host().name == "same"


def test_definitions_of_one_name_have_hosts_of_their_own(tmp_path: Path) -> None:
    programs = [ask(tmp_path, "same", size) for size in ("small", "large")]
    answers = [program.communicate(timeout=60)[0].split() for program in programs]
    assert [answer[2] for answer in answers] == ["small", "large"]
    assert sorted(status.fingerprint for status in list_hosts()) == sorted(answer[0] for answer in answers)
    assert len(stop("same")) == 2


def test_threads_that_start_one_environment_at_once_get_one_host() -> None:
    found: list[int] = []
    definition = Definition("threads")
    threads = [
        threading.Thread(target=lambda: found.append(find_or_start(definition).call(os.getpid)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_a_child_of_a_fork_has_a_connection_of_its_own() -> None:
    host = find_or_start(Definition("forked"))
    expected = host.call(os.getpid)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(host.call(os.getpid)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        assert answer.read() == str(expected)
    os.waitpid(child, 0)
    assert host.call(os.getpid) == expected


# --- time ------------------------------------------------------------------------------------------------


def test_a_host_ends_when_its_time_to_live_is_over(runtime_folder: str) -> None:
    host = find_or_start(Definition("short", ttl_s=0.05))
    template = host.call(os.getppid)
    wait_for_end(template)
    while os.listdir(Path(runtime_folder, "hosts")):
        pass
    assert host.call(os.getppid) != template


def test_a_map_that_takes_longer_than_the_time_to_live_is_not_cut_short(tmp_path: Path) -> None:
    host = find_or_start(Definition("short", ttl_s=0))
    flag = tmp_path / "go"
    outcomes = host.map(functions.wait_for, [str(flag)])
    threading.Timer(0.1, flag.touch).start()
    assert values(outcomes)


def test_calls_that_race_with_the_end_of_the_host() -> None:
    """Each call comes at about the time at which its host leaves, and nothing of that is seen."""
    definition = Definition("race", replicas=(0, 1), ttl_s=0.004)
    hosts = [find_or_start(definition) for _ in range(2)]
    pause = threading.Event()
    for number in range(8):
        pause.wait(0.001 * (number % 6))
        assert hosts[number % 2].call(functions.double, (number,)) == 2 * number


# --- definitions and modules that change -----------------------------------------------------------------


def test_an_edited_module_never_meets_a_stale_replica(tmp_path: Path) -> None:
    module = tmp_path / "edited_module.py"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    script = """
        from grainwise.flow.hosts import Definition, find_or_start
        import edited_module

        host = find_or_start(Definition("edits", ttl_s=60))
        print(host.call(edited_module.answer), host.call(edited_module.answer))
    """

    def run() -> str:
        result = run_script(
            textwrap.dedent(script),
            timeout=60,
            env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    for answer in ("one", "two", "six"):  # of one size, perhaps within one tick of a coarse clock
        module.write_text(f"def answer():\n    return {answer!r}\n")
        assert run() == f"{answer} {answer}\n"


def test_a_module_that_stays_as_it_is_keeps_its_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "steady_module.py").write_text("import os\n\ndef pid():\n    return os.getpid()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    steady = importlib.import_module("steady_module")
    host = find_or_start(Definition("steady"))
    host.call(steady.pid)
    pids = {host.call(steady.pid) for _ in range(5)}
    assert len(pids) == 1


def test_a_module_that_is_edited_while_its_replica_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "busy_module.py"
    text = "import os, time\n\ndef wait(path):\n    open(path + '.waits', 'w').close()\n"
    text += "    while not os.path.exists(path):\n        time.sleep(0.002)\n    return VERSION\n\nVERSION = "
    module.write_text(text + "1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    busy = importlib.import_module("busy_module")
    host = find_or_start(Definition("busy", replicas=(1, 1)))
    found: list[int] = []
    first = threading.Thread(target=lambda: found.append(host.call(busy.wait, (str(tmp_path / "go"),))))
    first.start()
    wait_for_file(tmp_path / "go.waits")
    module.write_text(text + "22\n")  # of another size: Python's own cache tells files of one second so
    second = threading.Thread(target=lambda: found.append(host.call(busy.wait, (str(tmp_path / "go"),))))
    second.start()
    while the_host().num_busy < 2:
        pass
    (tmp_path / "go").touch()
    first.join()
    second.join()
    assert sorted(found) == [1, 22]


CALLS_EDITED_MODULE = """
import os, sys
os.chdir(sys.argv[1])
import interrupted_module
from grainwise.flow.hosts import Definition, find_or_start

print(find_or_start(Definition("interrupted", ttl_s=60)).call(interrupted_module.run, (sys.argv[2],)))
"""


def test_a_module_that_is_edited_after_its_call_was_interrupted(tmp_path: Path) -> None:
    module, begun = tmp_path / "interrupted_module.py", tmp_path / "begun"
    text = "from tests.flow.hosted_functions import run_for_ever\n\n"
    text += "def run(path):\n    return run_for_ever(path) if path else VERSION\n\nVERSION = "
    module.write_text(text + "1\n")
    path = os.pathsep.join(
        filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])
    )  # "" would be its own folder
    program = start_script(
        CALLS_EDITED_MODULE, args=[str(tmp_path), str(begun)], env={"PYTHONPATH": path}, form="command"
    )
    wait_for_file(begun)
    before = the_host()
    program.kill()
    program.wait()
    module.write_text(text + "22\n")
    result = run_script(
        CALLS_EDITED_MODULE, args=[str(tmp_path), ""], env={"PYTHONPATH": path}, form="command", timeout=60
    )
    assert result.stdout == "22\n", result.stderr
    assert the_host().fingerprint == before.fingerprint


def test_a_long_map_goes_on_while_its_host_makes_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "passing_module.py"
    module.write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    passing = importlib.import_module("passing_module")
    host = find_or_start(Definition("passing", replicas=(2, 2)))
    flag = tmp_path / "go"
    outcomes = host.map(functions.wait_for, [str(flag)])
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(values(outcomes)))
    thread.start()
    while not list(tmp_path.glob("go.waits-*")):
        pass
    before = the_host().pid
    assert host.call(passing.double, (2,)) == 4
    module.write_text("def double(x):\n    return 20 * x\n")
    assert host.call(passing.double, (2,)) == 40
    assert the_host().pid != before
    flag.touch()
    thread.join()
    assert len(found) == 1


# --- stopping --------------------------------------------------------------------------------------------


def test_stopping_fails_what_is_under_way(tmp_path: Path) -> None:
    host = find_or_start(Definition("stopped"))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            host.call(functions.run_for_ever, (str(tmp_path / "begun"),))
        except HostError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_file(tmp_path / "begun")
    assert [status.name for status in stop("stopped")] == ["stopped"]
    thread.join()
    assert "was stopped" in str(errors[0])
    assert list_hosts() == []
    assert stop("stopped") == []


def test_a_host_that_is_told_to_terminate_ends_politely(tmp_path: Path) -> None:
    def leave() -> None:
        (tmp_path / "left").touch()

    host: Host = find_or_start(Definition("terminated", on_exit=leave))
    host.call(functions.double, (1,))
    pid = the_host().pid
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert (tmp_path / "left").exists()
    assert list_hosts() == []


def test_the_command_lists_and_stops() -> None:
    from click.testing import CliRunner

    from grainwise.cli import main

    runner = CliRunner()
    assert runner.invoke(main, ["env", "ls"]).output == "No environment is warm.\n"
    host = find_or_start(Definition("commanded", ttl_s=60))
    host.call(functions.double, (1,))
    shown = runner.invoke(main, ["env", "ls"]).output
    assert shown.startswith("NAME")
    assert f"commanded  {host.fingerprint}  {the_host().pid}" in shown
    stopped = runner.invoke(main, ["env", "stop", "commanded"])
    assert stopped.output.startswith(f"stopped commanded {host.fingerprint}")
    missing = runner.invoke(main, ["env", "stop", "commanded"])
    assert missing.exit_code == 1
    assert "no environment 'commanded' is warm" in missing.output
