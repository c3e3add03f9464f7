# pyright: strict
"""What a user's type checker must refuse: every line marked `# refused`, and no other. Checked, never run."""

from __future__ import annotations

from grainwise import ObjectRef, cancel, get, init, put, remote, wait


@remote
def double(x: int) -> int:
    return 2 * x


@remote(num_cpus=1)
def join(first: str, *, sep: str = " ") -> str:
    return first + sep


# Arguments that the function does not take.
double.remote("x")  # refused
double.remote()  # refused
double.remote(1, 2)  # refused
double.remote(y=1)  # refused
double.remote(x="x")  # refused
double.remote([put(1)])  # refused
join.remote("a", sep=1)  # refused
join.remote("a", "b")  # refused
double.options(num_cpus=2).remote("x")  # refused

# A remote function is not called directly.
double(1)  # refused

# Results of another type.
text: str = get(double.remote(1))  # refused
texts: list[str] = get([double.remote(1)])  # refused
ref: ObjectRef[str] = double.remote(1)  # refused
narrower: ObjectRef[bool] = double.remote(1)  # refused
stored: ObjectRef[str] = put(3)  # refused

# Not a ref, or one where several are expected.
get(3)  # refused
get([1, 2])  # refused
get(double)  # refused
wait(double.remote(1))  # refused
cancel(3)  # refused
put()  # refused

# Misspelt or mistyped options.
get(double.remote(1), timeout="1")  # refused
double.options(num_cpu=1)  # refused
double.options(max_retries="3")  # refused
remote(num_cpu=1)  # refused
init(num_cpu=2)  # refused
init(num_cpus="2")  # refused


async def in_a_coroutine() -> None:
    awaited: str = await double.remote(1)  # refused
    print(awaited)
