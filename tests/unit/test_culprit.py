"""The smallest part that cannot be pickled is found and named, whatever the value does."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from typing import Any, NamedTuple

import pytest

from grainwise.objects import culprit as module
from grainwise.objects.culprit import Culprit, describe, find_culprit, safe_repr

LOCK = threading.Lock()
LOCK_REASON = "cannot pickle '_thread.lock' object"


def find(value: object) -> Culprit:
    found = find_culprit(value, name="x")
    assert found is not None
    return found


class Holder:
    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)

    def method(self) -> None: ...


class Slotted:
    __slots__ = ("_lock", "plain", "unset")

    def __init__(self) -> None:
        self.plain = 1
        self._lock = LOCK


class SlottedAndDict(Slotted):
    def __init__(self, other: object) -> None:
        super().__init__()
        self._lock = None  # type: ignore[assignment]
        self.other = other


@dataclasses.dataclass
class Config:
    name: str
    handlers: list[object]


@dataclasses.dataclass(frozen=True)
class FrozenConfig:
    __slots__ = ("lock", "name")
    name: str
    lock: object


class Pair(NamedTuple):
    left: object
    right: object


class MyList(list[object]):
    pass


class MyDict(dict[str, object]):
    pass


class OwnState:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getstate__(self) -> Any:
        return {"renamed": self.inner}


class FreshState:
    def __getstate__(self) -> Any:
        return {"fresh": threading.Lock()}


class OwnReduce:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self) -> Any:
        return OwnReduce, (1, self.inner)


class HoldingError(Exception):
    pass


def _nested() -> Any:
    conn = {"lock": LOCK}

    def function() -> object:
        return conn

    return function


def _with_default(conn: object) -> Any:
    def function(a: int = 0, b: object = conn, *, c: object = None) -> None: ...

    return function


def _with_keyword_default(conn: object) -> Any:
    def function(*, c: object = conn) -> None: ...

    return function


def _with_attribute() -> Any:
    function = _with_keyword_default(1)
    function.lock = LOCK
    return function


def _main_function(body: str, **names: object) -> Any:
    """Make a function that travels by value, since it belongs to no module that can be imported."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(body, namespace)
    return namespace["f"]


LAMBDA_IN_LIST = [1, [2, lambda: LOCK]]

PATHS: list[tuple[object, str]] = [
    (LOCK, "x"),
    ({"handlers": [0, 1, Holder(_lock=LOCK)]}, "x['handlers'][2]._lock"),
    ([1, (2, {"a": LOCK})], "x[1][1]['a']"),
    ({LOCK: 1}, "x → key <unlocked _thread.lock object"),
    ({LOCK}, "x → element <unlocked _thread.lock object"),
    (frozenset({Pair(1, 2), Pair(3, LOCK)}), "x → element Pair(left=3, right=<unlocked"),
    (collections.OrderedDict(a=1, b=LOCK), "x['b']"),
    (collections.defaultdict(list, a=[LOCK]), "x['a'][0]"),
    (collections.deque([1, LOCK]), "x[1]"),
    (MyList([1, LOCK]), "x[1]"),
    (MyDict(a=LOCK), "x['a']"),
    (Pair(1, LOCK), "x.right"),
    (Config("a", [1, LOCK]), "x.handlers[1]"),
    (FrozenConfig("a", LOCK), "x.lock"),
    (Slotted(), "x._lock"),
    (SlottedAndDict([LOCK]), "x.other[0]"),
    (OwnState([LOCK]), "x.inner[0]"),
    (FreshState(), "x.__getstate__()['fresh']"),
    (OwnReduce([LOCK]), "x.inner[0]"),
    (HoldingError("text", LOCK), "x.args[1]"),
    (functools.partial(print, 1, LOCK), "x.args[1]"),
    (functools.partial(print, end=[LOCK]), "x.keywords['end'][0]"),
    (functools.partial(_nested()), "x.func → captured variable 'conn'['lock']"),
    (Holder(a=LOCK).method, "x.__self__.a"),
    (_nested(), "x → captured variable 'conn'['lock']"),
    (_with_default([LOCK]), "x → default of parameter 'b'[0]"),
    (_with_keyword_default(LOCK), "x → default of parameter 'c'"),
    (_with_attribute(), "x.lock"),
    (_main_function("def f(): return conn", conn=[LOCK]), "x → global 'conn'[0]"),
    (_main_function("def f():\n  def g(): return conn\n  return g", conn=LOCK), "x → global 'conn'"),
    (_main_function("class f:\n  a = [conn]", conn=LOCK), "x.a[0]"),
    (_main_function("class f:\n  def m(self): return conn", conn=LOCK), "x.m → global 'conn'"),
    (
        _main_function("class f:\n  @staticmethod\n  def m(): return conn", conn=LOCK),
        "x.m.__func__ → global 'conn'",
    ),
    (
        _main_function("class f:\n  @property\n  def p(self): return conn", conn=LOCK),
        "x.p.fget → global 'conn'",
    ),
    (_main_function("class B:\n  a = conn\nclass f(B): pass", conn=LOCK), "x → base class 'B'.a"),
    (_main_function("class f:\n  a = conn", conn=LOCK)(), "x.__class__.a"),
]


