"""However a program is started, its functions reach the workers, and it runs once: no main guard needed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipapp
from collections.abc import Sequence
from pathlib import Path

import pytest

import grainwise

from ..leaks import Form, assert_nothing_left, run_script
from .full_pool import LIMIT_S

SOURCE_ROOT = str(Path(grainwise.__file__).parent.parent)

WHOLE_PROGRAM = """
import collections, dataclasses, os
import grainwise as ray

with open("starts", "a") as file:  # what runs twice is seen
    file.write("start\\n")

OFFSET = 10

@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

    def moved(self):
        return Point(self.x + OFFSET, self.y)

class Trouble(Exception):
    pass

def add_offset(x):
    return x + OFFSET

@ray.remote
def shift(x):
    return add_offset(x)

@ray.remote
def move(point):
    return point.moved()

@ray.remote
def fail():
    raise Trouble("as it was")

@ray.remote
def factorial(n):
    return n * ray.get(factorial.remote(n - 1)) if n else 1

def outer(scale):
    return ray.remote(lambda x: x * scale)

assert ray.get([shift.remote(i) for i in range(100)]) == list(range(10, 110))
moved = ray.get(move.remote(Point(1, 2)))
assert moved == Point(11, 2) and type(moved) is Point
try:
    ray.get(fail.remote())
except Trouble as error:
    assert str(error) == "as it was"
assert ray.get(factorial.remote(6)) == 720
assert ray.get(outer(3).remote(5)) == 15
assert os.getpid() not in ray.get([ray.remote(os.getpid).remote() for _ in range(10)])
with open("starts") as file:
    print(file.read().count("start"), "start", __name__)
"""


def run(arguments: Sequence[str], folder: Path, **variables: str) -> str:
    """Run Python in a folder, and return what it wrote to standard output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "GRAINWISE_NUM_CPUS": "2", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


@pytest.mark.parametrize("form", ["file", "command", "stdin"])
def test_a_program_without_a_main_guard(form: Form) -> None:
    result = run_script(WHOLE_PROGRAM, timeout=LIMIT_S, form=form, env={"GRAINWISE_NUM_CPUS": "2"})
    assert (result.stdout, result.stderr, result.returncode) == ("1 start __main__\n", "", 0)
    assert_nothing_left(result.mark)


@pytest.mark.parametrize(
    "flags", [["-O"], ["-OO"], ["-B"], ["-u"], ["-X", "utf8"], ["-s"], ["-W", "error"]], ids=" ".join
)
def test_with_flags_of_the_interpreter(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "program.py").write_text(WHOLE_PROGRAM)
    assert run([*flags, "program.py"], tmp_path) == "1 start __main__\n"


def test_workers_run_with_the_same_flags(tmp_path: Path) -> None:
    """Assertions, the encoding of text and what becomes of warnings are as in the program."""
    (tmp_path / "program.py").write_text(
        """
import sys
import grainwise as ray

def flags():
    flags = sys.flags
    own = flags.optimize, flags.utf8_mode, flags.dev_mode, flags.dont_write_bytecode, flags.bytes_warning
    return own, sys.warnoptions

found = ray.get(ray.remote(flags).remote())
print("same" if found == flags() else f"{found} instead of {flags()}")
"""
    )
    for given in (
        [],
        ["-O"],
        ["-OO"],
        ["-B"],
        ["-b"],
        ["-X", "utf8"],
        ["-X", "dev"],
        ["-W", "error"],
        ["-W", "ignore::UserWarning"],
    ):
        assert run([*given, "program.py"], tmp_path) == "same\n"


def test_a_script_in_another_folder_finds_the_modules_beside_it(tmp_path: Path) -> None:
    """Also when it is started by a relative path, and goes elsewhere before the engine starts."""
    home, elsewhere = tmp_path / "home" / "deep", tmp_path / "elsewhere"
    home.mkdir(parents=True)
    elsewhere.mkdir()
    (home / "beside.py").write_text(
        """
import grainwise as ray

SECRET = 5

def plain(x):
    return x + SECRET

@ray.remote
def decorated(x):
    return plain(x) * 2

class Kept:
    def __init__(self, x):
        self.x = x
"""
    )
    (home / "script.py").write_text(
        """
import os, sys
import grainwise as ray
import beside
from beside import Kept, decorated, plain

os.chdir("/")
assert ray.get(decorated.remote(1)) == 12
assert ray.get(ray.remote(plain).remote(1)) == 6
kept = ray.get(ray.remote(lambda kept: Kept(kept.x + 1)).remote(Kept(1)))
assert type(kept) is Kept and kept.x == 2

@ray.remote
def late():
    import beside
    return beside.SECRET

assert ray.get(late.remote()) == 5
print("fine")
"""
    )
    for path in ("../home/deep/script.py", str(home / "script.py")):
        assert run([path], elsewhere) == "fine\n"
    assert run(["script.py"], home) == "fine\n"


