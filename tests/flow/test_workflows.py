"""Workflows: traced, typed before anything runs, and run wherever they run."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest

from grainwise import flow
from grainwise.flow import (
    CallError,
    FailureNodeError,
    FlyteError,
    LaunchPlan,
    Promise,
    Resources,
    TypeMismatchError,
    Workflow,
    WorkflowFailurePolicy,
    conditional,
    create_node,
    dynamic,
    task,
    task_mock,
    workflow,
)


class Split(NamedTuple):
    number: int
    word: str


@task
def split(a: int) -> Split:
    return Split(a + 2, "world")


@task
def join(a: str, b: str) -> str:
    return b + a


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def same(a: str) -> str:
    return a


@task
def void(a: int) -> None:
    pass


@task
def nested_data() -> dict[str, list[Split]]:
    return {"k": [Split(1, "a"), Split(2, "b")]}


@task
def fail(a: int) -> int:
    raise ValueError(f"failed with {a}")


@workflow
def hello(a: int, b: str = "hello ") -> tuple[int, str]:
    number, word = split(a=a)
    return number, join(a=word, b=b)


@workflow
def outer(a: int = 3) -> Split:
    number, text = hello(a=a)
    return Split(add(a=number, b=add(a=1)), text)


def test_a_workflow_gives_plain_values(mode: str) -> None:
    assert hello(a=5) == (7, "hello world")
    assert hello(5, "bye ").o1 == "bye world"  # type: ignore[attr-defined]
    assert outer() == Split(7, "hello world")


def test_its_nodes_can_be_looked_at() -> None:
    assert [node.id for node in hello.nodes] == ["n0", "n1"]
    assert hello.nodes[1].upstream_nodes == [hello.nodes[0]]
    assert hello.nodes[0].flyte_entity is split
    assert list(hello.python_interface.inputs) == ["a", "b"]
    assert list(hello.python_interface.outputs) == ["o0", "o1"]
    assert hello.name.endswith("hello")


def test_promises_in_containers_and_parts_of_promises(mode: str) -> None:
    @workflow
    def parts(a: int) -> tuple[int, list[int], dict[str, str]]:
        data = nested_data()
        return total(xs=[a, 3, add(a=a)]), [data["k"][0].number, a], {"w": same(a=data["k"][1].word)}

    assert parts(a=1) == (6, [1, 1], {"w": "b"})

    @workflow
    def missing() -> str:
        return same(a=nested_data()["no"][0].word)

    with pytest.raises(AssertionError, match="'no'"):
        missing()


def test_types_are_checked_before_anything_runs() -> None:
    ran = []

    @task
    def note() -> int:
        ran.append(1)
        return 1

    @workflow
    def wrong_edge() -> str:
        return same(a=note())  # type: ignore[arg-type]

    @workflow
    def wrong_value() -> str:
        note()
        return same(a=3)  # type: ignore[arg-type]

    @workflow
    def wrong_output() -> str:
        return note()  # type: ignore[return-value]

    @workflow
    def too_few() -> tuple[int, int]:
        return note()  # type: ignore[return-value]

    with flow.inline():
        for call, words in (
            (wrong_edge, "argument 'a': expected `str`, got `int` from Promise"),
            (wrong_value, "argument 'a': expected `str`, got `int` at `a`"),
            (wrong_output, "output 'o0': expected `str`, got `int`"),
            (too_few, "declares 2 outputs"),
        ):
            with pytest.raises((TypeMismatchError, CallError), match=words):
                call()
    assert not ran


def test_promises_are_no_values() -> None:
    def body(kind: str) -> Any:
        @workflow
        def wf(a: int) -> int:
            if kind == "if":
                return a if a > 3 else 0
            if kind == "and":
                return conditional("c").if_(a == 1 and a == 2).then(add(a=a)).else_().fail("no")  # type: ignore[arg-type]
            if kind == "range":
                return total(xs=[add(a=i) for i in range(a)])
            for _ in a:  # type: ignore[attr-defined]
                pass
            return a

        return wf

    for kind, error in (("if", ValueError), ("and", ValueError), ("range", TypeError), ("for", ValueError)):
        with pytest.raises(error):
            body(kind)(a=1)


def test_order_and_overrides() -> None:
    @workflow
    def ordered(a: int) -> int:
        first = void(a=a)
        second = add(a=a).with_overrides(  # type: ignore[attr-defined]
            node_name="Second_Node", retries=3, requests=Resources(cpu="500m"), timeout=5
        )
        first >> second  # type: ignore[operator]
        node = create_node(add, a=a, b=2)
        second >> node
        return node.o0  # type: ignore[return-value]

    nodes = ordered.nodes
    assert [node.id for node in nodes] == ["n0", "second-node", "n2"]
    assert nodes[1].upstream_node_ids == ["n0"]
    assert nodes[2].upstream_node_ids == ["second-node"]
    assert nodes[1].metadata.retries == 3
    with flow.inline():
        assert ordered(a=2) == 4

    @workflow
    def bad(a: int) -> int:
        return add(a=a).with_overrides(foo=1)  # type: ignore[attr-defined,no-any-return]

    with pytest.raises(ValueError, match="foo"):
        bad(a=1)
    with pytest.raises(RuntimeError, match="outside of a workflow"):
        create_node(add, a=1)


def test_conditionals(mode: str) -> None:
    @workflow
    def size(a: int, flag: bool = True) -> str:
        return (
            conditional("size")
            .if_(a == 4).then(same(a="four"))
            .elif_((a > 4) & (a < 10)).then(
                conditional("inner").if_(flag.is_true()).then(same(a="mid")).else_().then(same(a="other"))  # type: ignore[attr-defined]
            )
            .elif_((a < 0) | (a == 3)).then(join(a=same(a="chained"), b=">"))
            .else_().fail("too large")
        )  # fmt: skip

    results = [size(a=a) for a in (4, 6, -1, 3)] + [size(a=6, flag=False)]
    assert results == ["four", "mid", ">chained", ">chained", "other"]
    with pytest.raises(ValueError, match="too large"):
        size(a=50)


def test_only_the_chosen_case_runs() -> None:
    ran = []

    @task
    def note(a: str) -> str:
        ran.append(a)
        return a

    @workflow
    def choose(a: int) -> str:
        return conditional("c").if_(add(a=a) > 3).then(note(a="big")).else_().then(note(a="small"))  # type: ignore[operator,no-any-return]

    with flow.inline():
        assert choose(a=5) == "big"
    assert ran == ["big"]
    with pytest.raises(AssertionError, match="outside of a workflow"):
        conditional("c")


def test_conditionals_that_are_not_complete() -> None:
    @workflow
    def no_else(a: int) -> str:
        return conditional("c").if_(a == 1).then(same(a="x"))  # type: ignore[no-any-return]

    @workflow
    def no_comparison(a: bool) -> str:
        return conditional("c").if_(a).then(same(a="x")).else_().fail("no")  # type: ignore[no-any-return]

    with pytest.raises(AssertionError, match="conditional"):
        no_else(a=1)
    with pytest.raises(AssertionError, match="is_true"):
        no_comparison(a=True)


def test_dynamic_workflows(mode: str) -> None:
    @dynamic
    def sum_of(n: int) -> int:
        if n == 0:
            return add(a=0, b=0)
        return add(a=sum_of(n=n - 1), b=n)

    @workflow
    def run(n: int) -> list[int]:
        return [sum_of(n=n), sum_of(n=add(a=n))]

    assert sum_of(n=3) == 6
    assert run(n=2) == [3, 6]


@task
def handle(a: int, err: FlyteError | None = None) -> None:
    assert err is not None
    with open(os.environ["FLOW_TEST_FILE"], "a") as file:
        file.write(f"{a} {err.message} {err.failed_node_id}\n")


def test_on_failure(mode: str, tmp_path: Any) -> None:
    path = tmp_path / "seen"

    @workflow(on_failure=handle.with_place(None))
    def wf(a: int) -> int:
        return fail(a=add(a=a))

    on_failure = task(handle.task_function, environment={"FLOW_TEST_FILE": str(path)})
    wf.on_failure = on_failure
    with pytest.raises(ValueError, match="failed with 4"):
        wf(a=3)
    assert path.read_text() == "3 ValueError: failed with 4 n1\n"

    @workflow(on_failure=handle)
    def mismatch(b: int) -> int:
        return fail(a=b)

    with pytest.raises(FailureNodeError, match="'a'"):
        mismatch(b=1)


def test_what_can_still_run_does_if_asked() -> None:
    ran = []

    @task
    def note(a: int) -> int:
        ran.append(a)
        return a

    def body(a: int) -> int:
        bad = fail(a=a)
        note(a=1)
        note(a=bad)
        return note(a=note(a=2))

    policy = WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
    with flow.inline():
        with pytest.raises(ValueError, match="failed with 1"):
            workflow(failure_policy=policy)(body)(a=1)
        assert ran == [1, 2, 2]
        ran.clear()
        with pytest.raises(ValueError, match="failed with 1"):
            workflow(body)(a=1)
    assert ran == []


def test_nodes_that_wait_for_each_other_are_told() -> None:
    @workflow
    def circle(a: int) -> int:
        x, y = add(a=a), add(a=a)
        x >> y  # type: ignore[operator]
        y >> x  # type: ignore[operator]
        return x

    with flow.inline(), pytest.raises(flow.FlowError, match="wait for each other"):
        circle(a=1)


def test_workflows_put_together_by_hand(mode: str) -> None:
    wf = Workflow(name="by.hand")
    with pytest.raises(AssertionError, match="no calls"):
        wf()
    text = wf.add_workflow_input("text", str)
    assert isinstance(text, Promise)
    assert not wf.ready()
    node = wf.add_entity(same, a=wf.inputs["text"])
    other = wf.add_task(join, a=node.outputs["o0"], b="<")
    wf.add_workflow_output("first", node.o0)
    assert wf(text="a") == "a"
    wf.add_workflow_output("both", [node.outputs["o0"], other.outputs["o0"]], python_type=list[str])
    assert wf(text="a") == ("a", ["a", "<a"])
    assert wf(text="a").both == ["a", "<a"]
    for wrong in (
        lambda: wf.add_workflow_input("text", str),
        lambda: wf.add_workflow_output("first", node.o0),
        lambda: wf.add_workflow_output("third", [node.o0]),
        lambda: wf.add_entity(same, b=1),
        lambda: wf.add_entity(same),
        lambda: wf.add_entity(same, a=1),
        lambda: wf(text=3),
        lambda: wf("a"),
    ):
        with pytest.raises(AssertionError):
            wrong()

    @workflow
    def around(a: str) -> str:
        first, _ = wf(text=a)
        return same(a=first)

    assert around(a="q") == "q"


def test_launch_plans(mode: str) -> None:
    name = f"plan-{mode}"
    plan = LaunchPlan.get_or_create(hello, name, default_inputs={"a": 1}, fixed_inputs={"b": "hi "})
    assert plan() == (3, "hi world")
    assert plan(a=2) == (4, "hi world")
    assert LaunchPlan.get_or_create(hello, name, default_inputs={"a": 1}, fixed_inputs={"b": "hi "}) is plan
    assert LaunchPlan.get_or_create(hello) is LaunchPlan.get_or_create(hello)
    assert list(plan.interface.inputs) == ["a"]
    for wrong, error in (
        (lambda: LaunchPlan.get_or_create(hello, name, default_inputs={"a": 2}), AssertionError),
        (lambda: LaunchPlan.create(name, hello), AssertionError),
        (lambda: LaunchPlan.get_or_create(hello, default_inputs={"a": 2}), ValueError),
        (lambda: LaunchPlan.get_or_create(hello, "other", default_inputs={"z": 2}), KeyError),
        (lambda: LaunchPlan.get_or_create(hello, "other", fixed_inputs={"a": "x"}), TypeError),
        (lambda: plan(3), AssertionError),
    ):
        with pytest.raises(error):
            wrong()  # type: ignore[no-untyped-call]

    @workflow
    def around() -> int:
        number, _ = plan(a=5)
        return number  # type: ignore[no-any-return]

    assert around() == 7


def test_mocks_stand_in_for_tasks_of_a_workflow(mode: str) -> None:
    with task_mock(split) as first, task_mock(join) as second:
        first.return_value = Split(1, "mocked")
        second.side_effect = lambda a, b: a + b
        assert hello(a=9) == (1, "mockedhello ")


def test_constants_and_inputs_are_outputs_too(mode: str) -> None:
    @workflow
    def through(a: int) -> tuple[int, int, str]:
        return a, 5, "x"

    @workflow
    def empty(a: int) -> None:
        pass

    assert through(a=1) == (1, 5, "x")
    assert empty(a=1) is None


def test_workflows_in_tasks_stay_in_the_task(mode: str) -> None:
    @task
    def inner(a: int) -> list[int]:
        return [os.getpid(), *[int(pid) for pid in pids(n=a)]]

    @task
    def pid(a: int) -> int:
        return os.getpid()

    @dynamic
    def pids(n: int) -> list[int]:
        return [pid(a=i) for i in range(n)]

    @workflow
    def wf(a: int) -> list[int]:
        return inner(a=a)

    assert len(set(wf(a=3))) == 1
