"""What tests of Ray's users take from Ray's own inside: signals, conditions, programs, the worker's facts."""

import asyncio
import subprocess

import ray
from ray._common.test_utils import (
    Semaphore,
    SignalActor,
    async_wait_for_condition,
    run_string_as_driver,
    wait_for_condition,
)
from ray._private.test_utils import (
    run_string_as_driver_nonblocking,
    same_elements,
    wait_for_pid_to_exit,
)

ray.init(num_cpus=2)


@ray.remote(num_cpus=0)
def hold(signal):
    ray.get(signal.wait.remote())
    return "open"


signal = SignalActor.remote()
held = [hold.remote(signal) for _ in range(3)]
wait_for_condition(lambda: ray.get(signal.cur_num_waiters.remote()) == 3, timeout=60)
assert ray.wait(held, timeout=0)[0] == []
ray.get(signal.send.remote())
assert ray.get(held) == ["open"] * 3
assert ray.get(signal.wait.remote(should_wait=False)) is None

semaphore = Semaphore.remote(value=1)
assert not ray.get(semaphore.locked.remote())
ray.get(semaphore.acquire.remote())
assert ray.get(semaphore.locked.remote())
ray.get(semaphore.release.remote())

counted = []


def third():
    counted.append(1)
    if len(counted) < 2:
        raise ValueError("too early")
    return len(counted) == 3


wait_for_condition(third, retry_interval_ms=1)
try:
    wait_for_condition(lambda wanted: wanted == 2, timeout=0, retry_interval_ms=1, wanted=1)
except RuntimeError as error:
    assert "wasn't met" in str(error)
else:
    raise AssertionError
asyncio.run(async_wait_for_condition(lambda: True))
assert same_elements([1, 2, 2], [2, 1, 2])


@ray.remote(num_cpus=0)
class Process:
    def pid(self):
        import os

        return os.getpid()


process = Process.remote()
pid = ray.get(process.pid.remote())
ray.kill(process)
wait_for_pid_to_exit(pid)

assert run_string_as_driver("import ray\nprint('ray', bool(ray.get))") == "ray True\n"
try:
    run_string_as_driver("print('so far')\nraise SystemExit(3)")
except subprocess.CalledProcessError as error:
    assert error.returncode == 3
else:
    raise AssertionError
started = run_string_as_driver_nonblocking("print('beside')")
assert started.stdout.read().strip() == b"beside"
assert started.wait() == 0
started.stdout.close()
started.stderr.close()

worker = ray._private.worker.global_worker
assert worker.connected
assert worker.mode == ray._private.worker.SCRIPT_MODE
assert worker.current_job_id.hex() == ray.get_runtime_context().get_job_id()
assert worker.worker_id.hex() == ray.get_runtime_context().get_worker_id()
assert isinstance(ray._raylet.ActorID.nil(), ray._raylet.BaseID)

large = ray.put(bytes(1 << 20))
assert ray.experimental.get_object_locations([large])[large]["node_ids"] == [
    ray.get_runtime_context().get_node_id()
]

ray.shutdown()
assert not worker.connected
print("done")
