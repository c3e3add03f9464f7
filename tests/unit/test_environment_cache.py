"""The cache of environments: whole or not there, one maker, locks that end with their owner; copies."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from grainwise.engine.environments import cache as module
from grainwise.engine.environments.cache import Cache
from grainwise.engine.environments.folders import snapshot
from grainwise.errors import RuntimeEnvSetupError


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "package" / "__pycache__").mkdir(parents=True)
    (made / "package" / "__pycache__" / "x.pyc").touch()
    (made / "package" / "code.py").write_text("X = 1\n")
    (made / "run.sh").write_text("#!/bin/sh\n")
    (made / "run.sh").chmod(0o755)
    return made


def make(cache: Cache, name: str) -> str:
    entry = cache.claim("things", name, may_share=True)
    assert entry.info is None
    entry.begin()
    Path(entry.path, "content").write_text(name)
    entry.finish({"made": name})
    entry.close()
    return entry.path


def files_of(path: str) -> set[str]:
    return {
        str(found.relative_to(path)) for found in Path(path).rglob("*") if "__pycache__" not in found.parts
    }


# --- entries ------------------------------------------------------------------------------------------------


def test_what_is_whole_is_found_again(folder: str) -> None:
    path = make(Cache(folder), "a")
    entry = Cache(folder).claim("things", "a", may_share=True)
    assert entry.path == path
    assert entry.info == {"made": "a"}
    entry.close()


def test_the_cache_is_its_owners_alone(folder: str) -> None:
    os.mkdir(folder, 0o755)
    make(Cache(folder), "a")
    for path in (folder, f"{folder}/things", f"{folder}/things/a"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700, path


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeEnvSetupError, match="GRAINWISE_CACHE_DIR"):
        Cache(str(tmp_path / "file")).claim("things", "a", may_share=True)


def test_what_is_half_made_is_made_anew(folder: str) -> None:
    entry = Cache(folder).claim("things", "a", may_share=True)
    entry.begin()
    Path(entry.path, "half").touch()
    entry.close()  # as the kernel does when its owner is killed
    again = Cache(folder).claim("things", "a", may_share=True)
    assert again.info is None
    again.begin()
    assert os.listdir(again.path) == []
    again.abandon()
    assert not os.path.exists(again.path)


def test_one_makes_and_the_others_wait(folder: str) -> None:
    cache = Cache(folder)
    first = cache.claim("things", "a", may_share=True)
    first.begin()
    is_waiting, found = threading.Event(), []

    def ask() -> None:
        entry = Cache(folder).claim("things", "a", may_share=True, waiting=is_waiting.set)
        found.append(entry.info)
        entry.close()

    thread = threading.Thread(target=ask)
    thread.start()
    assert is_waiting.wait(30)
    assert found == []
    first.finish({"made": "by the first"})
    first.share()
    thread.join(30)
    assert found == [{"made": "by the first"}]
    first.close()


def test_who_waits_may_give_up(folder: str) -> None:
    first = Cache(folder).claim("things", "a", may_share=True)

    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Cache(folder).claim("things", "a", may_share=True, waiting=give_up)
    with pytest.raises(RuntimeEnvSetupError, match="another program"):
        Cache(folder).claim("things", "a", may_share=True, deadline=0.0)
    first.close()


def test_sweeping_removes_what_is_old_or_half_and_nothing_in_use(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(folder)
    old, used, young = (make(cache, name) for name in ("old", "used", "young"))
    for path in (old, used):
        os.utime(f"{path}.json", (0, 0))
    half = cache.claim("things", "half", may_share=True)
    half.begin()
    half.close()
    user = Cache(folder).claim("things", "used", may_share=True)
    monkeypatch.setattr(module, "MAX_AGE_S", 3600.0)
    cache.sweep("things")
    assert sorted(os.listdir(f"{folder}/things")) == [
        "used", "used.json", "used.lock", "young", "young.json", "young.lock",
    ]  # fmt: skip
    assert os.path.isdir(young)
    user.close()


# --- copies of folders --------------------------------------------------------------------------------------


def test_a_copy_holds_what_is_not_left_out(folder: str, source: Path) -> None:
    (source / ".gitignore").write_text("*.log\n/data\n")
    for name in ("a.log", "data/big", "package/data/kept", ".git/config", "venv/bin/python", "notes.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    (source / "package" / ".rayignore").write_text("secret\n")
    (source / "package" / "secret").touch()
    (source / "secret").touch()
    entry = snapshot(Cache(folder), str(source), ["*.md", "!venv"])
    assert files_of(entry.path) == {
        ".gitignore", "package", "package/code.py", "package/data", "package/data/kept",
        "package/.rayignore", "run.sh", "secret", "venv", "venv/bin", "venv/bin/python",
    }  # fmt: skip
    assert os.access(f"{entry.path}/run.sh", os.X_OK)
    entry.close()


def test_links_lead_where_they_led(folder: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("there\n")
    os.symlink("package/code.py", source / "inner")
    os.symlink("../outside", source / "outer")
    os.symlink(".", source / "loop")
    entry = snapshot(Cache(folder), str(source), [])
    assert os.readlink(f"{entry.path}/inner") == "package/code.py"
    assert Path(entry.path, "outer").read_text() == "there\n"
    assert os.path.islink(f"{entry.path}/loop")
    entry.close()


def test_the_next_session_takes_a_copy_that_is_as_it_was_made(folder: str, source: Path) -> None:
    first = snapshot(Cache(folder), str(source), [])
    Path(first.path, "package", "__pycache__").mkdir()  # somebody imported it
    first.close()
    second = snapshot(Cache(folder), str(source), [])
    assert second.path == first.path
    assert os.path.isdir(f"{second.path}/package/__pycache__"), "it was not copied again"
    Path(second.path, "package", "code.py").write_text("X = 2\n")
    second.close()
    third = snapshot(Cache(folder), str(source), [])
    assert third.path == first.path
    assert Path(third.path, "package", "code.py").read_text() == "X = 1\n"
    third.close()


def test_sessions_at_the_same_time_have_copies_of_their_own(folder: str, source: Path) -> None:
    cache = Cache(folder)
    mine, mine_again = snapshot(cache, str(source), []), snapshot(cache, str(source), [])
    other = snapshot(Cache(folder), str(source), [])
    assert mine.path == mine_again.path != other.path
    for entry in (mine, mine_again, other):
        entry.close()


def test_other_content_is_another_copy(folder: str, source: Path) -> None:
    cache = Cache(folder)
    first = snapshot(cache, str(source), [])
    (source / "package" / "code.py").write_text("X = 2\n")
    second = snapshot(cache, str(source), [])
    assert first.path != second.path
    assert Path(first.path, "package", "code.py").read_text() == "X = 1\n"
    first.close()
    second.close()


def test_a_module_is_copied_under_its_name(folder: str, source: Path) -> None:
    cache = Cache(folder)
    package = snapshot(cache, str(source / "package"), [], "package")
    assert files_of(package.path) == {"package", "package/code.py"}
    file = snapshot(cache, str(source / "package" / "code.py"), [], "code.py")
    assert files_of(file.path) == {"code.py"}
    package.close()
    file.close()


def test_an_archive_is_unpacked(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("top/code.py", "X = 1\n")
        tool = zipfile.ZipInfo("tool")
        tool.external_attr = 0o755 << 16
        archive.writestr(tool, "#!/bin/sh\n")
    entry = snapshot(Cache(folder), str(path), [])
    assert files_of(entry.path) == {"top", "top/code.py", "tool"}
    assert os.access(f"{entry.path}/tool", os.X_OK)
    entry.close()


def test_a_broken_archive_is_told(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    path.write_text("no archive")
    with pytest.raises(RuntimeEnvSetupError, match=r"code\.zip can't be unpacked"):
        snapshot(Cache(folder), str(path), [])
    assert [name for name in os.listdir(f"{folder}/folders") if not name.endswith(".lock")] == []


def test_a_file_that_can_not_be_read_is_named(folder: str, source: Path) -> None:
    (source / "package").rename(source / "gone")
    with pytest.raises(RuntimeEnvSetupError, match="package can't be made"):
        snapshot(Cache(folder), str(source / "package"), [], "package")
