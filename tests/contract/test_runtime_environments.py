"""Runtime environments: variables, folders, modules and packages of tasks and actors; who inherits what."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .backend import IS_RAY, exceptions, module, ray

FOLDER = Path(tempfile.mkdtemp(prefix="contract-"))
atexit.register(shutil.rmtree, FOLDER)
(FOLDER / "module_of_the_folder.py").write_text("VALUE = 'of the folder'\n")
(FOLDER / "data.txt").write_text("data")
(FOLDER / "left_out.txt").write_text("data")
(FOLDER / "ignored.log").write_text("data")
(FOLDER / ".gitignore").write_text("*.log\n")
INIT: dict[str, Any] = {
    "runtime_env": {
        "env_vars": {"OF_SESSION": "session", "OF_BOTH": "session"},
        "working_dir": str(FOLDER),
        "excludes": ["left_out.txt"],
    }
}


def make_ask() -> Any:
    @ray.remote
    def ask(*names: str) -> list[str | None]:
        return [os.environ.get(name) for name in names]

    return ask


def test_all_tasks_have_the_sessions_environment() -> None:
    assert ray.get(make_ask().remote("OF_SESSION")) == ["session"]
    assert os.environ.get("OF_SESSION") is None


def test_a_tasks_variables_are_added_and_go_first() -> None:
    ask = make_ask().options(runtime_env={"env_vars": {"OF_BOTH": "task", "OF_TASK": "task"}})
    assert ray.get(ask.remote("OF_SESSION", "OF_BOTH", "OF_TASK")) == ["session", "task", "task"]
    assert ray.get(make_ask().remote("OF_BOTH", "OF_TASK")) == ["session", None]


def test_the_decorator_takes_it_too() -> None:
    @ray.remote(runtime_env={"env_vars": {"OF_TASK": "decorated"}})
    def ask() -> str | None:
        return os.environ.get("OF_TASK")

    assert ray.get(ask.remote()) == "decorated"


def test_children_inherit() -> None:
    ask = make_ask()

    @ray.remote(runtime_env={"env_vars": {"OF_PARENT": "parent", "OF_BOTH": "parent"}})
    def parent() -> list[list[str | None]]:
        own = ask.options(runtime_env={"env_vars": {"OF_BOTH": "child"}})
        found: list[list[str | None]] = ray.get(
            [each.remote("OF_SESSION", "OF_PARENT", "OF_BOTH") for each in (ask, own)]
        )
        return found

    assert ray.get(parent.remote()) == [["session", "parent", "parent"], ["session", "parent", "child"]]


def test_actors_have_environments_and_hand_them_on() -> None:
    ask = make_ask()

    class Actor:
        def own(self, name: str) -> str | None:
            return os.environ.get(name)

        def of_child(self, name: str) -> str | None:
            found: list[str | None] = ray.get(ask.remote(name))
            return found[0]

    actor = ray.remote(Actor).options(runtime_env={"env_vars": {"OF_ACTOR": "actor"}}).remote()
    assert ray.get(actor.own.remote("OF_ACTOR")) == "actor"
    assert ray.get(actor.own.remote("OF_SESSION")) == "session"
    assert ray.get(actor.of_child.remote("OF_ACTOR")) == "actor"


def test_a_variable_may_name_another() -> None:
    ask = make_ask().options(runtime_env={"env_vars": {"PATH": "/contract:${PATH}"}})
    assert ray.get(ask.remote("PATH"))[0].startswith("/contract:/")


def test_tasks_run_in_a_copy_of_the_working_dir() -> None:
    @ray.remote
    def look() -> tuple[str, list[str], str]:
        import module_of_the_folder  # type: ignore[import-not-found]

        return os.getcwd(), os.listdir(), module_of_the_folder.VALUE

    folder, names, value = ray.get(look.remote())
    assert Path(folder) != FOLDER
    assert {"module_of_the_folder.py", "data.txt"} <= set(names)
    assert not {"left_out.txt", "ignored.log"} & set(names)
    assert value == "of the folder"


def test_the_context_tells_of_it() -> None:
    @ray.remote(runtime_env={"env_vars": {"OF_TASK": "task"}})
    def look() -> tuple[Any, bool]:
        found = ray.get_runtime_context().runtime_env
        return found["env_vars"], found.get("working_dir") is not None

    variables, has_folder = ray.get(look.remote())
    assert variables == {"OF_SESSION": "session", "OF_BOTH": "session", "OF_TASK": "task"}
    assert has_folder
    assert ray.get_runtime_context().runtime_env["env_vars"]["OF_SESSION"] == "session"


def test_a_runtime_env_object_is_a_dict() -> None:
    made = module("runtime_env").RuntimeEnv(env_vars={"OF_TASK": "object"})
    assert made["env_vars"] == {"OF_TASK": "object"}
    assert made.to_dict()["env_vars"] == {"OF_TASK": "object"}
    assert ray.get(make_ask().options(runtime_env=made).remote("OF_TASK")) == ["object"]


def test_the_config_has_checks() -> None:
    config = module("runtime_env").RuntimeEnvConfig
    assert config(setup_timeout_seconds=10)["setup_timeout_seconds"] == 10
    assert config()["setup_timeout_seconds"] == 600
    with pytest.raises(TypeError):
        config(setup_timeout_seconds="10")
    with pytest.raises(ValueError, match="setup_timeout_seconds"):
        config(setup_timeout_seconds=0)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"env_vars": {"A": 1}}, TypeError),
        ({"env_vars": ["A"]}, TypeError),
        ({"pip": 1}, TypeError),
        ({"pip": ["a"], "uv": ["b"]}, ValueError),
        ({"pip": {"packages": ["a"], "nosuch": 1}}, ValueError),
        ({"pip": {"pip_check": True}}, ValueError),
        ({"excludes": "a"}, TypeError),
        ({"working_dir": 1}, TypeError),
        ("text", TypeError),
    ],
)
def test_what_is_wrong_is_refused_at_once(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make_ask().options(runtime_env=given)


def make_wheel(folder: Path, name: str) -> str:
    """Make a package of one module, without dependencies."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{name}/__init__.py", "VALUE = 'of the wheel'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return str(path)


def test_packages_are_installed(tmp_path: Path) -> None:
    if IS_RAY:
        pytest.importorskip("virtualenv", reason="Ray installs packages with virtualenv")

    @ray.remote
    def look() -> str:
        import package_of_the_contract  # type: ignore[import-not-found]

        value: str = package_of_the_contract.VALUE
        return value

    with pytest.raises(ModuleNotFoundError):
        ray.get(look.remote())
    wheel = make_wheel(tmp_path, "package_of_the_contract")
    assert ray.get(look.options(runtime_env={"pip": [wheel]}).remote()) == "of the wheel"


def test_what_can_not_be_installed_fails_its_tasks_and_actors() -> None:
    class Actor:
        def call(self) -> None:
            pass

    env = {"pip": ["/no/such/package-1.0-py3-none-any.whl"]}
    with pytest.raises(exceptions.RuntimeEnvSetupError):
        ray.get(make_ask().options(runtime_env=env).remote("A"))
    with pytest.raises(exceptions.RuntimeEnvSetupError):
        ray.get(ray.remote(Actor).options(runtime_env=env).remote().call.remote())
    assert ray.get(make_ask().remote("OF_SESSION")) == ["session"]
