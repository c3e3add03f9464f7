"""Copies of folders for tasks: `working_dir` and `py_modules`, found again by content.

A copy belongs to one session at a time, because tasks may write in it. When the session has ended, the next
one whose folder has the same content takes it, if nothing in it has changed.
"""

from __future__ import annotations

import os
import shutil
import stat
from hashlib import blake2b

from ...errors import GrainwiseError, RuntimeEnvSetupError
from .patterns import DEFAULT, Patterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .cache import Cache, Entry

KIND = "folders"
IGNORE_FILES = (".gitignore", ".rayignore")
CHUNK_BYTES = 1 << 20
MAX_TRIES = 3
"""A folder that changes while it is copied is copied again so often."""


def snapshot(
    cache: Cache,
    path: str,
    excludes: Sequence[str],
    inside: str = "",
    check: Callable[[], None] | None = None,
) -> Entry:
    """Return a copy of a folder or file, or what an archive holds.

    Args:
        cache: where copies are kept.
        path: of the folder, the file, or the archive.
        excludes: patterns of what is left out, besides those of its ignore files.
        inside: the copy holds it under this name; "" for its content itself.
        check: called now and then; raises to give up.

    Raises:
        RuntimeEnvSetupError: it can't be read, or changes all the time.
    """
    check = check or _go_on
    with cache.copying:
        try:
            return _snapshot(cache, path, excludes, inside, check)
        except OSError as error:
            raise RuntimeEnvSetupError(f"a copy of {path} can't be made: {error}") from error


def _snapshot(
    cache: Cache, path: str, excludes: Sequence[str], inside: str, check: Callable[[], None]
) -> Entry:
    if os.path.isfile(path) and not inside:
        return _unpacked(cache, path)
    for _ in range(MAX_TRIES):
        files = list(_walk(path, excludes, inside))
        name = _digest(files, check)
        entry = cache.claim_free(KIND, name)
        if _is_usable(entry):
            return entry
        try:
            entry.begin()
            for inner, source, target in files:
                check()
                _copy(source, os.path.join(entry.path, inner), target)
            copied = [(inner, os.path.join(entry.path, inner), target) for inner, _, target in files]
            if _digest(copied, check) == name:
                entry.finish({"source": path, "files": _state(entry.path)})
                cache.sweep(KIND)
                return entry
        except BaseException:
            entry.abandon()
            raise
        entry.abandon()
    raise RuntimeEnvSetupError(f"a copy of {path} can't be made: its files change all the time")


def digest_of(path: str) -> str:
    """Return the hash of a file's content, or of a folder's with all that a copy of it would hold."""
    files = [("", path, None)] if os.path.isfile(path) else list(_walk(path, (), ""))
    return _digest(files, _go_on)


def _unpacked(cache: Cache, path: str) -> Entry:
    """Return what an archive holds."""
    name = digest_of(path)
    entry = cache.claim_free(KIND, name)
    if _is_usable(entry):
        return entry
    try:
        entry.begin()
        _unpack(path, entry.path)
        entry.finish({"source": path, "files": _state(entry.path)})
    except BaseException as error:
        entry.abandon()
        if isinstance(error, Exception) and not isinstance(error, GrainwiseError):
            raise RuntimeEnvSetupError(f"archive {path} can't be unpacked: {error}") from error
        raise
    cache.sweep(KIND)
    return entry


def _is_usable(entry: Entry) -> bool:
    """Say whether a copy is as it was made; one that this session has already may have been written in."""
    if entry.info is None or (entry.num_users == 1 and entry.info["files"] != _state(entry.path)):
        return False
    entry.touch()
    return True


def _unpack(path: str, folder: str) -> None:
    if path.endswith(".zip"):
        import zipfile

        with zipfile.ZipFile(path) as archive:  # it never writes outside of the folder
            for member in archive.infolist():
                made = archive.extract(member, folder)
                mode = member.external_attr >> 16 & 0o777
                if mode and not member.is_dir():
                    os.chmod(made, mode | 0o600)
        return
    import tarfile

    safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(path) as archive:
        archive.extractall(folder, **safely)


def _walk(path: str, excludes: Sequence[str], inside: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield what a copy holds: (path in the copy, path of the source, where it leads if it is a link).

    Folders come before what is in them.
    """
    if inside:
        yield inside, path, None
    if os.path.isfile(path):
        return
    outer = [(0, Patterns([*DEFAULT, *excludes]))]
    stack: list[tuple[str, list[tuple[int, Patterns]]]] = [("", outer)]
    while stack:
        folder, patterns = stack.pop()
        here = os.path.join(path, folder) if folder else path
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda each: each.name)
        names = {each.name for each in entries}
        for name in IGNORE_FILES:
            if name in names:
                with open(os.path.join(here, name), encoding="utf-8", errors="replace") as file:
                    patterns = [*patterns, (len(folder) + 1 if folder else 0, Patterns(file))]
        for each in entries:
            inner = f"{folder}/{each.name}" if folder else each.name
            is_folder = each.is_dir(follow_symlinks=False)
            if any(some.matches(inner[cut:], is_folder=is_folder) for cut, some in patterns):
                continue
            if not (is_folder or each.is_symlink() or each.is_file(follow_symlinks=False)):
                continue  # a socket, a pipe, a device
            target = _target(each.path, path) if each.is_symlink() else None
            yield (f"{inside}/{inner}" if inside else inner), each.path, target
            if is_folder:
                stack.append((inner, patterns))


def _digest(files: Sequence[tuple[str, str, str | None]], check: Callable[[], None]) -> str:
    """Return the hash of files with their names, contents and the right to run them."""
    whole = blake2b(digest_size=16)
    for name, source, target in files:
        check()
        found = os.stat(source, follow_symlinks=target is None)
        kind, content = "file", b""
        if target is not None:
            kind, content = "link", os.fsencode(target)
        elif stat.S_ISDIR(found.st_mode):
            kind = "folder"
        else:
            own = blake2b(digest_size=32)
            with open(source, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    own.update(chunk)
            content = own.digest()
        whole.update(
            f"{kind} {found.st_mode & 0o100:o} {len(name)} {name}\0".encode("utf-8", "surrogateescape")
        )
        whole.update(len(content).to_bytes(8, "little") + content)
    return whole.hexdigest()


def _copy(source: str, path: str, target: str | None) -> None:
    if target is not None:
        os.symlink(target, path)
        return
    found = os.stat(source)
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(path)
    else:
        shutil.copyfile(source, path)
        os.chmod(path, stat.S_IMODE(found.st_mode) | 0o600)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _target(link: str, root: str) -> str:
    """Return where a link leads; as it is, if that is in the folder, else as an absolute path."""
    target = os.readlink(link)
    there = os.path.normpath(os.path.join(os.path.dirname(link), target))
    return target if not os.path.isabs(target) and there.startswith(root + os.sep) else there


def _state(folder: str) -> list[Any]:
    """Return what tells whether anything in a folder was changed."""
    found: list[Any] = []
    for here, folders, files in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if name != "__pycache__"]  # importing is no change
        for name in sorted(files):
            path = os.path.join(here, name)
            seen = os.lstat(path)
            inner = os.path.relpath(path, folder)
            found.append([inner, seen.st_size, seen.st_mtime_ns, stat.S_IMODE(seen.st_mode)])
        found += [[os.path.relpath(os.path.join(here, name), folder)] for name in folders]
    return found


def _go_on() -> None:
    """Never give up."""