def test_a_module_and_a_package_run_with_dash_m(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("def triple(x):\n    return 3 * x\n")
    body = """
import grainwise as ray
from {parts} import triple

class Own:
    pass

@ray.remote
def use(x):
    return triple(x), Own()

value, own = ray.get(use.remote(2))
assert value == 6 and type(own) is Own
print("fine", __name__)
"""
    (package / "__main__.py").write_text(body.format(parts=".parts"))
    (package / "tool.py").write_text(body.format(parts=".parts"))
    (tmp_path / "single.py").write_text(body.format(parts="package.parts"))
    for name in ("package", "package.tool", "single"):
        assert run(["-m", name], tmp_path) == "fine __main__\n"


@pytest.mark.parametrize("with_library", [False, True], ids=["program only", "library in the archive"])
def test_a_zip_archive_runs(tmp_path: Path, with_library: bool) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "beside.py").write_text("def triple(x):\n    return 3 * x\n")
    (folder / "__main__.py").write_text(
        """
import grainwise as ray
from beside import triple

@ray.remote
def use(x):
    return triple(x)

assert ray.get([use.remote(2), ray.remote(triple).remote(3)]) == [6, 9]
print("fine", ".pyz" in ray.__file__)
"""
    )
    if with_library:
        import shutil

        import cloudpickle

        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(grainwise.__file__).parent, folder / "grainwise", ignore=ignore)
        shutil.copytree(Path(cloudpickle.__file__).parent, folder / "cloudpickle", ignore=ignore)
    archive = tmp_path / "app.pyz"
    zipapp.create_archive(folder, archive)
    variables = {"PYTHONPATH": ""} if with_library else {}
    assert run([str(archive)], tmp_path, **variables) == f"fine {with_library}\n"


def test_a_session_typed_line_by_line() -> None:
    """As in an interactive interpreter or a notebook: a function defined again has its new body."""
    result = run_script(
        """
import code
import grainwise as ray
ray.init(num_cpus=2)
console = code.InteractiveConsole({"__name__": "__main__", "__doc__": None})
for line in '''
import grainwise as ray
@ray.remote
def f(x):
    return x + 1

print(ray.get(f.remote(1)))
@ray.remote
def f(x):
    return helper(x) + 100

def helper(x):
    return x * 2

print(ray.get([f.remote(1) for _ in range(3)]))
@ray.remote
def f(x, y=5):
    return x, y

print(ray.get(f.remote(1)))
class C:
    def name(self): return "old"

@ray.remote
def make(): return C()

print(ray.get(make.remote()).name())
class C:
    def name(self): return "new"

@ray.remote
def make(): return C()

print(ray.get(make.remote()).name(), type(ray.get(make.remote())) is C)
'''.strip("\\n").splitlines():
    console.push(line)
console.push("")
""",
        timeout=LIMIT_S,
    )
    assert result.stdout.splitlines() == ["2", "[102, 102, 102]", "(1, 5)", "old", "new True"]
    assert (result.stderr, result.returncode) == ("", 0)


def test_old_and_new_body_live_side_by_side() -> None:
    """Tasks that were submitted with the old body run the old one."""
    import grainwise as ray

    ray.init(num_cpus=1)
    versions = []
    for version in range(20):

        @ray.remote
        def tell() -> int:
            return version  # noqa: B023 - each is sent before the next turn

        versions.append((version, [tell.remote() for _ in range(10)]))
    for version, refs in versions:
        assert ray.get(refs, timeout=LIMIT_S) == [version] * 10


def test_functions_without_a_file_or_a_name() -> None:
    import functools

    import grainwise as ray

    ray.init(num_cpus=1)
    namespace: dict[str, object] = {}
    exec("def made(x):\n    return x + 1\n", namespace)
    made = namespace["made"]

    class Callable:
        def __init__(self, step: int) -> None:
            self.step = step

        def __call__(self, x: int) -> int:
            return x + self.step

        def method(self, x: int) -> int:
            return x - self.step

    for function, expected in [
        (made, 6),
        (lambda x: x * 2, 10),
        (functools.partial(pow, 2), 32),
        (Callable(3), 8),
        (Callable(3).method, 2),
        (len, None),
        (str.upper, None),
    ]:
        argument = 5 if expected is not None else "abc"
        result = ray.get(ray.remote(function).remote(argument), timeout=LIMIT_S)
        assert result == (expected if expected is not None else function(argument))


def test_inside_runpy_and_from_a_thread(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(WHOLE_PROGRAM)
    (tmp_path / "outer.py").write_text(
        """
import runpy, threading
runpy.run_path("inner.py", run_name="__main__")
"""
    )
    assert run(["outer.py"], tmp_path) == "1 start __main__\n"
    (tmp_path / "threaded.py").write_text(
        """
import threading
import grainwise as ray

@ray.remote
def double(x):
    return 2 * x

def work():
    ray.init(num_cpus=2)
    print(sum(ray.get([double.remote(i) for i in range(100)])))

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(ray.get(double.remote(4)))
"""
    )
    assert run(["threaded.py"], tmp_path) == "9900\n8\n"


def test_names_in_the_folder_that_shadow_ours_do_no_harm(tmp_path: Path) -> None:
    """A program may have a module of its own that is called like one of the standard library."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "program.py").write_text(WHOLE_PROGRAM)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("select", "socket", "struct", "queue", "signal", "cloudpickle", "engine", "template"):
        (elsewhere / f"{name}.py").write_text("raise RuntimeError('not meant')\n")
    assert run([str(home / "program.py")], elsewhere) == "1 start __main__\n"


def test_a_path_that_is_extended_by_the_program(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "extra.py").write_text("def four():\n    return 4\n")
    (tmp_path / "program.py").write_text(
        """
import sys
sys.path.insert(0, "lib")  # relative, as many write it
import extra
import grainwise as ray
print(ray.get([ray.remote(extra.four).remote(), ray.remote(lambda: __import__("extra").four()).remote()]))
"""
    )
    assert run(["program.py"], tmp_path) == "[4, 4]\n"
