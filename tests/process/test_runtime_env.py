"""Runtime environments: variables, folders, modules and packages of tasks, actors and sessions.

Packages are wheels that the tests make: nothing is fetched, but for the one test that says so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine import current
from grainwise.engine.driver import environments
from grainwise.engine.environments import running, virtual
from grainwise.engine.environments.cache import Cache
from grainwise.errors import RuntimeEnvSetupError
from tests.leaks import assert_nothing_left, run_script, start_script

from .full_pool import LIMIT_S
from .signposts import Sign, is_alive, wait_until_gone


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_cache(cache_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_CACHE_DIR", cache_folder)


@pytest.fixture
def session() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Make wheels of one module each."""
    folder = tmp_path_factory.mktemp("wheels")

    def make(name: str, version: str = "1.0", requires: str = "") -> str:
        path = folder / f"{name}-{version}-py3-none-any.whl"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        if requires:
            metadata += f"Requires-Dist: {requires}\n"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", metadata)
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return str(path)

    return make


def make_remote(function: Callable[..., Any]) -> Any:
    """Return a remote function that travels by value: workers need not import this module."""
    function.__module__ = "__main__"
    return ray.remote(function)


def get(ref: Any) -> Any:
    return ray.get(ref, timeout=LIMIT_S)


@make_remote
def variable(name: str) -> tuple[str | None, int]:
    import os

    return os.environ.get(name), os.getpid()


@make_remote
def version_of(name: str) -> tuple[str, str]:
    import importlib

    module = importlib.import_module(name)
    return module.VERSION, module.__file__ or ""


@make_remote
def here() -> tuple[str, list[str]]:
    import os

    return os.getcwd(), sorted(name for name in os.listdir() if name != "__pycache__")


# --- variables ----------------------------------------------------------------------------------------------


def test_a_task_has_its_variables_and_others_do_not(session: None) -> None:
    mine = variable.options(runtime_env={"env_vars": {"GREETING": "hello"}})
    assert get(mine.remote("GREETING"))[0] == "hello"
    assert get(variable.remote("GREETING"))[0] is None
    assert "GREETING" not in os.environ


