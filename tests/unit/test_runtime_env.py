"""Runtime environments as text: checks with Ray's messages, the canonical form, what inherits what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from grainwise import runtime_env
from grainwise.engine.environments.patterns import Patterns
from grainwise.engine.environments.prepared import Prepared
from grainwise.engine.environments.spec import (
    canonical,
    identity,
    load_hook,
    merge,
    needs_making,
    shown,
    timeout_s,
)  # fmt: skip
from grainwise.runtime_env import RuntimeEnv, RuntimeEnvConfig


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"nosuch": 1, "other": 2}, ValueError, "unknown fields 'nosuch', 'other'"),
        ({"conda": "base"}, NotImplementedError, "conda"),
        ({"container": {"image": "x"}}, NotImplementedError, "container"),
        ({"image_uri": "x"}, NotImplementedError, "image_uri"),
        ({"pip": ["a"], "uv": ["b"]}, ValueError, "cannot be specified at the same time"),
        ({"env_vars": ["A"]}, TypeError, r"must be of type Dict\[str, str\], got list"),
        ({"env_vars": {"A": 1}}, TypeError, "value of 'A' is of type int"),
        ({"env_vars": {1: "a"}}, TypeError, "key 1 is of type int"),
        ({"env_vars": {"A=B": "a"}}, ValueError, "names of variables"),
        ({"working_dir": 1}, TypeError, "`working_dir` must be a string"),
        ({"working_dir": "/no/such/folder"}, ValueError, "is not a valid path"),
        ({"working_dir": "s3://bucket/code.zip"}, NotImplementedError, "is a URL"),
        ({"working_dir": __file__}, ValueError, "expected a folder or an archive"),
        ({"py_modules": "x"}, TypeError, "must be a list"),
        ({"py_modules": [1]}, TypeError, "got one of type int"),
        ({"py_modules": ["/no/such/folder"]}, ValueError, "is not a valid path"),
        ({"py_modules": ["https://host/x.whl"]}, NotImplementedError, "is a URL"),
        ({"excludes": "x"}, TypeError, r"must be of type List\[str\]"),
        ({"pip": 1}, TypeError, r"runtime_env\['pip'\] must be of type"),
        ({"pip": [1]}, TypeError, "got int for item 0"),
        ({"pip": {"packages": ["a"], "more": 1}}, ValueError, "can only have these fields"),
        ({"pip": {"pip_check": True}}, ValueError, "must include field 'packages'"),
        ({"pip": {"packages": ["a"], "pip_check": 1}}, TypeError, "must be of type bool"),
        ({"pip": "/no/such/requirements.txt"}, ValueError, "is not a valid file"),
        ({"uv": {"packages": ["a"], "uv_version": 1}}, TypeError, "must be of type str"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "greater than zero"),
        ({"config": {"setup_timeout_seconds": 1.5}}, TypeError, "must be of type int"),
        ({"config": {"nosuch": 1}}, ValueError, "unknown fields 'nosuch'"),
        ({"worker_process_setup_hook": 1}, TypeError, "must be a function, got int"),
        ({"worker_process_setup_hook": "alone"}, ValueError, r"expected module\.function"),
        ("pip", TypeError, "must be dict or RuntimeEnv, got str"),
    ],
)
def test_what_is_wrong_is_named(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        canonical(given, "option")


def test_what_says_nothing_is_nothing() -> None:
    assert canonical(None, "option") == canonical({}, "option") == ""
    assert canonical({"env_vars": {}, "pip": [], "excludes": []}, "option") == ""


def test_equal_environments_have_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = canonical({"env_vars": {"A": "1", "B": "2"}, "working_dir": "."}, "option")
    two = canonical(RuntimeEnv(working_dir=str(tmp_path), env_vars={"B": "2", "A": "1"}), "option")
    assert one == two
    assert json.loads(one)["working_dir"] == str(tmp_path)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    assert json.loads(canonical({"working_dir": f"file://{tmp_path}"}, "x"))["working_dir"] == str(tmp_path)


def test_a_requirements_file_is_read_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "more.txt").touch()
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\nrequests==2.31\n\n-r more.txt\nrequests==2.31\n./more.txt\n")
    packages = json.loads(canonical({"pip": str(path)}, "option"))["pip"]["packages"]
    assert packages == ["requests==2.31", f"-r {tmp_path}/more.txt", f"{tmp_path}/more.txt"]
    packages = json.loads(canonical({"uv": {"packages": str(path)}}, "option"))["uv"]["packages"]
    assert packages[0] == "requests==2.31"


def test_modules_are_paths(tmp_path: Path) -> None:
    found = json.loads(canonical({"py_modules": [tmp_path, json, runtime_env]}, "option"))["py_modules"]
    assert found == [str(tmp_path), str(Path(json.__file__).parent), runtime_env.__file__]


def test_a_task_adds_to_what_it_inherits() -> None:
    parent = canonical({"env_vars": {"A": "1", "B": "1"}, "uv": ["x"], "excludes": ["e"]}, "init")
    child = canonical({"env_vars": {"B": "2"}, "pip": ["y"]}, "option")
    assert json.loads(merge(parent, child)) == {
        "env_vars": {"A": "1", "B": "2"},
        "excludes": ["e"],
        "pip": {"packages": ["y"], "pip_check": False},
    }
    assert merge(parent, "") == parent
    assert merge("", child) == child


def test_a_setup_hook_is_replaced_whole() -> None:
    parent = canonical({"worker_process_setup_hook": lambda: 1}, "init")
    child = canonical({"worker_process_setup_hook": "os.getcwd"}, "option")
    assert json.loads(shown(parent)) == {"worker_process_setup_hook": "<lambda>"}
    hook = load_hook(parent)
    assert hook is not None
    assert hook() == 1
    assert load_hook(merge(parent, child)) is os.getcwd
    assert load_hook("") is None
    assert not needs_making(parent)


def test_how_long_it_may_take_makes_no_other_environment() -> None:
    slow = canonical({"env_vars": {"A": "1"}, "config": {"setup_timeout_seconds": 5}}, "option")
    quick = canonical({"env_vars": {"A": "1"}}, "option")
    assert identity(slow) == identity(quick)
    assert timeout_s(slow) == 5.0
    assert timeout_s(quick) == 600.0
    assert timeout_s(canonical({"config": RuntimeEnvConfig(setup_timeout_seconds=-1)}, "option")) is None
    assert not needs_making(slow)


def test_runtime_env_is_a_dict() -> None:
    env = RuntimeEnv(env_vars={"A": "1"}, pip=["x"], config={"eager_install": False})
    assert env["env_vars"] == env.env_vars() == {"A": "1"}
    assert env.has_pip()
    assert not env.has_uv()
    assert env.pip_config()["packages"] == ["x"]
    assert env.to_dict()["config"]["setup_timeout_seconds"] == 600
    assert RuntimeEnv.deserialize(env.serialize()) == env
    env.set("working_dir", "/tmp")
    assert env.working_dir() == "/tmp"
    assert RuntimeEnv(anything=1, _validate=False) == {"anything": 1}


@pytest.mark.parametrize(
    ("lines", "out", "kept"),
    [
        (["*.log"], ["a.log", "deep/a.log"], ["a.txt", "log"]),
        (["/top.txt"], ["top.txt"], ["deep/top.txt"]),
        (["build/"], ["build/", "deep/build/"], ["build"]),
        (["a/b"], ["a/b"], ["c/a/b"]),
        (["**/b"], ["b", "a/b", "a/c/b"], ["a/bb"]),
        (["a/**"], ["a/b", "a/b/c"], ["a/"]),
        (["a/**/b"], ["a/b", "a/x/y/b"], ["b"]),
        (["*.txt", "!keep.txt"], ["a.txt"], ["keep.txt"]),
        (["data?.[ct]sv"], ["data1.csv", "dataX.tsv"], ["data.csv", "data1.xsv"]),
        (["[!a]b"], ["cb"], ["ab"]),
        (["# note", "", "\\#x"], ["#x"], ["# note"]),
        (["./local"], ["local"], ["deep/local"]),
    ],
)
def test_patterns_are_those_of_git(lines: list[str], out: list[str], kept: list[str]) -> None:
    patterns = Patterns(lines)
    for path in out:
        assert patterns.matches(path.rstrip("/"), is_folder=path.endswith("/")), path
    for path in kept:
        assert not patterns.matches(path.rstrip("/"), is_folder=path.endswith("/")), path


def test_paths_inside_of_a_copied_folder_lead_to_the_copy(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "src").mkdir(parents=True)
    (source / ".venv" / "lib" / "site-packages").mkdir(parents=True)
    (copy / "src").mkdir(parents=True)
    made = Prepared()
    made.folder, made.source, made.first = str(copy), str(source), [str(copy)]
    packages = str(source / ".venv" / "lib" / "site-packages")
    made.site_folders = ["/new/site-packages"]
    made.variables = {"PYTHONPATH": "/said"}
    path = made.path_over([str(source), str(source / "src"), "/usr/lib/python3", packages])
    assert path == [str(copy), str(copy / "src"), "/usr/lib/python3", "/new/site-packages", packages]
    assert made.first_path() == [str(copy), "/said"]
    assert made.python_path("/outer") == f"{copy}:/said"


def test_variables_may_name_others() -> None:
    made = Prepared()
    made.variables = {"PATH": "/mine:${PATH}", "NONE": "<${NO_SUCH}>"}
    made.first = ["/code"]
    found = made.variables_over({"PATH": "/usr/bin", "KEPT": "1"})
    assert found == {"PATH": "/mine:/usr/bin", "NONE": "<>", "KEPT": "1"}
    assert made.python_path("/outer") == "/code:/outer"
