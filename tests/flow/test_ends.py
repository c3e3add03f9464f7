"""How programs with workflows end: interrupted, killed, or by an error that nobody catches."""

from __future__ import annotations

from tests.leaks import check_leaks, run_script

PROGRAM = """
import os, signal, sys, time
from grainwise.flow import map_task, task, workflow

@task
def sleep(n: int, pid: int) -> int:
    if n == 1:
        os.kill(pid, signal.{signal})
    time.sleep(60)
    return n

@workflow
def wf(pid: int) -> list[int]:
    {body}

try:
    wf(pid=os.getpid())
except KeyboardInterrupt:
    print("interrupted")
"""
BRANCHES = "return [sleep(n=1, pid=pid), sleep(n=2, pid=pid)]"
MAP = "return map_task(sleep, bound_inputs={'pid'})(n=[0, 1, 2], pid=pid)"


def test_an_interrupt_ends_a_run_and_all_that_runs_for_it() -> None:
    for body in (BRANCHES, MAP):
        with check_leaks():
            result = run_script(PROGRAM.format(signal="SIGINT", body=body), timeout=50)
        assert result.returncode == 0, result.stderr
        assert result.stdout == "interrupted\n"


def test_a_killed_program_leaves_nothing() -> None:
    with check_leaks():
        result = run_script(PROGRAM.format(signal="SIGKILL", body=BRANCHES), timeout=50)
    assert result.returncode == -9
