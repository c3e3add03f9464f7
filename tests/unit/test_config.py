"""Settings: arguments before variables before defaults, and errors that name what to change."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from grainwise import config
from grainwise.config import MIN_STORE_BYTES, Settings, resolve

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRAINWISE_")]:
        if name != "GRAINWISE_TEST_MARK":
            monkeypatch.delenv(name)


def fake_files(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Replace what the settings read of the system; a file that is not listed does not exist."""

    def fake_open(path: str, **_: Any) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(config, "open", fake_open, raising=False)


# -- where a setting comes from ------------------------------------------------------------------------------


def test_defaults_fit_the_machine() -> None:
    settings = resolve()
    assert settings.num_cpus == config.available_cpus() >= 1
    assert settings.object_store_memory_bytes == int(config.available_memory_bytes() * config.STORE_SHARE)
    assert settings.spill_directory is not None
    assert os.path.isdir(settings.spill_directory)
    assert settings.threads_per_worker == 1


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "2.5")
    monkeypatch.setenv("GRAINWISE_OBJECT_STORE_MEMORY", str(64 * MIB))
    monkeypatch.setenv("GRAINWISE_SPILL_DIR", str(tmp_path))
    monkeypatch.setenv("GRAINWISE_THREADS_PER_WORKER", "3")
    settings = resolve()
    assert (settings.num_cpus, settings.object_store_memory_bytes) == (2.5, 64 * MIB)
    assert (settings.spill_directory, settings.threads_per_worker) == (str(tmp_path), 3)


def test_arguments_go_before_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "not even a number")
    monkeypatch.setenv("GRAINWISE_OBJECT_STORE_MEMORY", "nor this")
    monkeypatch.setenv("GRAINWISE_SPILL_DIR", "/no/such/folder")
    settings = resolve(num_cpus=3, object_store_memory=MIN_STORE_BYTES, spill_dir=str(tmp_path))
    assert (settings.num_cpus, settings.object_store_memory_bytes) == (3, MIN_STORE_BYTES)
    assert settings.spill_directory == str(tmp_path)


@pytest.mark.parametrize("name", ["NUM_CPUS", "OBJECT_STORE_MEMORY", "SPILL_DIR", "THREADS_PER_WORKER"])
def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plain = repr(resolve())
    monkeypatch.setenv(f"GRAINWISE_{name}", "")
    assert repr(resolve()) == plain


def test_spilling_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve(spill_dir="off").spill_directory is None
    monkeypatch.setenv("GRAINWISE_SPILL_DIR", "off")
    assert resolve().spill_directory is None
    assert resolve(spill_dir=str(tmp_path)).spill_directory == str(tmp_path)


def test_the_spill_folder_is_kept_as_an_absolute_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(spill_dir=".").spill_directory == str(tmp_path)
    path: Any = tmp_path
    assert resolve(spill_dir=path).spill_directory == str(tmp_path)