def test_a_variable_may_name_others(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PATH", "/usr")
    mine = variable.options(runtime_env={"env_vars": {"MY_PATH": "/mine:${MY_PATH}:${NO_SUCH}"}})
    assert get(mine.remote("MY_PATH"))[0] == "/mine:/usr:"


def test_programs_that_a_task_starts_have_them_too(session: None) -> None:
    @make_remote
    def ask() -> str:
        import subprocess

        return subprocess.run("echo $GREETING", shell=True, capture_output=True, text=True).stdout

    assert get(ask.options(runtime_env={"env_vars": {"GREETING": "hello"}}).remote()) == "hello\n"


def test_libraries_read_them_before_they_start(session: None) -> None:
    @make_remote
    def ask() -> tuple[str | None, str]:
        import os
        import time

        return os.environ.get("OMP_NUM_THREADS"), time.tzname[0]

    env = {"env_vars": {"OMP_NUM_THREADS": "7", "TZ": "XYZ-3"}}
    assert get(ask.options(runtime_env=env).remote()) == ("7", "XYZ")
    assert get(ask.remote())[0] == "1"


def test_workers_serve_one_environment_and_stay_warm() -> None:
    ray.init(num_cpus=1)  # no other worker may take over what a slow one has not begun
    of = {
        name: variable.options(runtime_env={"env_vars": {"NAME": name}}) if name else variable
        for name in ("", "a", "b")
    }
    pids: dict[str, set[int]] = {name: set() for name in of}
    for _ in range(3):
        for name, remote in of.items():
            found, pid = get(remote.remote("NAME"))
            assert (found or "") == name
            pids[name].add(pid)
    assert all(len(found) == 1 for found in pids.values()), "a worker was warm and another was started"
    assert len(set.union(*pids.values())) == 3
    ray.shutdown()


def test_thousands_of_tasks_of_several_environments(session: None) -> None:
    of = [variable.options(runtime_env={"env_vars": {"NAME": str(n)}}) for n in range(3)] + [variable]
    refs = [of[i % 4].remote("NAME") for i in range(4000)]
    found = ray.get(refs, timeout=LIMIT_S)
    assert [name for name, _ in found] == [None if i % 4 == 3 else str(i % 4) for i in range(4000)]
    by_pid: dict[int, set[str | None]] = {}
    for name, pid in found:
        by_pid.setdefault(pid, set()).add(name)
    assert all(len(names) == 1 for names in by_pid.values())


def test_one_environment_does_not_starve_another(session: None, tmp_path: Path) -> None:
    done = Sign(tmp_path / "done")

    @make_remote
    def busy(done: Sign) -> bool:
        import time

        time.sleep(0.005)
        return done.is_up()

    @make_remote
    def finish(done: Sign) -> None:
        done.put_up()

    refs = [busy.remote(done) for _ in range(400)]
    last = finish.options(runtime_env={"env_vars": {"A": "1"}}).remote(done)
    get(last)
    assert any(ray.get(refs, timeout=LIMIT_S)), "it had its turn before they had ended"


def test_many_environments_leave_few_processes(session: None) -> None:
    for number in range(12):
        remote = variable.options(runtime_env={"env_vars": {"N": str(number)}})
        assert get(remote.remote("N"))[0] == str(number)
    engine: Any = current.current()
    deadline = time.monotonic() + LIMIT_S
    while len(engine.pool.templates) > 1 + 8 or len(engine.pool.workers) > 6:
        assert time.monotonic() < deadline, (len(engine.pool.templates), len(engine.pool.workers))
        get(variable.remote("N"))


def test_an_idle_environment_ends_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_ENVIRONMENT_TTL_S", "0")
    ray.init(num_cpus=2)
    mine = variable.options(runtime_env={"env_vars": {"A": "1"}})
    _, pid = get(mine.remote("A"))
    engine: Any = current.current()
    (template,) = (each for each in engine.pool.templates.values() if each.environment is not None)
    wait_until_gone(pid)
    deadline = time.monotonic() + LIMIT_S
    while template._pid:  # no zombie stays either
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert len(engine.pool.templates) == 1
    found, again = get(mine.remote("A"))
    assert found == "1"
    assert again != pid
    ray.shutdown()


# --- what inherits what -------------------------------------------------------------------------------------


def test_children_inherit_and_add(session: None) -> None:
    @make_remote
    def parent() -> list[Any]:
        import grainwise as ray

        more = variable.options(runtime_env={"env_vars": {"B": "child"}})
        asked = [each.remote(name) for each in (variable, more) for name in ("A", "B")]
        return [value for value, _ in ray.get(asked)]

    env = {"env_vars": {"A": "parent", "B": "parent"}}
    assert get(parent.options(runtime_env=env).remote()) == ["parent", "parent", "parent", "child"]


def test_options_replace_those_of_the_decorator(session: None) -> None:
    first = variable.options(runtime_env={"env_vars": {"A": "1"}})
    assert get(first.options(runtime_env={"env_vars": {"B": "2"}}).remote("A"))[0] is None
    assert get(first.options(runtime_env={}).remote("A"))[0] is None
    assert get(first.options(num_cpus=2).remote("A"))[0] == "1"


def test_a_session_has_an_environment(tmp_path: Path) -> None:
    (tmp_path / "settings.txt").write_text("from the folder")
    with ray.init(num_cpus=2, runtime_env={"env_vars": {"A": "session"}, "working_dir": str(tmp_path)}):

        def read(_: int) -> tuple[str | None, str]:
            import os

            with open("settings.txt") as file:
                return os.environ.get("A"), file.read()

        read.__module__ = "__main__"
        assert set(ray.map(read, range(100))) == {("session", "from the folder")}
        more = variable.options(runtime_env={"env_vars": {"B": "task"}})
        assert get(more.remote("A"))[0] == "session"
        assert get(more.remote("B"))[0] == "task"
        assert ray.get_runtime_context().runtime_env["env_vars"] == {"A": "session"}


def test_that_of_the_session_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_ENVIRONMENT_TTL_S", "0")
    ray.init(num_cpus=2, runtime_env={"env_vars": {"A": "session"}})
    engine: Any = current.current()
    _, pid = get(variable.remote("A"))
    other = variable.options(runtime_env={"env_vars": {"B": "task"}})
    wait_until_gone(get(other.remote("B"))[1])
    assert is_alive(pid)
    deadline = time.monotonic() + LIMIT_S
    while len(engine.pool.templates) > 1 or engine.pool.ending:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert (
        engine.environments.next_end_s() is None
    )  # else a program with nothing to do would look again and again
    assert get(variable.remote("A")) == ("session", pid)
    ray.shutdown()


def test_a_task_knows_its_environment(session: None) -> None:
    @make_remote
    def ask() -> tuple[Any, str]:
        import grainwise as ray

        context = ray.get_runtime_context()
        return dict(context.runtime_env), context.get_runtime_env_string()

    env = ray.runtime_env.RuntimeEnv(env_vars={"A": "1"})
    found, text = get(ask.options(runtime_env=env).remote())
    assert found == json.loads(text) == {"env_vars": {"A": "1"}}
    assert get(ask.remote()) == ({}, "{}")
    assert ray.get_runtime_context().get_runtime_env_string() == "{}"


def test_a_listing_has_them(session: None) -> None:
    from grainwise.util import state

    get(variable.options(runtime_env={"env_vars": {"A": "1"}}).remote("A"))
    with pytest.raises(RuntimeEnvSetupError):
        get(variable.options(runtime_env={"pip": ["/no/such/package-1.0-py3-none-any.whl"]}).remote("A"))
    listed = state.list_runtime_envs()
    assert [each.success for each in listed] == [True, False]
    assert listed[0].runtime_env == {"env_vars": {"A": "1"}}
    assert listed[0].error is None
    assert "can't be installed" in listed[1].error


def test_modules_in_a_folder_do_not_stand_in_the_way_of_ours(session: None, tmp_path: Path) -> None:
    for name in ("socket", "logging", "queue", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('in the way')\n")
    assert get(here.options(runtime_env={"working_dir": str(tmp_path)}).remote())[1][0] == "logging.py"


# --- folders ------------------------------------------------------------------------------------------------


def test_tasks_run_in_a_copy_of_the_folder(session: None, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("VERSION = 'first'\n")
    (tmp_path / "secret.txt").touch()
    (tmp_path / "trace.log").touch()
    (tmp_path / ".gitignore").write_text("*.log\n")
    env = {"working_dir": str(tmp_path), "excludes": ["secret.txt"]}
    folder, names = get(here.options(runtime_env=env).remote())
    assert names == [".gitignore", "helper.py"]
    assert folder != str(tmp_path)
    assert folder != os.getcwd()
    found = get(version_of.options(runtime_env=env).remote("helper"))
    assert found == ("first", f"{folder}/helper.py")

    @make_remote
    def write() -> None:
        with open("written", "w") as file:
            file.write("by a task")

    get(write.options(runtime_env=env).remote())
    assert "written" in get(here.options(runtime_env=env).remote())[1]
    assert not (tmp_path / "written").exists()
    assert get(here.remote())[0] == os.getcwd()


def test_the_next_session_finds_the_copy_without_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("1")
    folders = []
    for _ in range(2):
        with ray.init(num_cpus=2):

            @make_remote
            def add() -> tuple[str, str]:
                import os

                with open("data", "r+") as file:
                    found = file.read()
                    file.write("2")
                return os.getcwd(), found

            folder, found = get(add.options(runtime_env={"working_dir": str(tmp_path)}).remote())
            assert found == "1"
            folders.append(folder)
    assert folders[0] == folders[1]


def test_an_archive_is_a_folder_too(session: None, tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped.py", "VERSION = 'zip'\n")
    assert get(version_of.options(runtime_env={"working_dir": str(path)}).remote("zipped"))[0] == "zip"


def test_modules_are_found(session: None, tmp_path: Path, wheels: Callable[..., str]) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("VERSION = 'folder'\n")
    (tmp_path / "single.py").write_text("VERSION = 'file'\n")
    modules = [tmp_path / "package", str(tmp_path / "single.py"), wheels("inawheel")]
    remote = version_of.options(runtime_env={"py_modules": modules})
    found = [get(remote.remote(name))[0] for name in ("package", "single", "inawheel")]
    assert found == ["folder", "file", "1.0"]
    with pytest.raises(ModuleNotFoundError):
        get(version_of.remote("single"))


def test_what_is_not_offered_is_refused_before_anything_runs(session: None) -> None:
    for env, error in (
        ({"working_dir": "https://host/code.zip"}, NotImplementedError),
        ({"conda": {"dependencies": ["x"]}}, NotImplementedError),
        ({"container": {"image": "x"}}, NotImplementedError),
        ({"image_uri": "x"}, NotImplementedError),
        ({"nosuch": 1}, ValueError),
    ):
        with pytest.raises(error, match="runtime_env"):
            variable.options(runtime_env=env)
        with pytest.raises(error, match="runtime_env"):
            ray.remote(runtime_env=env)(Counter)


def test_each_process_calls_the_setup_hook_first(session: None, tmp_path: Path) -> None:
    def prepare() -> None:
        import os

        os.environ["PREPARED"] = "yes"

    prepare.__module__ = "__main__"
    env = {"worker_process_setup_hook": prepare}
    assert get(variable.options(runtime_env=env).remote("PREPARED"))[0] == "yes"
    assert get(ray.remote(Counter).options(runtime_env=env).remote().ask.remote("PREPARED")) == "yes"
    (tmp_path / "hooks.py").write_text("import os\ndef prepare():\n    os.environ['PREPARED'] = 'by name'\n")
    named = {"worker_process_setup_hook": "hooks.prepare", "py_modules": [tmp_path / "hooks.py"]}
    assert get(variable.options(runtime_env=named).remote("PREPARED"))[0] == "by name"
    assert get(variable.remote("PREPARED"))[0] is None


def test_a_setup_hook_that_fails_is_told(session: None) -> None:
    def prepare() -> None:
        raise ValueError("no licence")

    prepare.__module__ = "__main__"
    env = {"worker_process_setup_hook": prepare}
    with pytest.raises(RuntimeEnvSetupError, match=r"(?s)fail to start.*no licence"):
        get(variable.options(runtime_env=env).remote("A"))
    actor = ray.remote(Counter).options(runtime_env=env).remote()
    with pytest.raises(RuntimeEnvSetupError, match="no licence"):
        get(actor.ask.remote("A"))


# --- actors -------------------------------------------------------------------------------------------------


class Counter:
    def ask(self, name: str) -> str | None:
        import os

        return os.environ.get(name)

    def ask_a_child(self, name: str) -> str | None:
        import grainwise as ray

        found: str | None = ray.get(variable.remote(name))[0]
        return found

    def make_another(self, name: str) -> str | None:
        import grainwise as ray

        found: str | None = ray.get(ray.remote(type(self)).remote().ask.remote(name))
        return found


Counter.__module__ = "__main__"


def test_an_actor_has_an_environment_and_hands_it_on(session: None, tmp_path: Path) -> None:
    actor = ray.remote(Counter).options(runtime_env={"env_vars": {"A": "1"}}).remote()
    assert get(actor.ask.remote("A")) == "1"
    assert get(actor.ask_a_child.remote("A")) == "1"
    assert get(actor.make_another.remote("A")) == "1"
    other = ray.remote(runtime_env={"working_dir": str(tmp_path)})(Counter).remote()
    assert get(other.ask.remote("A")) is None


def test_an_actor_whose_environment_can_not_be_made_is_told(session: None) -> None:
    actor = (
        ray.remote(Counter).options(runtime_env={"pip": ["/no/such/package-1.0-py3-none-any.whl"]}).remote()
    )
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="can't be installed"):
        get(actor.ask.remote("A"))
    with pytest.raises(RuntimeEnvSetupError):
        get(actor.ask.remote("A"))


# --- packages -----------------------------------------------------------------------------------------------


def test_packages_of_several_versions_at_once(session: None, wheels: Callable[..., str]) -> None:
    old, new = wheels("tiny", "1.0"), wheels("tiny", "2.0")
    requirements = Path(old).parent / "requirements.txt"
    requirements.write_text(f"# one line\n{new}\n")
    envs: list[tuple[dict[str, Any], str]] = [
        ({"pip": [old]}, "1.0"),
        ({"uv": [new]}, "2.0"),
        ({"pip": str(requirements)}, "2.0"),
        ({"uv": {"packages": [old], "uv_check": True}}, "1.0"),
    ]
    refs = [version_of.options(runtime_env=env).remote("tiny") for env, _ in envs]
    assert [found for found, _ in ray.get(refs, timeout=LIMIT_S)] == [version for _, version in envs]


def test_a_package_sees_the_programs_own_and_comes_first(session: None, wheels: Callable[..., str]) -> None:
    @make_remote
    def ask() -> tuple[str, str, str]:
        import subprocess
        import sys

        import cloudpickle  # noqa: F401
        import tiny  # type: ignore[import-not-found]

        code = "import tiny, grainwise, cloudpickle; print(tiny.VERSION)"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return tiny.VERSION, sys.prefix, found.stdout or found.stderr

    version, prefix, printed = get(ask.options(runtime_env={"pip": [wheels("tiny", "1.0")]}).remote())
    assert version == "1.0"
    assert prefix != sys.prefix
    assert printed == "1.0\n"


def test_it_is_built_once(wheels: Callable[..., str], capfd: pytest.CaptureFixture[str]) -> None:
    env = {"pip": [wheels("builtonce")]}
    told = []
    for _ in range(2):
        with ray.init(num_cpus=2):
            get(version_of.options(runtime_env=env).remote("builtonce"))
        told.append(capfd.readouterr().err)
    assert "grainwise: building a virtual environment with builtonce-1.0-py3-none-any.whl" in told[0]
    assert told[1] == ""


def test_a_wheel_that_has_changed_is_another_environment(session: None, wheels: Callable[..., str]) -> None:
    path = wheels("changing")
    assert get(version_of.options(runtime_env={"pip": [path]}).remote("changing"))[0] == "1.0"
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr("changing/more.py", "VERSION = 'more'\n")
    ray.shutdown()
    ray.init(num_cpus=2)
    assert get(version_of.options(runtime_env={"pip": [path]}).remote("changing.more"))[0] == "more"


def test_a_failed_build_has_the_resolvers_words_and_the_rest_goes_on(
    session: None, wheels: Callable[..., str], monkeypatch: pytest.MonkeyPatch, cache_folder: str
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    env = {"pip": [wheels("needy", requires="no-such-package-at-all")]}
    failing = [version_of.options(runtime_env=env).remote("needy") for _ in range(3)]
    assert get(variable.remote("A"))[0] is None, "others do not wait for it"
    for ref in failing:
        with pytest.raises(RuntimeEnvSetupError, match="no-such-package-at-all"):
            get(ref)
    with pytest.raises(RuntimeEnvSetupError, match="packages can't be installed: needy"):
        get(version_of.options(runtime_env=env).remote("needy"))
    kept = Cache(cache_folder).claim("virtual", virtual.Packages.of_field("pip", env_field(env), []).digest(),
                                     may_share=True)  # fmt: skip
    assert kept.info is None
    assert not os.path.exists(kept.path), "nothing half built stays"
    kept.close()


def env_field(env: dict[str, Any]) -> dict[str, Any]:
    """Return the field `pip` as the environment's text has it."""
    from grainwise.engine.environments.spec import canonical, fields

    field: dict[str, Any] = fields(canonical(env, "option"))["pip"]
    return field


def test_a_conflict_is_told(session: None, wheels: Callable[..., str]) -> None:
    env = {"uv": [wheels("tiny", "1.0"), wheels("picky", requires="tiny>=2")]}
    remote = version_of.options(runtime_env=env)
    with pytest.raises(RuntimeEnvSetupError, match=r"(?s)picky.*depends on.*tiny>=2"):
        get(remote.remote("picky"))


def test_versions_that_do_not_fit_are_told(session: None, wheels: Callable[..., str]) -> None:
    wheel = wheels("alone", requires="absent>=1")
    env = {"uv": {"packages": [wheel], "uv_pip_install_options": ["--no-deps"], "uv_check": True}}
    with pytest.raises(RuntimeEnvSetupError, match="do not fit together"):
        get(version_of.options(runtime_env=env).remote("alone"))


def test_the_next_build_starts_clean(cache_folder: str, wheels: Callable[..., str]) -> None:
    """What a killed build has left behind is not built upon."""
    packages = virtual.Packages([wheels("clean")])
    half = Cache(cache_folder).claim(virtual.KIND, packages.digest(), may_share=True)
    half.begin()
    Path(half.path, "half").touch()
    half.close()
    entry = virtual.build(packages, Cache(cache_folder), lambda: None)
    assert not Path(entry.path, "half").exists()
    assert entry.info is not None
    entry.close()


def test_without_uv_pip_does_it(
    cache_folder: str, wheels: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual, "find_uv", lambda: None)
    commands: list[list[str]] = []

    def note(command: list[str], check: Any) -> tuple[int, str]:
        commands.append(command)
        os.makedirs(os.path.join(path, "bin"), exist_ok=True)
        return 0, ""

    monkeypatch.setattr(virtual, "run_tool", note)
    packages = virtual.Packages([wheels("bypip")], is_checked=True)
    path = os.path.join(cache_folder, virtual.KIND, packages.digest())
    virtual.build(packages, Cache(cache_folder), lambda: None).close()
    python = os.path.join(path, "bin", "python")
    assert [command[1:4] for command in commands] == [
        ["-m", "venv", path], ["-m", "pip", "install"], ["-m", "pip", "check"],
    ]  # fmt: skip
    assert commands[1][0] == python


def test_a_build_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up() -> None:
        raise RuntimeEnvSetupError("too long")

    with pytest.raises(RuntimeEnvSetupError, match="too long"):
        running.run_tool(["/bin/sleep", "1000"], give_up)


def test_nothing_of_a_build_stays_when_the_program_is_killed(tmp_path: Path, cache_folder: str) -> None:
    sign = Sign(tmp_path / "pid")
    tool = tmp_path / "uv"
    tool.write_text(
        f"#!/bin/sh\necho $$ > {sign.path}.part\nmv {sign.path}.part {sign.path}\nexec sleep 1000\n"
    )
    tool.chmod(0o755)
    script = start_script(
        f"""
import grainwise as ray
from grainwise.engine.environments import virtual
virtual.find_uv = lambda: {str(tool)!r}
ray.init(num_cpus=2)
ray.get(ray.remote(lambda: 1).options(runtime_env={{"pip": ["anything"]}}).remote())
""",
        env={"GRAINWISE_CACHE_DIR": cache_folder},
    )
    builder = int(sign.wait())
    script.kill()
    script.wait(LIMIT_S)
    wait_until_gone(builder)
    assert_nothing_left(script.mark)


def test_a_session_ends_while_something_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = Sign(tmp_path / "pid")
    tool = tmp_path / "uv"
    tool.write_text(
        f"#!/bin/sh\necho $$ > {sign.path}.part\nmv {sign.path}.part {sign.path}\nexec sleep 1000\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(virtual, "find_uv", lambda: str(tool))
    ray.init(num_cpus=2)
    ref = variable.options(runtime_env={"pip": ["anything"]}).remote("A")
    builder = int(sign.wait())
    ray.shutdown()
    assert not is_alive(builder)
    with pytest.raises(ray.errors.EngineClosedError):
        ray.get(ref)


def test_the_time_limit_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: None) -> None:
    tool = tmp_path / "uv"
    tool.write_text("#!/bin/sh\nexec sleep 1000\n")
    tool.chmod(0o755)
    monkeypatch.setattr(virtual, "find_uv", lambda: str(tool))
    env = {"pip": ["anything"], "config": {"setup_timeout_seconds": 1}}
    with pytest.raises(RuntimeEnvSetupError, match="not made within 1 s"):
        get(variable.options(runtime_env=env).remote("A"))


def can_reach_index() -> bool:
    """Say whether packages can be fetched here."""
    uv = virtual.find_uv()
    if uv is None:
        return False
    command = [uv, "pip", "compile", "--quiet", "--no-header", "-"]
    try:
        return subprocess.run(command, input=b"iniconfig\n", capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def test_packages_come_from_the_index(session: None) -> None:
    if not can_reach_index():
        pytest.skip("no package index can be reached")

    @make_remote
    def ask() -> str:
        import iniconfig

        return iniconfig.__file__ or ""

    found = get(ask.options(runtime_env={"uv": ["iniconfig"]}).remote())
    assert "/virtual/" in found


# --- processes that fail ------------------------------------------------------------------------------------


def test_an_environment_in_which_python_does_not_start_is_told(session: None) -> None:
    env = {"env_vars": {"PYTHONHOME": "/no/such/folder"}}
    with pytest.raises(RuntimeEnvSetupError, match=r"fail to start\n(.|\n)*encodings"):
        get(variable.options(runtime_env=env).remote("A"))
    assert get(variable.remote("A"))[0] is None
    actor = ray.remote(Counter).options(runtime_env=env).remote()
    with pytest.raises(RuntimeEnvSetupError, match="fail to start"):
        get(actor.ask.remote("A"))


def test_each_further_try_leaves_nothing_open(session: None, tmp_path: Path) -> None:
    engine: Any = current.current()
    env = {"env_vars": {"PYTHONHOME": "/no/such/folder"}, "working_dir": str(tmp_path)}
    numbers = set()
    for _ in range(3):
        with pytest.raises(RuntimeEnvSetupError, match="fail to start"):
            get(variable.options(runtime_env=env).remote("A"))
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        numbers.add(sum(link.endswith(".lock") for link in links))
        (made,) = engine.environments.all()
        assert [entry.num_users for entry in made.prepared.entries] == [1]
        made.failed_at -= 2 * environments.KEEP_ERROR_S
    assert numbers == {1}


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_a_template_that_is_killed_is_started_again(session: None) -> None:
    mine = variable.options(runtime_env={"env_vars": {"A": "1"}})
    _, pid = get(mine.remote("A"))
    os.kill(parent_of(pid), signal.SIGKILL)
    wait_until_gone(pid)
    found, again = get(mine.remote("A"))
    assert found == "1"
    assert again != pid
    assert get(variable.remote("A"))[0] is None


def test_a_worker_that_dies_costs_its_environment_nothing(session: None, tmp_path: Path) -> None:
    first = Sign(tmp_path / "first")

    @make_remote
    def die_once(first: Sign) -> str | None:
        import os

        if not first.is_up():
            first.put_up()
            os._exit(3)
        return os.environ.get("A")

    assert get(die_once.options(runtime_env={"env_vars": {"A": "1"}}).remote(first)) == "1"


def test_a_killed_program_leaves_nothing(tmp_path: Path, cache_folder: str) -> None:
    sign = Sign(tmp_path / "pid")
    script = start_script(
        f"""
import os, time
import grainwise as ray
ray.init(num_cpus=2, runtime_env={{"env_vars": {{"A": "1"}}}})
def wait():
    open({sign.path + ".part"!r}, "w").close()
    os.rename({sign.path + ".part"!r}, {sign.path!r})
    time.sleep(1000)
ray.get(ray.remote(wait).options(runtime_env={{"env_vars": {{"B": "1"}}}}).remote())
""",
        env={"GRAINWISE_CACHE_DIR": cache_folder},
    )
    sign.wait()
    script.kill()
    script.wait(LIMIT_S)
    assert_nothing_left(script.mark)


def test_a_program_leaves_nothing(tmp_path: Path, cache_folder: str) -> None:
    (tmp_path / "code.py").write_text("X = 1\n")
    result = run_script(
        f"""
import grainwise as ray
f = ray.remote(lambda: __import__("code").X)
print(ray.get(f.options(runtime_env={{"working_dir": {str(tmp_path)!r}}}).remote()))
""",
        timeout=LIMIT_S,
        env={"GRAINWISE_CACHE_DIR": cache_folder},
    )
    assert result.stdout == "1\n"
    assert_nothing_left(result.mark)
