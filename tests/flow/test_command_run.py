"""`grainwise run`, `runs` and `cache`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grainwise import flow
from grainwise.cli import main
from tests.leaks import run_script

PROGRAM = '''
import dataclasses, datetime, enum
from pathlib import Path
from typing import Literal, NamedTuple, Optional, Union
from grainwise.flow import FlyteFile, LaunchPlan, Workflow, dynamic, map_task, task, workflow


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Rates:
    first: float
    rest: list[float] = dataclasses.field(default_factory=list)
    pause: datetime.timedelta = datetime.timedelta(0)


class Two(NamedTuple):
    text: str
    size: int


@task
def show(
    i: int = 1, f: float = 1.0, s: str = "s", b: bool = False, c: Color = Color.RED, r: Rates = Rates(1.0),
    t: datetime.datetime = datetime.datetime(2024, 1, 1), d: datetime.timedelta = datetime.timedelta(0),
    day: datetime.date = datetime.date(2024, 1, 1), xs: list[int] = [], m: dict[str, list[Color]] = {},
    o: Optional[int] = None, u: Union[int, str] = 0, p: Path = Path("."), l: Literal["a", "b"] = "a",
    some_name: int = 0, maybe: Optional[bool] = None,
) -> str:
    given = dict(i=i, f=f, s=s, b=b, c=c, r=r, t=t, d=d, day=day, xs=xs, m=m, o=o, u=u, p=p, l=l,
                 some_name=some_name, maybe=maybe)
    return repr(given)


@task
def size(file: FlyteFile) -> int:
    return len(Path(file).read_bytes())


@task(retries=1)
def odd_fails(x: int) -> int:
    if x % 2 and not Path("mended").exists():
        raise ValueError(f"odd: {x}")
    return x


@workflow
def pair(word: str, count: int = 2) -> Two:
    """Make a pair.

    Args:
        word: what
            to repeat.
        count: how often.
    """
    return repeat(word=word, count=count)


@task
def repeat(word: str, count: int) -> Two:
    return Two(word * count, len(word) * count)


@workflow
def many(n: int) -> list[int]:
    return map_task(odd_fails, run_all_sub_nodes=True)(x=numbers(n=n))


@task
def numbers(n: int) -> list[int]:
    """Count.

    :param n: how far
    """
    return list(range(n))


@task
def rates(r: Rates) -> Rates:
    return r


@task(cache=True)
def cached(x: int) -> int:
    return x


@task
def nothing() -> None:
    pass


mapped = map_task(odd_fails)
plan = LaunchPlan.get_or_create(pair, "the plan", default_inputs={"word": "x"})
by_hand = Workflow(name="my.by-hand")
by_hand.add_workflow_input("x", int)
by_hand.add_workflow_output("y", by_hand.add_entity(cached, x=by_hand.inputs["x"]).outputs["o0"])
not_to_run = 3
'''

Call = Callable[..., Result]
n_files = 0


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `grainwise run` on the program, wholly in this process."""
    global n_files
    n_files += 1  # its own module for each test: they are not imported anew
    file = tmp_path / f"flow_program_{n_files}.py"
    file.write_text(PROGRAM)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GRAINWISE_FLOW", "inline")
    monkeypatch.setattr(flow.LaunchPlan, "CACHE", {})
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, before: tuple[str, ...] = ()) -> Result:
        return CliRunner().invoke(main, ["run", *before, str(file), *arguments])

    return call


def shown(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    module = next(module for name, module in sys.modules.items() if name == f"flow_program_{n_files}")
    from pathlib import PosixPath

    names = {**vars(module), "PosixPath": PosixPath, **{str(c): c for c in module.Color}}
    text = result.stdout
    for member in module.Color:
        text = text.replace(repr(member), f"Color({member.value!r})")
    given: dict[str, Any] = eval(text, names)
    return given


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--i", "-3"], "i", -3),
        (["--f", "2"], "f", 2.0),
        (["--f=1e-3"], "f", 0.001),
        (["--s", "some text"], "s", "some text"),
        (["--s", ""], "s", ""),
        (["--s", "@home"], "s", "@home"),
        (["--b"], "b", True),
        (["--no-b"], "b", False),
        (["--maybe"], "maybe", True),
        (["--xs", "[1, 2]"], "xs", [1, 2]),
        (["--xs", "@xs.json"], "xs", [4, 5]),
        (["--o", "3"], "o", 3),
        (["--o", "null"], "o", None),
        (["--u", "3"], "u", 3),
        (["--u", "x"], "u", "x"),
        (["--l", "b"], "l", "b"),
        (["--some-name", "4"], "some_name", 4),
        (["--some_name", "5"], "some_name", 5),
        (["@inputs.json"], "i", 7),
        (["@inputs.json", "--i", "8"], "i", 8),
        (["--inputs-file", "inputs.json"], "xs", [1]),
    ],
)
def test_options_are_read_by_their_types(call: Call, arguments: list[str], name: str, value: Any) -> None:
    Path("xs.json").write_text("[4, 5]")
    Path("inputs.json").write_text('{"i": 7, "xs": [1]}')
    found = shown(call("show", *arguments))[name]
    assert found == value
    assert type(found) is type(value)


