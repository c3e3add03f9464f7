"""Images as virtual environments, of environments and of ordinary tasks. Packages are wheels made here."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grainwise.errors import RuntimeEnvSetupError
from grainwise.flow import ActorEnvironment, ImageSpec, map_task, task, workflow
from grainwise.flow.replicas import images
from grainwise.flow.replicas.places import close_hosts
from tests.flow import hosted_tasks as tasks
from tests.flow.hosting import own_runtime_folder

Wheels = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, own_runtime_folder():
        patch.setenv("GRAINWISE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("UV_OFFLINE", "1")
        patch.setenv("UV_PYTHON_DOWNLOADS", "never")
        yield
        close_hosts()
        images.let_go()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """Make wheels of one module each, or of a package that is installed here."""
    folder = tmp_path_factory.mktemp("wheels")

    def make(name: str, version: str = "1.0", source: str = "") -> str:
        path = folder / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            if source:
                for file in glob.glob(f"{source}/*.py"):
                    wheel.write(file, f"{name}/{os.path.basename(file)}")
            else:
                wheel.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return str(path)

    return make


def version_of(name: str) -> str:
    import importlib

    try:
        return f"{importlib.import_module(name).VERSION} {os.environ.get('FROM_IMAGE')}"
    except ImportError:
        return "absent"


def test_an_environment_and_a_task_have_the_packages_of_their_image(
    wheels: Wheels, capfd: pytest.CaptureFixture[str]
) -> None:
    image = ImageSpec(packages=[wheels("tiny", "1.0")], env={"FROM_IMAGE": "yes"})
    env = ActorEnvironment(name="packed", container_image=image, ttl_seconds=20)

    @env.task
    def in_replica(name: str) -> str:
        return version_of(name) + " " + os.path.basename(os.environ["VIRTUAL_ENV"])

    @task(container_image=image)
    def in_worker(name: str) -> str:
        return version_of(name)

    @task
    def elsewhere(name: str) -> str:
        return version_of(name)

    @workflow
    def ask(name: str) -> tuple[str, str, str]:
        return in_replica(name=name), in_worker(name=name), elsewhere(name=name)

    there, worker, other = ask(name="tiny")
    assert there.startswith("1.0 yes ")
    assert (worker, other) == ("1.0 yes", "absent")
    assert map_task(in_worker)(name=["tiny", "no_such"]) == ["1.0 yes", "absent"]
    assert map_task(in_replica)(name=["tiny"]) == [there]
    words = capfd.readouterr().err
    assert words.count("building a virtual environment with tiny-1.0") == 1
    assert words.count("built in") == 1


def test_another_content_is_another_environment(wheels: Wheels) -> None:
    def ask(*packages: str) -> str:
        env = ActorEnvironment(
            name="versions", container_image=ImageSpec(packages=list(packages)), ttl_seconds=10
        )

        @env.task
        def find(name: str) -> str:
            return version_of(name)

        [version] = map_task(find)(name=["other"])
        return version.split()[0]

    assert ask(wheels("other", "1.0")) == "1.0"
    assert ask(wheels("other", "2.0")) == "2.0"


def test_files_of_requirements_and_images_below(wheels: Wheels, tmp_path: Path) -> None:
    lines = tmp_path / "requirements.txt"
    lines.write_text(f"# ours\n{wheels('listed')}\n")
    below = ImageSpec(packages=[wheels("below")], env={"FROM_IMAGE": "below", "B": "1"})
    image = ImageSpec(requirements=str(lines), base_image=below, env={"FROM_IMAGE": "above"})
    asked = images.runtime_env_of(image)
    assert [os.path.basename(each) for each in asked["uv"]["packages"]] == [
        "below-1.0-py3-none-any.whl", "listed-1.0-py3-none-any.whl",
    ]  # fmt: skip
    assert images.variables_of(image) == {"FROM_IMAGE": "above", "B": "1"}
    assert images.asks_for_packages(image)
    assert not images.asks_for_packages(ImageSpec(registry="ghcr.io/x", apt_packages=["git"]))
    with pytest.raises(ValueError, match=r"nowhere\.txt is not a valid file"):
        images.runtime_env_of(ImageSpec(requirements="nowhere.txt"))
    with pytest.raises(RuntimeEnvSetupError, match="conda_packages"):
        images.runtime_env_of(ImageSpec(conda_packages=["numpy"]))


def test_a_build_that_fails_has_the_resolvers_words(wheels: Wheels) -> None:
    image = ImageSpec(packages=["no-such-package-at-all"], pip_extra_args="--no-index")
    env = ActorEnvironment(name="unbuilt", container_image=image)

    @env.task
    def in_replica(x: int) -> int:
        return x

    @task(container_image=image)
    def in_worker(x: int) -> int:
        return x

    @workflow
    def one(x: int) -> int:
        return in_replica(x=x)

    for run in (lambda: map_task(in_replica)(x=[1]), lambda: one(x=1), lambda: map_task(in_worker)(x=[1])):
        with pytest.raises(RuntimeEnvSetupError, match="no-such-package-at-all was not found"):
            run()


def test_the_programs_own_python_needs_no_other() -> None:
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert images.foreign_python(ImageSpec(python_version=own)) == ""
    assert images.foreign_python(ImageSpec(python_version="3.99")) == "3.99"
    assert not images.asks_for_packages(ImageSpec(python_version=own))


def test_a_python_that_cannot_be_had_is_named() -> None:
    env = ActorEnvironment(name="future", container_image=ImageSpec(python_version="3.99"))

    @env.task
    def ask(x: int) -> int:
        return x

    with pytest.raises(RuntimeEnvSetupError, match=r"Python 3\.99"):
        map_task(ask)(x=[1])
    with pytest.raises(RuntimeEnvSetupError, match=r"'3\.8'\) expected 3\.10 or later"):
        images.foreign_python(ImageSpec(python_version="3.8"))


def find_another_python() -> tuple[str, str] | None:
    """Return the version and folder of an interpreter that is not this one's."""
    own = f"3.{sys.version_info[1]}"
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        found = [shutil.which(f"python{version}"), *glob.glob(f"/*/.pyenv/versions/{version}.*/bin/python3")]
        for path in filter(None, found):
            if version != own and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
                return version, os.path.dirname(path)
    return None


def test_replicas_of_another_python(wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    another = find_another_python()
    if another is None:
        pytest.skip("there is no other Python here")
    version, folder = another
    monkeypatch.setenv("PATH", os.pathsep.join([folder, os.environ["PATH"]]))
    needed = wheels("cloudpickle", "99.0", source=os.path.dirname(cloudpickle.__file__))
    image = ImageSpec(packages=[needed], python_version=version, pip_extra_args="--no-index")
    env = ActorEnvironment(name="foreign", container_image=image, ttl_seconds=20)
    monkeypatch.setattr(tasks.python_version, "place", env)
    assert map_task(tasks.python_version)(x=[1, 2]) == [version, version]
