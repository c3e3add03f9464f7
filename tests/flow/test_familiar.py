"""What users of Flyte write, in the ways they write it."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest

from grainwise import flow
from grainwise.flow import RestrictedTypeError, TypeMismatchError, create_node, map_task, task, workflow


@task
def plus(a: int, b: int) -> int:
    return a + b


@task
def times(n: int, factors: list[int]) -> int:
    return n * sum(factors)


@task
def pair(a: int) -> (int, str):
    return a, str(a)


@workflow
def both(a: int) -> (int, str):
    number, text = pair(a=a)
    return number, text


def _pair_unquoted(a: int) -> tuple[int, str]:
    return a, str(a)


_pair_unquoted.__annotations__ = {"a": int, "return": (int, str)}  # as a file without the future import


def test_a_tuple_of_types_is_several_outputs() -> None:
    assert pair(a=3) == (3, "3")
    assert both(a=4) == (4, "4")
    assert task(_pair_unquoted)(a=5).o1 == "5"
    assert pair.python_interface.outputs == {"o0": int, "o1": str}

    class Local:
        pass

    @task
    def with_local(a: int) -> (Local, list[Local]):
        return Local(), [Local()]

    assert with_local.python_interface.outputs == {"o0": Local, "o1": list[Local]}


def test_a_tuple_of_one_is_no_output() -> None:
    with pytest.raises(RestrictedTypeError, match="tuple of one"):

        @task
        def one(a: int) -> tuple[int]:
            return (a,)


def test_the_partial_of_a_map_binds_promises(mode: str) -> None:
    @workflow
    def scaled(ns: list[int], b: int) -> list[int]:
        return map_task(functools.partial(plus, b=plus(a=b, b=1)))(a=ns)

    @workflow
    def summed(ns: list[int], factors: list[int]) -> list[int]:
        node = create_node(map_task(functools.partial(times, factors=factors)), n=ns)
        return node.o0

    @workflow
    def mixed(ns: list[int], factor: int) -> list[int]:
        return map_task(functools.partial(times, factors=[factor, 1]))(n=ns)

    assert scaled(ns=[1, 2], b=10) == [12, 13]
    assert summed(ns=[1, 2], factors=[3, 4]) == [7, 14]
    assert mixed(ns=[1, 2], factor=2) == [3, 6]


def test_a_partial_binds_promises_of_its_type() -> None:
    @workflow
    def wrong(ns: list[int], b: str) -> list[int]:
        return map_task(functools.partial(plus, b=b))(a=ns)

    with pytest.raises(TypeMismatchError, match="'b': expected `int`, got `str`"):
        wrong(ns=[1], b="x")


def test_what_has_no_type_is_anything_when_asked() -> None:
    @task(pickle_untyped=True)
    def same(a, b: int = 1):  # type: ignore[no-untyped-def]
        return [a] * b

    @workflow(pickle_untyped=True)
    def twice(a):  # type: ignore[no-untyped-def]
        return same(a=a, b=2)

    assert same(a={"x": 1}) == [{"x": 1}]
    assert twice(a="x") == ["x", "x"]
    with pytest.raises(TypeMismatchError):
        same(a=1, b="x")


def test_a_workflow_put_together_by_hand_is_a_part_of_others(mode: str) -> None:
    by_hand = flow.Workflow(name="by.hand")
    node = by_hand.add_entity(plus, a=by_hand.add_workflow_input("a", int), b=1)
    by_hand.add_workflow_output("sum", node.outputs["o0"])

    @workflow
    def around(a: int) -> int:
        return plus(a=by_hand(a=a), b=10)

    outer = flow.Workflow(name="by.hand.outer")
    inner = outer.add_subwf(by_hand, a=outer.add_workflow_input("a", int))
    outer.add_workflow_output("z", inner.outputs["sum"])
    assert around(a=1) == 12
    assert by_hand(a=3) == outer(a=3) == 4


def test_cases_may_give_values_of_different_types(mode: str) -> None:
    @task
    def text(n: int) -> str:
        return f"<{n}>"

    @workflow
    def either(n: int) -> int | str:
        return flow.conditional("which").if_(n > 3).then(plus(a=n, b=1)).else_().then(text(n=n))

    assert either(n=5) == 6
    assert either(n=1) == "<1>"


def test_a_case_gives_what_a_call_returned() -> None:
    @workflow
    def constant(n: int) -> int:
        return flow.conditional("which").if_(n > 3).then(5).else_().then(plus(a=n, b=1))

    @workflow
    def not_called(n: int) -> int:
        return flow.conditional("which").if_(n > 3).then(plus).else_().then(plus(a=n, b=1))

    for wrong in (constant, not_called):
        with pytest.raises(AssertionError, match=r"'which', then\(...\): expected what a call"):
            wrong(n=1)


class Only(NamedTuple):
    value: int


def test_the_only_field_of_a_named_tuple_may_come_without_it(mode: str) -> None:
    @task
    def bare(a: int) -> Only:
        return a  # type: ignore[return-value]

    @workflow
    def only(a: int) -> Only:
        return plus(a=bare(a=a).value, b=1)

    @workflow
    def around(a: int) -> int:
        return only(a=a).value

    assert bare(a=1) == Only(1)
    assert only(a=1) == Only(2)
    assert only(a=1).value == around(a=1) == 2


def test_a_call_may_name_what_a_plan_has_fixed(mode: str) -> None:
    @workflow
    def added(a: int, b: int = 1) -> int:
        return plus(a=a, b=b)

    plan = flow.LaunchPlan.create(f"fixed-{mode}", added, fixed_inputs={"b": 5})

    @workflow
    def around(a: int) -> int:
        return plus(a=plan(a=a), b=plan(a=a, b=100))

    assert plan(a=1) == 6
    assert plan(a=1, b=2) == 3
    assert around(a=1) == 107


def test_a_mock_stands_in_for_a_workflow(mode: str) -> None:
    @workflow
    def inner(a: int) -> int:
        return plus(a=a, b=1)

    @workflow
    def outer(a: int) -> int:
        return plus(a=inner(a=a), b=1)

    plan = flow.LaunchPlan.create(f"mocked-{mode}", inner)
    with flow.task_mock(inner) as mock:
        mock.return_value = 40
        assert inner(a=1) == plan(a=1) == 40
        assert outer(a=5) == 41
        mock.assert_called_with(a=5)
        mock.return_value = "x"
        with pytest.raises(TypeMismatchError):
            inner(a=1)
    assert outer(a=1) == 3


def test_what_a_cluster_wants_to_know_is_taken() -> None:
    from grainwise.flow.types.directory import FlyteDirectory
    from grainwise.flow.types.file import CSVFile, FlyteFile

    assert issubclass(CSVFile, FlyteFile)
    assert CSVFile.extension() == "csv"
    assert FlyteDirectory is flow.FlyteDirectory

    @task(secret_requests=[flow.Secret(group="g", key="k")], pod_template=flow.PodTemplate())
    def count(a: int) -> int:
        return a

    @workflow(docs=flow.Documentation(short_description="Count."))
    def counted(a: int = 1) -> int:
        return count(a=a)

    @workflow
    def again(a: int = 1) -> int:
        """Count again.

        And that is all.
        """
        return count(a=a)

    plan = flow.LaunchPlan.create(
        "nightly", counted, schedule=flow.CronSchedule(schedule="0 3 * * *"), labels=flow.Labels({"a": "b"}),
        notifications=[flow.Email(phases=[flow.WorkflowExecutionPhase.FAILED], recipients_email=["a@b"])],
    )  # fmt: skip
    assert plan() == 1
    assert counted.docs.short_description == "Count."
    assert again.docs.short_description == "Count again."
    assert again.docs.long_description.value == "And that is all."
    with pytest.raises(ValueError, match="CronSchedule"):
        flow.CronSchedule()


def test_memory_is_text_or_a_whole_number() -> None:
    assert flow.Resources(mem=100).mem == 100
    for name in ("mem", "gpu", "ephemeral_storage"):
        with pytest.raises(AssertionError, match=name):
            flow.Resources(**{name: 1.5})  # type: ignore[arg-type]


def test_none_as_the_default_of_anything(mode: str) -> None:
    @task
    def size(items: list[int] = None) -> int:  # type: ignore[assignment]  # noqa: RUF013
        return -1 if items is None else len(items)

    @workflow
    def sizes(items: list[int] = None) -> (int, int):  # type: ignore[assignment]  # noqa: RUF013
        return size(), size(items=items)

    assert size() == size(items=None) == -1
    assert sizes() == (-1, -1)
    assert sizes(items=[1, 2]) == (-1, 2)
    with pytest.raises(TypeMismatchError, match="items"):
        size(items=["x"])
