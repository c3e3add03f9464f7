"""Notebooks: real cells, run one after another in a real kernel, as nbclient, papermill and Jupyter do it.

A test names its cells with `cells(...)`; the cells of all selected tests run first, in one kernel, and each
test then looks at what became of its own. What happens to a kernel as a whole has a kernel of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

import grainwise
from tests.leaks import MARK, assert_nothing_left

from .full_pool import LIMIT_S
from .signposts import Sign, wait_until_gone

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SOON_S = 1.0
"""An interrupted cell must end within this time."""

PRELUDE = """
import os, sys, time
import grainwise as ray

def up(name):
    open(name, "w").close()

def wait_for(name, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not os.path.exists(name):
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.002)
"""

F = TypeVar("F", bound=Callable[..., None])


class Cell(NamedTuple):
    """A cell, and the sign at which "interrupt" is pressed, if it is."""

    source: str
    sign: str = ""


class Ran:
    """What became of a cell."""

    def __init__(self, cell: Any, interrupted_s: float) -> None:
        self.outputs = cell.outputs
        self.interrupted_s = interrupted_s  # from the interrupt to the end

    def _stream(self, name: str) -> str:
        return "".join(out["text"] for out in self.outputs if out.get("name") == name)

    @property
    def stdout(self) -> str:
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    @property
    def shown(self) -> list[dict[str, str]]:
        """What it displays, richly: by MIME type."""
        return [dict(out["data"]) for out in self.outputs if "data" in out]

    @property
    def value(self) -> str:
        """The text of its last line's value."""
        assert not self.error, self.error
        (found,) = [out for out in self.outputs if out["output_type"] == "execute_result"]
        return str(found["data"]["text/plain"])

    @property
    def error(self) -> str:
        """Its traceback, without colours."""
        found = ["\n".join(out["traceback"]) for out in self.outputs if out["output_type"] == "error"]
        return re.sub(r"\x1b\[[0-9;]*m", "", "".join(found))

    @property
    def error_name(self) -> str:
        return "".join(out["ename"] for out in self.outputs if out["output_type"] == "error")


class Notebook:
    """A running kernel and what has been run in it. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{os.environ[MARK]}/{uuid.uuid4()}"
        self.terminal = folder / "terminal"
        folder.mkdir()
        (folder / "cwd").mkdir()
        self._client = nbclient.NotebookClient(
            nbformat.v4.new_notebook(), timeout=60, kernel_name="python3", allow_errors=True
        )

    @contextmanager
    def running(self) -> Iterator[Notebook]:
        with (
            self.terminal.open("wb") as terminal,
            self._client.setup_kernel(
                cwd=str(self.folder / "cwd"),
                env={**os.environ, MARK: self.mark, "GRAINWISE_NUM_CPUS": "2"},
                stdout=terminal,
                stderr=terminal,
            ),
        ):
            yield self

    def run(self, cell: Cell) -> Ran:
        """Run a cell to its end."""
        node = nbformat.v4.new_code_cell(cell.source)
        cells = self._client.nb.cells
        cells.append(node)
        pressed: list[float] = []
        presser = threading.Thread(target=self._press, args=(cell.sign, pressed))
        if cell.sign:
            presser.start()
        self._client.execute_cell(node, len(cells) - 1)
        end = time.monotonic()
        if cell.sign:
            presser.join()
        return Ran(node, end - pressed[0] if pressed else 0.0)

    def _press(self, sign: str, pressed: list[float]) -> None:
        Sign(self.folder / "cwd" / sign).wait()
        pressed.append(time.monotonic())
        asyncio.run(self._client.km.interrupt_kernel())

    def restart(self) -> None:
        """What the menu's "Restart" does."""
        asyncio.run(self._client.km.restart_kernel())
        nbclient.util.run_sync(self._client.kc.wait_for_ready)(timeout=LIMIT_S)

    def kill(self) -> None:
        os.kill(self._client.km.provisioner.pid, signal.SIGKILL)