def test_options_of_richer_types(call: Call) -> None:
    given = shown(call(
        "show", "--c", "blue", "--m", '{"a": ["red", "BLUE"]}', "--t", "2024-05-06T07:08:09", "--d", "1h 30m",
        "--day", "2024-02-03", "--p", "/x/y", "--r", '{"first": 2, "rest": [1], "pause": "90s"}',
    ))  # fmt: skip
    assert given["c"].value == "blue"
    assert [each.name for each in given["m"]["a"]] == ["RED", "BLUE"]
    assert str(given["t"]) == "2024-05-06 07:08:09"
    assert given["d"].total_seconds() == 5400
    assert str(given["day"]) == "2024-02-03"
    assert given["p"] == Path("/x/y")
    assert (given["r"].first, given["r"].rest, given["r"].pause.total_seconds()) == (2.0, [1.0], 90)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "--i", "x"], "expected `int`, got 'x'"),
        (["show", "--xs", "[1"], "it is no JSON"),
        (["show", "--xs", '["a"]'], "expected `int`, got `str` at `xs[0]`"),
        (["show", "--xs", "@nowhere.json"], "nowhere.json"),
        (["show", "--c", "green"], "expected one of red, blue"),
        (["show", "--l", "c"], "expected one of a, b"),
        (["show", "--d", "soon"], "expected seconds"),
        (["show", "--nope", "1"], "No such option"),
        (["show", "word"], "@FILE"),
        (["show", "@nowhere.json"], "inputs can't be read"),
        (["pair"], "'word'"),
        (["size", "--file", "nowhere"], "nowhere"),
        (["not_to_run"], "'not_to_run'"),
        (["lacking"], "no 'lacking'"),
    ],
)
def test_wrong_calls_are_refused(call: Call, arguments: list[str], words: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_outputs_are_printed_plainly_or_as_json(call: Call) -> None:
    assert call("pair", "--word", "ab").stdout == "text: abab\nsize: 4\n"
    assert json.loads(call("pair", "--word", "ab", "--json").stdout) == {"text": "abab", "size": 4}
    assert call("numbers", "--n", "3").stdout == "[0, 1, 2]\n"
    assert call("numbers", "--n", "3", before=("--json",)).stdout == "[0, 1, 2]\n"
    assert json.loads(call("rates", "--r", '{"first": 1}', "--json").stdout) == {
        "first": 1.0, "rest": [], "pause": 0.0,
    }  # fmt: skip
    assert call("nothing").stdout == ""
    assert call("nothing", "--json").stdout == "null\n"


def test_all_that_runs_can_be_named(call: Call) -> None:
    assert call("mapped", "--x", "[2, 4]").stdout == "[2, 4]\n"
    assert call("plan").stdout == "text: xx\nsize: 2\n"
    assert call("the plan", "--count", "3").stdout == "text: xxx\nsize: 3\n"
    assert call("my.by-hand", "--x", "3").stdout == "3\n"
    listed = call()
    assert listed.exit_code == 2
    assert "pair       workflow  Make a pair." in listed.output
    assert "not_to_run" not in listed.output
    assert call("--help").exit_code == 0


def test_help_is_from_the_docstring(call: Call) -> None:
    text = " ".join(call("pair", "--help").output.split())
    assert "Make a pair. Options: --word str what to repeat. [required]" in text
    assert "--count int how often. [default: 2]" in text
    assert "how far [required]" in call("numbers", "--help").output


def test_a_failed_run_is_shown_and_goes_on(call: Call) -> None:
    failed = call("many", "--n", "4")
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert "in odd_fails" in failed.stderr
    [run] = flow.list_runs()
    assert f"run {run.run_id} failed: ValueError: odd: 1" in failed.stderr
    assert f"grainwise run --resume {run.run_id[:8]}" in failed.stderr

    invoke = CliRunner().invoke
    listed = invoke(main, ["runs", "ls"]).output
    assert f"{run.run_id[:8]}  flow_program_{n_files}.many  failed" in listed
    drawn = invoke(main, ["runs", "show"]).output
    assert "●" in drawn
    assert "2 of 4 elements" in drawn
    assert "n1 element 3: ValueError: odd: 3 (2 runs)" in drawn
    assert "in odd_fails" in invoke(main, ["runs", "show", run.run_id[:8], "--traceback"]).output
    told = json.loads(invoke(main, ["runs", "show", "--json"]).output)
    assert [node["state"] for node in told["nodes"]] == ["done", "failed"]
    assert told["nodes"][1]["failures"][0]["element"] == 1

    Path("mended").touch()
    other = CliRunner().invoke(main, ["run", "--resume", "last", str(run.file), "pair", "--word", "x"])
    assert (other.exit_code, "not of" in other.output) == (2, True)
    resumed = invoke(main, ["run", "--resume", "last"])
    assert (resumed.exit_code, resumed.stdout) == (0, "[0, 1, 2, 3]\n"), resumed.output
    assert "1 nodes and 2 elements of maps were done already" in resumed.stderr
    assert "resumed" in invoke(main, ["runs", "show"]).output
    again = invoke(main, ["run", "--resume", "last"])
    assert (again.exit_code, "is done" in again.output) == (2, True)


def test_runs_are_listed_and_forgotten(call: Call) -> None:
    invoke = CliRunner().invoke
    assert invoke(main, ["runs", "ls"]).output == "There are no runs.\n"
    for n in range(3):
        call("numbers", "--n", str(n))
    newest = flow.list_runs()[0]
    assert len(invoke(main, ["runs", "ls", "--limit", "2", "--json"]).output.splitlines()) == 2
    assert invoke(main, ["runs", "ls", "--state", "failed"]).output == "There are no runs.\n"
    assert invoke(main, ["runs", "rm", "last"]).output == "forgot 1 run\n"
    assert newest.run_id not in {run.run_id for run in flow.list_runs()}
    assert invoke(main, ["runs", "rm", "--older-than", "1"]).output == "forgot 0 runs\n"
    assert invoke(main, ["runs", "rm", "--all"]).output == "forgot 2 runs\n"
    assert invoke(main, ["runs", "rm", "zz"]).exit_code == 1
    assert invoke(main, ["runs", "rm"]).exit_code == 2
    assert invoke(main, ["runs", "show", "zz"]).exit_code == 1


def test_no_record(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["GRAINWISE_RUN_DIR"])
    monkeypatch.setenv("GRAINWISE_RUN_DIR", str(folder))  # so that it is put back
    assert call("numbers", "--n", "1", "--no-record").stdout == "[0]\n"
    assert not folder.exists()


def test_variables_are_set(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_WORD", "before")
    assert call("numbers", "--n", "1", before=("--env", "FLOW_WORD=now")).exit_code == 0
    assert os.environ["FLOW_WORD"] == "now"
    assert call("numbers", "--n", "1", "--env", "FLOW_WORD").exit_code == 2


def test_the_cache_is_listed_and_cleared(call: Call) -> None:
    invoke = CliRunner().invoke
    assert "No results" in invoke(main, ["cache", "ls"]).output
    for x in ("1", "2", "2"):
        call("cached", "--x", x)
    name = f"flow_program_{n_files}.cached"
    assert [line.split()[:2] for line in invoke(main, ["cache", "ls"]).output.splitlines()[1:]] == [
        [name, "2"]
    ]
    assert len(invoke(main, ["cache", "show", name]).output.splitlines()) == 2
    assert invoke(main, ["cache", "show", "nope"]).exit_code == 1
    assert invoke(main, ["cache", "clear"], input="n\n").exit_code == 1
    assert invoke(main, ["cache", "clear", name, "--yes"]).output == "forgot 2 results\n"


def test_the_command_is_light() -> None:
    result = run_script(
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from grainwise.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'sqlite3', 'asyncio', 'cloudpickle', 'grainwise.flow', 'grainwise.commands'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "assert 'runs' in CliRunner().invoke(main, ['--help']).output\n",
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_on_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "flow_on_the_engine.py"
    file.write_text(PROGRAM)
    result = run_script(
        f"import sys; sys.argv[1:] = ['run', {str(file)!r}, 'rates', '--r', '{{\"first\": 3}}', '--json']\n"
        "from grainwise.cli import main\nmain()\n",
        timeout=60,
    )
    assert (result.returncode, json.loads(result.stdout)["first"]) == (0, 3.0), result.stderr
