"""Tasks as their caller meets them: called directly, in this process."""

from __future__ import annotations

import asyncio
import datetime
import os
from functools import partial
from typing import NamedTuple

import cloudpickle
import pytest

from grainwise.flow import (
    ActorEnvironment,
    CallError,
    ImageSpec,
    Resources,
    Task,
    TypeMismatchError,
    actor_cache,
    batched,
    current_context,
    dynamic,
    task,
    task_mock,
)
from grainwise.flow.declared.resources import read_bytes, read_cpus


class Both(NamedTuple):
    number: int
    text: str


@task
def describe(a: int, b: str = "x") -> Both:
    """Say it."""
    return Both(a, b * a)


@task
def nothing(a: int) -> None:
    pass


def test_a_task_stays_callable_in_this_process() -> None:
    seen = []

    @task
    def note(a: int) -> int:
        seen.append(os.getpid())
        return a + 1

    assert note(a=1) == note(1) == 2
    assert seen == [os.getpid()] * 2
    assert describe(3) == (3, "xxx")
    assert describe(2, b="y").text == "yy"
    assert nothing(a=1) is None
    assert partial(describe, b="z")(a=1) == (1, "z")
    assert describe.__name__ == "describe"
    assert describe.__doc__ == "Say it."
    assert describe.task_function(1, "a") == (1, "a")


