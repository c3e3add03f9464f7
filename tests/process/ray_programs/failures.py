"""Errors of tasks, retries, time limits, cancelling."""

import os
import tempfile
import time

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, TaskCancelledError, WorkerCrashedError

ray.init(num_cpus=2)


class AppError(Exception):
    pass


@ray.remote
def fail(text):
    raise AppError(text)


@ray.remote
def pass_on(value):
    return value


for kind in (AppError, RayTaskError, RayError):
    try:
        ray.get(fail.remote("broken"))
    except kind as error:
        assert isinstance(error.cause, AppError)
        assert "broken" in str(error)
        assert isinstance(error.as_instanceof_cause(), AppError)
    else:
        raise AssertionError

try:
    ray.get(pass_on.remote(fail.remote("first")))
except RayTaskError as error:
    assert "first" in str(error)
else:
    raise AssertionError


@ray.remote(max_retries=2, retry_exceptions=[AppError])
def flaky(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        raise AppError("not yet")
    return os.path.getsize(path)


with tempfile.TemporaryDirectory() as folder:
    assert ray.get(flaky.remote(os.path.join(folder, "log"))) == 3


@ray.remote(max_retries=0)
def die():
    os._exit(1)


try:
    ray.get(die.remote())
except WorkerCrashedError:
    pass
else:
    raise AssertionError


@ray.remote
def forever():
    while True:
        time.sleep(0.01)


endless = forever.remote()
try:
    ray.get(endless, timeout=0.1)
except GetTimeoutError as error:
    assert isinstance(error, TimeoutError)
else:
    raise AssertionError
ray.cancel(endless)
try:
    ray.get(endless, timeout=30)
except (TaskCancelledError, RayTaskError):
    pass
else:
    raise AssertionError
print("done")