def test_the_temp_folder_is_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert resolve().spill_directory == str(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert resolve().spill_directory in ("/tmp", "/var/tmp", os.getcwd())


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"num_cpus": 0}, ValueError, "num_cpus must be more than 0, got 0"),
        ({"num_cpus": -1.5}, ValueError, "got -1.5"),
        ({"num_cpus": float("nan")}, ValueError, "num_cpus expected a finite number"),
        ({"num_cpus": float("inf")}, ValueError, "num_cpus expected a finite number"),
        ({"num_cpus": "2"}, TypeError, "init(num_cpus=...) expected a number, got str"),
        ({"num_cpus": True}, TypeError, "expected a number, got bool"),
        ({"object_store_memory": MIN_STORE_BYTES - 1}, ValueError, "at least 1,048,576 bytes, got 1,048,575"),
        ({"object_store_memory": float("inf")}, ValueError, "object_store_memory expected a finite number"),
        ({"object_store_memory": "1 GB"}, TypeError, "init(object_store_memory=...) expected a number"),
        ({"spill_dir": 3}, TypeError, "init(spill_dir=...) expected a path, got int"),
        ({"spill_dir": "/no/such/folder"}, ValueError, "spill_dir expected an existing folder"),
        ({"spill_dir": __file__}, ValueError, "spill_dir expected an existing folder"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        resolve(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_CPUS", "many"),
        ("NUM_CPUS", "0"),
        ("NUM_CPUS", "nan"),
        ("OBJECT_STORE_MEMORY", "64MB"),
        ("OBJECT_STORE_MEMORY", "-1"),
        ("OBJECT_STORE_MEMORY", "inf"),
        ("SPILL_DIR", "/no/such/folder"),
        ("THREADS_PER_WORKER", "0"),
        ("THREADS_PER_WORKER", "1.5"),
        ("THREADS_PER_WORKER", "-2"),
        ("THREADS_PER_WORKER", "nan"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GRAINWISE_{name}", value)
    with pytest.raises(ValueError, match=f"GRAINWISE_{name}"):
        resolve()


# -- what the machine has ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("20000 100000", 1), ("9900000 100000", 8), ("garbage", 8)],
)
def test_cpus_are_bounded_by_the_container_s_quota(
    monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    fake_files(monkeypatch, {"/sys/fs/cgroup/cpu.max": quota})
    assert config.available_cpus() == expected


def test_cpus_without_affinity_or_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    fake_files(monkeypatch, {})
    assert config.available_cpus() == 1


@pytest.mark.parametrize("limit", ["1073741824\n", "max\n", "garbage"])
def test_memory_is_bounded_by_the_container_s_limit(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__)
    fake_files(monkeypatch, {"/sys/fs/cgroup/memory.max": limit})
    assert config.available_memory_bytes() == (1 << 30 if limit[0] == "1" else 4 << 30)


# -- the object ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "size"), [("auto", 0), ("off", 1), ("12", 12), ("", 0)])
def test_batching_comes_from_the_argument_then_the_variable(
    monkeypatch: pytest.MonkeyPatch, text: str, size: int
) -> None:
    monkeypatch.setenv("GRAINWISE_BATCHING", text)
    assert resolve().batching == size
    assert resolve(batching=7).batching == 7
    with pytest.raises(ValueError, match=r"init\(batching=...\) expected at least 1 task"):
        resolve(batching=0)


def test_how_tasks_are_taken_back_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_TAKE_BACK", "locks")
    assert resolve().take_back == "locks"
    monkeypatch.setenv("GRAINWISE_TAKE_BACK", "luck")
    with pytest.raises(ValueError, match='GRAINWISE_TAKE_BACK expected "barriers" or "locks", got \'luck\''):
        resolve()


@pytest.mark.parametrize("name", ["log_to_driver", "tag_output"])
def test_switches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(resolve(), name) is True
    for text, value in (("0", False), ("false", False), ("1", True), ("True", True), ("", True)):
        monkeypatch.setenv(f"GRAINWISE_{name.upper()}", text)
        assert getattr(resolve(), name) is value
    monkeypatch.setenv(f"GRAINWISE_{name.upper()}", "maybe")
    with pytest.raises(ValueError, match=f"GRAINWISE_{name.upper()} expected 1 or 0, got 'maybe'"):
        resolve()
    arguments: dict[str, Any] = {name: False}
    assert getattr(resolve(**arguments), name) is False
    arguments[name] = 1
    with pytest.raises(TypeError, match=rf"init\({name}=...\) expected True or False, got int"):
        resolve(**arguments)


@pytest.mark.parametrize(("variable", "report"), [("", False), ("0", False), ("1", True)])
def test_no_report_at_the_end_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, variable: str, report: bool
) -> None:
    monkeypatch.setenv("GRAINWISE_REPORT", variable)
    assert resolve().report is report
    assert resolve(report=not report).report is not report


def test_settings_are_frozen_and_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_CACHE_DIR", "/cache")
    settings = resolve(num_cpus=2, object_store_memory=MIN_STORE_BYTES, spill_dir="off")
    with pytest.raises(AttributeError, match=r"init\(num_cpus=...\)"):
        settings.num_cpus = 3
    assert isinstance(settings, Settings)
    assert repr(settings) == (
        "Settings(batching=0, cache_directory='/cache', environment_ttl_s=300.0, gpu_ids=(), "
        f"log_to_driver=True, memory_bytes={settings.memory_bytes}, memory_monitor_refresh_s=0.25, "
        "memory_usage_threshold=0.95, num_cpus=2, object_store_memory_bytes=1048576, report=False, "
        "resources={}, spill_directory=None, tag_output=True, take_back='barriers', task_oom_retries=-1, "
        "threads_per_worker=1)"
    )


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    usual = "/home/me/Library/Caches/grainwise" if sys.platform == "darwin" else "/home/me/.cache/grainwise"
    assert resolve().cache_directory == usual
    monkeypatch.setenv("GRAINWISE_CACHE_DIR", "~/kept")
    assert resolve().cache_directory == "/home/me/kept"


def test_a_lifetime_of_environments_is_no_less_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_ENVIRONMENT_TTL_S", "1.5")
    assert resolve().environment_ttl_s == 1.5
    monkeypatch.setenv("GRAINWISE_ENVIRONMENT_TTL_S", "-1")
    with pytest.raises(ValueError, match="GRAINWISE_ENVIRONMENT_TTL_S must be at least 0"):
        resolve()