def test_pairs_are_named_o0_and_o1() -> None:
    @task
    def pair() -> tuple[int, str]:
        return 1, "a"

    result = pair()
    assert result == (1, "a")
    assert (result.o0, result.o1) == (1, "a")  # type: ignore[attr-defined]
    assert cloudpickle.loads(cloudpickle.dumps(result)) == result


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing 1 required argument: 'a'"),
        ((1, "a", 3), {}, "at most 2 arguments, got 3"),
        ((1,), {"a": 1}, "'a' twice"),
        ((1,), {"c": 1}, "unexpected argument 'c'"),
    ],
)
def test_calls_that_do_not_fit(args: tuple[object, ...], kwargs: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words) as raised:
        describe(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(raised.value, (TypeError, AssertionError))


def test_a_user_error_keeps_its_type() -> None:
    class MyError(Exception):
        pass

    @task
    def fail() -> int:
        raise MyError("why")

    with pytest.raises(MyError, match="why"):
        fail()


def test_unknown_and_wrong_options_are_refused() -> None:
    def f(a: int) -> int:
        return a

    for options in (
        {"foo": 1}, {"retries": -1}, {"retries": "2"}, {"timeout": "1"}, {"timeout": -1}, {"cache": 3},
        {"cache_serialize": True}, {"cache_ignore_input_vars": ("a",)}, {"environment": {"A": 1}},
        {"requests": "1"}, {"limits": Resources(mem="lots")}, {"requests": Resources(cpu=(1, 2))},
        {"resources": Resources(cpu=1), "limits": Resources(cpu=1)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            task(f, **options)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match=r"\w"):
            dynamic(**options)(f)


def test_options_can_be_read() -> None:
    @task(retries=2, timeout=3, resources=Resources(cpu=("1", "2"), mem="1Gi"), interruptible=True)
    def f(a: int) -> int:
        return a

    assert f.metadata.retries == 2
    assert f.metadata.timeout == datetime.timedelta(seconds=3)
    assert f.metadata.interruptible is True
    assert (f.resources.requests.cpu, f.resources.limits.cpu) == ("1", "2")


def test_resources() -> None:
    assert read_cpus("125m") == 0.125
    assert read_cpus(2) == 2.0
    assert read_bytes("256Mi") == 256 << 20
    assert read_bytes("1G") == 10**9
    assert read_bytes(1024) == 1024
    for wrong in ({"cpu": {}}, {"mem": True}):
        with pytest.raises(AssertionError, match="expected numbers or text"):
            Resources(**wrong)
    with pytest.raises(ValueError, match="two: request and limit"):
        Resources(cpu=(1, 2, 3))


def test_variables_are_set_while_it_runs() -> None:
    @task(environment={"FLOW_A": "1"}, container_image=ImageSpec(env={"FLOW_A": "0", "FLOW_B": "2"}))
    def read() -> list[str | None]:
        return [os.environ.get("FLOW_A"), os.environ.get("FLOW_B")]

    assert read() == ["1", "2"]
    assert "FLOW_A" not in os.environ


def test_coroutines() -> None:
    @task
    async def double(a: int) -> int:
        await asyncio.sleep(0)
        return 2 * a

    assert asyncio.run(double(a=2)) == 4  # type: ignore[arg-type]


def test_a_task_travels_with_itself_inside() -> None:
    @task
    def countdown(n: int) -> int:
        return 0 if n == 0 else countdown(n=n - 1)

    again = cloudpickle.loads(cloudpickle.dumps(countdown))
    assert isinstance(again, Task)
    assert again(n=3) == 0
    assert again.interface.inputs["n"].annotation is int


def test_mocks_stand_in() -> None:
    with task_mock(describe) as mock:
        mock.return_value = Both(1, "mocked")
        assert describe(a=5).text == "mocked"
        mock.assert_called_once_with(a=5, b="x")
        mock.return_value = 3
        with pytest.raises(TypeMismatchError):
            describe(a=5)
    assert describe(1).text == "x"


def test_environments_check_their_definition() -> None:
    env = ActorEnvironment(
        name="my-env",
        replica_count=(1, 3),
        ttl_seconds=30,
        environment={"A": "1"},
        requests=Resources(cpu="500m"),
    )
    assert (env.min_replicas, env.max_replicas) == (1, 3)

    @env.task
    def one(a: int) -> str:
        return os.environ["A"] * a

    @env.task(retries=2)
    def two(a: int) -> int:
        return a

    assert one(a=2) == "11"
    assert (two.place, two.metadata.retries, two.options.num_cpus) == (env, 2, 0.5)
    for name in ("", "Big", "a_b", "-a", "a" * 64, 3):
        with pytest.raises(ValueError, match="name"):
            ActorEnvironment(name=name)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replica_count"):
        ActorEnvironment(name="a", replica_count=0)
    with pytest.raises(TypeError, match="replica_count"):
        ActorEnvironment(name="a", replica_count="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl_seconds"):
        ActorEnvironment(name="a", ttl_seconds=-1)
    with pytest.raises(ValueError, match="container_image"):
        env.task(container_image="x")(lambda: None)


def test_actor_cache_runs_once() -> None:
    calls = []

    @actor_cache
    def load(name: str) -> list[str]:
        calls.append(name)
        return [name]

    assert load("a") is load("a")
    assert load("b") == ["b"]
    assert calls == ["a", "b"]


def test_batched_gathers_callers() -> None:
    from concurrent.futures import ThreadPoolExecutor

    sizes = []

    @batched(max_batch_size=4, wait_s=30)
    def double(xs: list[int]) -> list[int]:
        sizes.append(len(xs))
        return [2 * x for x in xs]

    with ThreadPoolExecutor(8) as pool:  # full batches do not wait for the time
        assert list(pool.map(double, range(8))) == [2 * x for x in range(8)]
    assert sorted(sizes) == [4, 4]
    assert double.map(range(6)) == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="returned 1 results"):
        batched(max_batch_size=2)(lambda xs: [1]).map([1, 2])


def test_context() -> None:
    assert str(current_context().execution_id) == "ex:local:local:local"
    assert os.path.isdir(current_context().working_directory)


def test_image_spec() -> None:
    image = ImageSpec(name="Mine", packages=["a"], python_version="3.12").with_packages("b")
    assert image.packages == ["a", "b"]
    assert image.name == "mine"
    assert image.is_container()
    with pytest.raises(ValueError, match="packages"):
        ImageSpec(packages="a")  # type: ignore[arg-type]