@pytest.mark.parametrize(("value", "path"), PATHS, ids=[path for _, path in PATHS])
def test_path(value: object, path: str) -> None:
    found = find(value)
    assert found.path.startswith(path)
    if not path.endswith(("object", "<unlocked")):
        assert found.path == path
    assert found.type_name == "_thread.lock"
    assert found.reason == LOCK_REASON


@pytest.mark.parametrize(
    ("value", "type_name"),
    [
        ((i for i in ()), "generator"),
        (sqlite3.connect(":memory:"), "sqlite3.Connection"),
        (weakref.ref(Holder), "weakref.ReferenceType"),
        (threading.Condition(), "_thread.RLock"),
        (io.BufferedReader(io.BytesIO()), "_io.BufferedReader"),
        (sys._getframe(), "frame"),
        (threading.local(), "_thread._local"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_things_that_never_travel(value: object, type_name: str) -> None:
    found = find({"a": [value]})
    assert found.type_name == type_name
    assert found.path.startswith("x['a'][0]")
    if isinstance(value, sqlite3.Connection):
        value.close()


def test_what_can_be_pickled_has_no_culprit() -> None:
    for value in (1, [1, {"a": (2,)}], _with_default(1), Config("a", []), lambda: 1, threading, int):
        assert find_culprit(value, name="x") is None


def test_first_culprit_of_several() -> None:
    assert find([1, LOCK, 2, [LOCK]]).path == "x[1]"


# --- guilty by its own code -----------------------------------------------------------------------------


class GetstateRaises:
    def __getstate__(self) -> Any:
        raise ValueError("state is not ready")


class ReduceRaises:
    def __reduce__(self) -> Any:
        raise OSError("no way")


class ReduceExits:
    def __reduce__(self) -> Any:
        sys.exit(3)


class GetattrRecurses:
    def __getattr__(self, name: str) -> Any:
        return getattr(self, name + "x" if len(name) < 3 else name)


class ReduceNonsense:
    def __reduce__(self) -> Any:
        return 7


class ReduceUnknownGlobal:
    def __reduce__(self) -> Any:
        return "no_such_global"


class ItemsRaise(list[object]):
    def __iter__(self) -> Any:
        raise LookupError("no items")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class ReduceRaisesUnprintable:
    def __reduce__(self) -> Any:
        raise UnprintableError


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (GetstateRaises, "its __getstate__ raised ValueError: state is not ready"),
        (ReduceRaises, "its __reduce__ raised OSError: no way"),
        (ReduceExits, "its __reduce__ raised SystemExit: 3"),
        (ReduceNonsense, "__reduce__ must return a string or tuple"),
        (ReduceUnknownGlobal, "no_such_global"),
        (ItemsRaise, "LookupError: no items"),
        (ReduceRaisesUnprintable, "its __reduce__ raised UnprintableError: <unprintable>"),
    ],
)
def test_object_whose_own_code_fails(cls: type, reason: str) -> None:
    found = find({"a": [1, Holder(part=cls())]})
    assert found.path == "x['a'][1].part"
    assert found.type_name.endswith(cls.__name__)
    assert reason in found.reason


def test_endless_getattr() -> None:
    value = GetattrRecurses()
    if find_culprit(value, name="x") is not None:
        assert find([value]).path == "x[0]"


def test_keyboard_interrupt_passes() -> None:
    class Interrupting:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_culprit(Interrupting(), name="x")


def test_fails_only_once() -> None:
    class Flaky:
        n_calls = 0

        def __reduce__(self) -> Any:
            Flaky.n_calls += 1
            if Flaky.n_calls < 3:
                raise ValueError("not yet")
            return int, ()

    assert find([[Flaky()]]).path.startswith("x")


# --- shape of the graph ---------------------------------------------------------------------------------


def test_cycles() -> None:
    value: list[object] = [1]
    value += [value, {"me": value}, LOCK]
    assert find(value).path == "x[3]"


def test_bad_only_through_a_cycle_is_not_the_culprit() -> None:
    parent = Holder()
    parent.children = [Holder(parent=parent), Holder(parent=parent)]  # type: ignore[attr-defined]
    parent.lock = LOCK  # type: ignore[attr-defined]
    assert find(parent).path == "x.lock"
    assert find([parent.children[0]]).path == "x[0].parent.lock"  # type: ignore[attr-defined]


def test_one_bad_item_among_a_million_is_found_by_bisection() -> None:
    n_calls = 0

    def dumps(value: object) -> object:
        nonlocal n_calls
        n_calls += 1
        if value is LOCK or (isinstance(value, list) and LOCK in value):
            raise TypeError("lock")
        return b""

    items: list[object] = [()] * 1_000_000
    items[777_777] = LOCK
    found = find_culprit(items, name="x", dumps=dumps, time_limit_s=60)
    assert found is not None
    assert found.path == "x[777777]"
    assert n_calls < 60


def test_deep_nesting_ends() -> None:
    value: list[object] = [LOCK]
    for _ in range(100_000):
        value = [value]
    found = find(value)
    assert "recursion" in found.reason.lower()
    assert len(found.path) < 400
    assert len(found.repr) <= 200
    while len(value) == 1 and isinstance(value[0], list):  # freed level by level
        value = value[0]


def test_endless_fresh_state_ends() -> None:
    class Endless:
        def __init__(self, depth: int = 0) -> None:
            self.depth = depth

        def __reduce__(self) -> Any:
            return Endless, (), {"next": Endless(self.depth + 1)}

    assert find_culprit(Endless(), name="x", time_limit_s=0.2) is not None


def test_time_limit_names_the_innermost_part_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    def dumps(value: object) -> object:
        nonlocal now_s
        now_s += 1.0
        raise TypeError("bad")

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    found = find_culprit([[[[[[[[LOCK]]]]]]]], name="x", dumps=dumps, time_limit_s=6.5)
    assert found is not None
    assert found.path in ("x[0]", "x[0][0]", "x[0][0][0]")


def test_called_with_hardly_any_stack_left() -> None:
    def down(depth: int) -> object:
        try:
            return down(depth + 1)
        except RecursionError:
            if depth % 10:
                raise
            return find_culprit([LOCK], name="x") or "none"

    down(0)


def test_own_pickling_function() -> None:
    def dumps(value: object) -> object:
        if value == 7 or (isinstance(value, list) and 7 in value):
            raise ValueError("seven")
        return b""

    assert find_culprit([1, 7], name="x", dumps=dumps) is not None
    assert find_culprit([LOCK], name="x", dumps=dumps) is None


def test_large_buffers_are_not_copied() -> None:
    tracked = bytearray(1 << 20)
    found = find([memoryview(tracked), bytearray(1 << 20), LOCK])
    assert found.path == "x[2]"


# --- text -----------------------------------------------------------------------------------------------


def test_describe() -> None:
    assert describe(find({"a": [LOCK]})) == f"x['a'][0] is a _thread.lock: {LOCK_REASON}"
    value = GetstateRaises()
    assert describe(find([value])).startswith(f"x[0] is a {__name__}.GetstateRaises: its __getstate__ raised")
    told = describe(Culprit("x", "decimal.Decimal", "Decimal('1')", "why"))
    assert told == "x is a decimal.Decimal: why (its value: Decimal('1'))"
    assert "is an io.Thing" in describe(Culprit("x", "io.Thing", "<Thing>", "why"))


class ReprRaises:
    def __repr__(self) -> str:
        raise ValueError("no")


class ReprExits:
    def __repr__(self) -> str:
        sys.exit(1)


class ReprWrongType:
    def __repr__(self) -> str:
        return 7  # type: ignore[return-value]


class ReprSurrogate:
    def __repr__(self) -> str:
        return "a\ud800b"


class ReprHuge:
    def __repr__(self) -> str:
        return "y" * 10_000_000


class NamelessMeta(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        ReprRaises(),
        ReprExits(),
        ReprWrongType(),
        ReprSurrogate(),
        ReprHuge(),
        [ReprRaises()],
        "z" * 10_000,
        b"z" * 10_000,
        10**5000,
        list(range(1_000_000)),
        {i: i for i in range(100_000)},
        NamelessMeta("Nameless", (), {"__repr__": ReprRaises.__repr__})(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_safe_repr_never_raises_and_is_short(value: object) -> None:
    text = safe_repr(value)
    assert 0 < len(text) <= 200
    text.encode()
    assert len(safe_repr(value, 10)) <= 10


def test_safe_repr_of_plain_values() -> None:
    assert safe_repr([1, "a"]) == "[1, 'a']"
    assert safe_repr(ReprRaises()).endswith("ReprRaises object whose __repr__ raised ValueError>")
    assert safe_repr("abc", 4) == "'ab…"
    assert safe_repr(ReprSurrogate()) == "a\\ud800b"


def test_import_is_light() -> None:
    script = (
        "import sys, types, __future__, importlib.machinery as m; new = types.ModuleType('new');"
        "load = m.SourceFileLoader('new', sys.argv[1]); before = set(sys.modules); load.exec_module(new);"
        "print(' '.join(set(sys.modules) - before))"
    )
    run = [sys.executable, "-c", script, module.__file__]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip() == ""