def cells(*sources: str | Cell) -> Callable[[F], F]:
    """Name the cells of a test: text, or with a sign at which they are interrupted."""

    def decorate(test: F) -> F:
        test.cells = [Cell(s) if isinstance(s, str) else s for s in sources]  # type: ignore[attr-defined]
        return test

    return decorate


class Session(NamedTuple):
    """All that has been run."""

    ran: dict[str, list[Ran]]
    terminal: str
    left: str


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    tests = [item.function for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    ran: dict[str, list[Ran]] = {}
    with Notebook(tmp_path_factory.mktemp("notebook") / "shared").running() as notebook:
        assert not notebook.run(Cell(PRELUDE)).outputs
        for test in tests:
            if hasattr(test, "cells"):
                ran[test.__name__] = [notebook.run(cell) for cell in test.cells]
    left = ""
    try:
        assert_nothing_left(notebook.mark)
    except AssertionError as error:
        left = str(error)
    return Session(ran, notebook.terminal.read_text(), left)


@pytest.fixture
def ran(session: Session, request: pytest.FixtureRequest) -> list[Ran]:
    return session.ran[request.function.__name__]


# --- calls --------------------------------------------------------------------------------------------------


@cells(
    "before = ray.is_initialized()",
    "list(ray.map(lambda x: 2 * x, range(3))), ray.get(ray.remote(abs).remote(-4))",
    "before, ray.is_initialized()",
)
def test_nothing_needs_to_be_set_up(ran: list[Ran]) -> None:
    assert ran[1].value == "([0, 2, 4], 4)"
    assert ran[2].value == "(False, True)"


@cells(
    "@ray.remote\ndef version(): return 1\ndef mapped(_): return 1",
    "ray.get(version.remote()), list(ray.map(mapped, 'ab'))",
    "@ray.remote\ndef version(): return 2\ndef mapped(_): return 2",
    "ray.get(version.remote()), list(ray.map(mapped, 'ab'))",
)
def test_a_function_that_a_cell_defines_anew_is_the_new_one(ran: list[Ran]) -> None:
    assert [ran[1].value, ran[3].value] == ["(1, [1, 1])", "(2, [2, 2])"]


@cells(
    "rate = 2\ndef factor(): return 10",
    """
def scale(x): return rate * factor() * x
scaled = ray.remote(scale)
@ray.remote
def outer(x): return ray.get(scaled.remote(x))
@ray.remote
def fibonacci(n):
    return rate * n if n < 2 else sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))
everything = lambda: (
    ray.get(scaled.remote(1)), ray.get(outer.remote(1)), ray.get(fibonacci.remote(5)), *ray.map(scale, [1])
)
everything()
""",
    "rate = 3",
    "everything()",
    "def factor(): return 100\neverything()",
    "first = scaled.remote(1); ray.get(first); rate = 5; everything()[0]",
    "everything()",
)
def test_what_a_function_calls_and_reads_is_as_of_the_cell_that_uses_it(ran: list[Ran]) -> None:
    assert ran[1].value == "(20, 20, 10, 20)"
    assert ran[3].value == "(30, 30, 15, 30)"
    assert ran[4].value == "(300, 300, 15, 300)"
    assert ran[5].value == "300"  # pickled at its first use in this cell
    assert ran[6].value == "(500, 500, 25, 500)"


@cells(
    """
import functools
@functools.cache
def loaded(): return os.urandom(8)
@ray.remote
def which(): return os.getpid(), loaded()
def all_of_them():
    return {pid: load for pid, load in ray.get([which.remote() for _ in range(200)])}
before = all_of_them()
""",
    "unrelated = 1",
    "after = all_of_them(); {after[pid] == before[pid] for pid in after if pid in before}",
)
def test_what_workers_have_loaded_outlives_the_cell(ran: list[Ran]) -> None:
    """Functions are pickled again in each cell; as long as they are the same, workers keep theirs."""
    assert ran[2].value == "{True}"


@cells(
    """
import dataclasses, enum, typing
@dataclasses.dataclass
class Point:
    x: int = 0
class Colour(enum.Enum):
    RED = 1
class Pair(typing.NamedTuple):
    a: int
class Meta(type):
    def __new__(meta, name, bases, space):
        space["fields"] = tuple(space.get("__annotations__", ()))
        return super().__new__(meta, name, bases, space)
class Model(metaclass=Meta):
    def __init__(self, **values):
        for name in self.fields:
            setattr(self, name, values[name])
class User(Model):
    name: str
""",
    """
point, colour, pair, user = ray.map(lambda value: value, [Point(3), Colour.RED, Pair(4), User(name="Ada")])
point == Point(3), colour is Colour.RED, type(pair) is Pair, type(user) is User, user.name
""",
    "list(ray.map(lambda v: isinstance(v, (Point, Colour, Pair, User)), [point, colour, pair, user]))",
    "class User(Model):\n    email: str",
    "[new] = ray.map(lambda _: User(email='a@b'), [0]); type(new) is User, new.email",
    "list(ray.map(lambda v: isinstance(v, User), [user, new]))",
)
def test_classes_of_cells_keep_their_identity(ran: list[Ran]) -> None:
    assert ran[1].value == "(True, True, True, True, 'Ada')"
    assert ran[2].value == "[True, True, True, True]"
    assert ran[4].value == "(True, 'a@b')"
    assert ran[5].value == "[False, True]"  # as in the notebook itself


@cells(
    "ray.init(num_cpus=2, ignore_reinit_error=True)",
    "ray.init(num_cpus=2)",
    "ray.shutdown(); ray.init(num_cpus=2); ray.get(ray.remote(abs).remote(-1))",
)
def test_a_cell_with_init_says_how_to_run_it_again(ran: list[Ran]) -> None:
    assert "SessionContext" in ran[0].value
    assert ran[1].error_name == "RuntimeError"
    assert "init(ignore_reinit_error=True)" in ran[1].error
    assert ran[2].value == "1"


@cells(
    "from pathlib import Path\nsource = Path('edited.py')\nsource.write_text('def f(x): return 1\\n')",
    """
import importlib, edited
def calls(x): return edited.f(x)
all_ways = lambda: (ray.get(ray.remote(edited.f).remote(0)), *ray.map(edited.f, [0]), *ray.map(calls, [0]))
all_ways()
""",
    "source.write_text('def f(x): return 22\\n')",
    "importlib.reload(edited)\nall_ways()",
    "%load_ext autoreload\n%autoreload 2",
    "source.write_text('def f(x): return 333\\n')",
    "all_ways()",
    "%autoreload 0",
)
def test_a_module_that_has_been_edited_is_the_new_one_in_workers_too(ran: list[Ran]) -> None:
    assert [ran[1].value, ran[3].value, ran[6].value] == ["(1, 1, 1)", "(22, 22, 22)", "(333, 333, 333)"]


@cells(
    "await ray.remote(lambda: 41 + 1).remote()",
    "found = []\nasync for value in ray.map(lambda x: x * x, range(5)):\n    found.append(value)\nfound",
    "import asyncio\nawait asyncio.gather(*[ray.remote(abs).remote(-i) for i in range(3)])",
)
def test_cells_await_refs_and_maps(ran: list[Ran]) -> None:
    assert [each.value for each in ran] == ["42", "[0, 1, 4, 9, 16]", "[0, 1, 2]"]


# --- what is shown ------------------------------------------------------------------------------------------


@cells(
    """
import logging, warnings
@ray.remote
def noisy(x):
    print("printed", x)
    print("failing", x, file=sys.stderr)
    logging.getLogger("lab").warning("logged %s", x)
    warnings.warn(f"warned {x}")
    os.system("echo from a subprocess")
ray.get(noisy.remote(7))
""",
    """
@ray.remote
def later():
    wait_for("gate of later")
    print("printed later")
waiting = later.remote()
""",
    "up('gate of later'); ray.get(waiting)",
    "ray.get([noisy.remote(i) for i in range(50)]);",
)
def test_what_tasks_print_appears_in_the_cell_that_runs(ran: list[Ran]) -> None:
    assert re.findall(r"\(noisy pid=\d+\) (.*)\n", ran[0].stdout) == ["printed 7", "from a subprocess"]
    assert re.search(r"^\(noisy pid=\d+\) failing 7$", ran[0].stderr, re.MULTILINE)
    assert re.search(r"^logged 7$", ran[0].stderr, re.MULTILINE)
    assert "UserWarning: warned 7 (in task noisy)" in ran[0].stderr
    assert not ran[1].outputs
    assert re.fullmatch(r"\(later pid=\d+\) printed later\n", ran[2].stdout)
    printed = sorted(int(x) for x in re.findall(r"\(noisy pid=\d+\) printed (\d+)\n", ran[3].stdout))
    assert printed == list(range(50))  # all of it has come before the cell ended


def test_nothing_of_it_appears_in_the_terminal(session: Session) -> None:
    assert "printed" not in session.terminal
    assert "pid=" not in session.terminal
    assert "Traceback" not in session.terminal


@cells(
    """
class MissingPriceError(Exception):
    pass
def price(name):
    if name == "pear":
        raise MissingPriceError("no price for a pear")
    return 1
""",
    "ray.get(ray.remote(price).remote('pear'))",
    "list(ray.map(price, ['apple', 'pear']))",
    """
try:
    ray.get(ray.remote(price).remote('pear'))
except MissingPriceError as error:
    print("caught", error)
""",
)
def test_an_error_of_a_task_reads_like_the_users_own(ran: list[Ran]) -> None:
    for each in ran[1], ran[2]:
        assert each.error_name == "TaskError(MissingPriceError)"
        assert 'raise MissingPriceError("no price for a pear")' in each.error  # the line of the cell
        assert each.error.count("/grainwise/") <= 2, each.error
    assert "in item 1 of the map: 'pear'" in ran[2].error
    assert ran[3].stdout == "caught no price for a pear\n"


WIDGET = "application/vnd.jupyter.widget-view+json"


@cells(
    "list(ray.map(abs, range(4)))",
    "list(ray.map(abs, range(4), progress=True))",
    "calls = []\nlist(ray.map(abs, range(4), progress=lambda *call: calls.append(call)))\ncalls[-1]",
    """
from grainwise.watch import progress
progress.DELAY_S, delay_s = 0.0, progress.DELAY_S  # as if it had taken longer than that
try:
    list(ray.map(abs, range(4)))
finally:
    progress.DELAY_S = delay_s
""",
)
def test_a_long_map_shows_a_bar(ran: list[Ran]) -> None:
    pytest.importorskip("ipywidgets")
    assert not ran[0].stderr
    assert [list(shown) for shown in ran[0].shown] == [["text/plain"]]
    for each in ran[1], ran[3]:
        assert not each.stderr
        assert each.shown[0]["text/plain"].startswith("abs:")
        assert WIDGET in each.shown[0]
    assert ran[2].value == "(4, 4)"
    assert not ran[2].stderr


@cells(
    """
import unittest.mock
loaded = {name for name in sys.modules if name.startswith(("ipywidgets", "tqdm.notebook"))}
with unittest.mock.patch.dict(sys.modules):
    for name in loaded:
        del sys.modules[name]
    sys.modules["ipywidgets"] = None
    sys.modules["tqdm"].__dict__.pop("notebook", None)
    list(ray.map(abs, range(4), progress=True));
""",
)
def test_without_widgets_the_bar_is_text(ran: list[Ran]) -> None:
    assert not ran[0].shown
    assert not ran[0].error
    lines = ran[0].stderr.replace("\r", "\n").split("\n")
    assert all(not line or line.startswith("abs:") for line in lines), ran[0].stderr
    assert "4/4" in ran[0].stderr


@pytest.mark.skipif(not hasattr(grainwise, "report"), reason="there is no report yet")
@cells("ray.get([ray.remote(abs).remote(-1)]); ray.report()", "print(ray.report())")
def test_the_report_is_a_table(ran: list[Ran]) -> None:
    (shown,) = ran[0].shown
    assert "<table" in shown["text/html"]
    assert "abs" in shown["text/html"]
    assert "abs" in ran[1].stdout


# --- interrupts ---------------------------------------------------------------------------------------------

HOLD = """
@ray.remote
def hold(is_waited_for, begun, gate):
    wait_for(is_waited_for)
    up(begun)
    wait_for(gate)
    return "held"
def hold_item(name):
    up(name + " begun")
    wait_for(name + " gate")
    return "held"
"""
AGAIN = "list(ray.map(abs, range(5))), ray.get([ray.remote(abs).remote(-i) for i in range(5)])"
FINE = "([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])"


@cells(
    HOLD,
    "ref = hold.remote('getting', 'get begun', 'get gate')",
    Cell("up('getting'); ray.get(ref)", "get begun"),
    AGAIN,
    "up('get gate'); ray.get(ref)",
)
def test_interrupt_ends_a_get_and_not_the_task(ran: list[Ran]) -> None:
    assert ran[2].error_name == "KeyboardInterrupt"
    assert ran[2].interrupted_s < SOON_S
    assert [ran[3].value, ran[4].value] == [FINE, "'held'"]


@cells(
    HOLD,
    Cell("list(ray.map(hold_item, ['map'] * 10))", "map begun"),
    AGAIN,
    Cell("for x in ray.map(abs, range(10)):\n    up('body'); wait_for('never')", "body"),
    AGAIN,
)
def test_interrupt_ends_a_map_and_its_items(ran: list[Ran]) -> None:
    assert [ran[1].error_name, ran[3].error_name] == ["KeyboardInterrupt"] * 2
    assert max(ran[1].interrupted_s, ran[3].interrupted_s) < SOON_S
    assert [ran[2].value, ran[4].value] == [FINE, FINE]


@cells(
    HOLD,
    Cell("async for x in ray.map(hold_item, ['async'] * 10): pass", "async begun"),
    AGAIN,
)
def test_interrupt_ends_an_asynchronous_map(ran: list[Ran]) -> None:
    # ipykernel 7 cancels the cell's own task, from another thread and without waking the loop. So an `await`
    # that nothing else wakes goes on, `asyncio.sleep` as well as a ref; our maps wake it.
    assert ran[1].error_name in ("CancelledError", "KeyboardInterrupt")
    assert ran[1].interrupted_s < SOON_S
    assert ran[2].value == FINE


# --- the end of a kernel ------------------------------------------------------------------------------------


def test_a_kernel_that_is_shut_down_leaves_nothing(session: Session) -> None:
    assert not session.left


BUSY = """
import psutil
big = ray.put(b"x" * 10_000_000)
running = [ray.remote(lambda _: wait_for("never")).remote(big) for _ in range(8)]
ray.get(ray.remote(len).options(num_cpus=0).remote(big))
*[child.pid for child in psutil.Process().children(recursive=True)],
"""


class Ended(NamedTuple):
    after_restart: str
    children: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    with Notebook(tmp_path_factory.mktemp("notebook") / "ended").running() as notebook:
        notebook.run(Cell(PRELUDE))
        pids = [int(pid) for pid in re.findall(r"\d+", notebook.run(Cell(BUSY)).value)]
        assert len(pids) >= 3  # the template and workers
        notebook.restart()
        for pid in pids:
            wait_until_gone(pid)
        children = notebook.run(Cell("import psutil\npsutil.Process().children(recursive=True)")).value
        notebook.run(Cell(PRELUDE))
        after = notebook.run(Cell(AGAIN)).value
        assert len(re.findall(r"\d+", notebook.run(Cell(BUSY)).value)) >= 3
        notebook.kill()
        assert_nothing_left(notebook.mark)
    return Ended(after, children)


def test_a_restart_leaves_nothing_and_begins_afresh(ended: Ended) -> None:
    assert ended.children == "[]"
    assert ended.after_restart == FINE


def test_a_killed_kernel_leaves_nothing(ended: Ended) -> None:
    """The fixture has seen to it; it fails otherwise."""
