"""A machine with little shared memory: less room or a clear error, never a bus error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import assert_nothing_left, run_script

from .full_pool import LIMIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")

PATH = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

# Re-runs itself in a mount namespace whose /dev/shm holds 64 MB, as a container's does by default.
SMALL = """
import os, subprocess, sys

if len(sys.argv) == 1:
    inner = f"mount -t tmpfs -o size=64m none /dev/shm && exec {sys.executable} {sys.argv[0]} inner"
    sys.exit(subprocess.call(["unshare", "--map-root-user", "--mount", "sh", "-c", inner]))

assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20

import grainwise as ray

def check(i, value):
    assert len(value) == 32 << 20 and value[0] == value[-1] == i

@ray.remote
def make(i):
    return bytes([i]) * (32 << 20)

"""

ENOUGH = """
ray.init(num_cpus=2, object_store_memory=96 << 20)
stored = [ray.put(bytes([i]) * (32 << 20)) for i in range(8)]
made = [make.remote(i) for i in range(8)]
for refs in (stored, made):
    for i, ref in enumerate(refs):
        check(i, ray.get(ref, timeout=60))
print("all are there")
"""

TOO_MUCH = """
ray.init(num_cpus=2, object_store_memory=48 << 20, spill_dir="off")
stored = []
put_one = lambda: stored.append(ray.put(bytes(32 << 20)))
make_many = lambda: ray.get([make.remote(i) for i in range(8)])
for refused in (put_one, make_many):
    try:
        for _ in range(8):
            refused()
    except ray.errors.ObjectStoreFullError as error:
        print(error)
del stored[1:]
check(0, ray.get(stored[0]))
print(ray.get(ray.remote(lambda: 42).remote(), timeout=60))
"""


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    if shutil.which("unshare") is None or subprocess.call(
        ["unshare", "--map-root-user", "--mount", "true"], stderr=subprocess.DEVNULL
    ):
        pytest.skip("this machine lets nobody mount anything")


def test_more_objects_than_the_machines_shared_memory_holds(tmp_path: Path) -> None:
    """What does not fit is spilled."""
    result = run_script(SMALL + ENOUGH, timeout=2 * LIMIT_S, env={**PATH, "TMPDIR": str(tmp_path)})
    assert (result.stdout, result.stderr, result.returncode) == ("all are there\n", "", 0)
    assert_nothing_left(result.mark)
    assert list(tmp_path.iterdir()) == []


def test_without_spilling_the_error_names_the_sizes() -> None:
    result = run_script(SMALL + TOO_MUCH, timeout=2 * LIMIT_S, env=PATH)
    assert (result.stderr, result.returncode) == ("", 0)
    *errors, answer = result.stdout.splitlines()
    assert answer == "42"
    assert len(errors) == 2
    for error in errors:
        assert "32" in error
        assert "48" in error
