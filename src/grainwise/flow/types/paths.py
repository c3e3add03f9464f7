"""Files and directories as values: paths that know what they lead to."""

from __future__ import annotations

import os
import pathlib
from typing import IO, Any

from .checker import Checker, Mismatch, show_type

_MADE: dict[tuple[type, str], type] = {}


class _PathValue(os.PathLike[str]):
    """What files and directories have in common."""

    _extension = ""

    def __init__(
        self, path: Any = "", downloader: Any = None, remote_path: Any = None, metadata: Any = None
    ) -> None:
        if path is None or not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"{type(self).__name__}(...) expected a path, got {type(path).__name__}")
        self.path = os.fspath(path)
        self.remote_path = remote_path
        self.metadata = metadata
        self.remote_source = self.path if "://" in self.path else None

    def __class_getitem__(cls, item: Any) -> type:
        """Return the same type with an extension or format, as in `FlyteFile["csv"]`."""
        if item is None:
            return cls
        extension = str(getattr(item, "__name__", item)).strip("~").strip(".").lstrip()
        made = _MADE.get((cls, extension))
        if made is None:
            namespace = {"_extension": extension, "__module__": cls.__module__}
            made = _MADE[cls, extension] = type(cls.__name__, (cls,), namespace)
        return made

    @classmethod
    def extension(cls) -> str:
        """Return the extension of the type, or an empty text."""
        return cls._extension

    def download(self) -> str:
        """Return the path; what is local needs no copy."""
        return self.path

    def exists(self) -> bool:
        """Say whether there is something at the path."""
        return os.path.exists(self.path)

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (str, os.PathLike)):
            return self.path == os.fspath(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (_root_of(type(self)), self._extension, self.path, self.remote_path, self.metadata)


class FlyteFile(_PathValue):
    """A file: a path that tasks take and give. `FlyteFile["csv"]` names what is in it.

    A task that takes one may be given plain text or a `pathlib.Path`; the file must be there.
    """

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """Open the file; use it in a `with` statement."""
        if "w" in mode:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        opened: IO[Any] = open(self.path, mode, **options)  # noqa: SIM115 -- the caller closes it
        return opened

    @classmethod
    def from_source(cls, source: Any) -> FlyteFile:
        """Return the file at a path."""
        return cls(source)

    @classmethod
    def new(cls, filename: Any) -> FlyteFile:
        """Return a file of this name in a new folder in the temp folder."""
        import tempfile

        return cls(os.path.join(tempfile.mkdtemp(prefix="grainwise-flow-"), os.fspath(filename)))


class FlyteDirectory(_PathValue):
    """A directory: a path that tasks take and give."""

    @classmethod
    def new(cls, dirname: Any = None) -> FlyteDirectory:
        """Return a new, empty directory in the temp folder."""
        import tempfile

        made = tempfile.mkdtemp(prefix="grainwise-flow-")
        if dirname is not None:
            made = os.path.join(made, os.fspath(dirname))
            os.makedirs(made)
        return cls(made)

    @classmethod
    def new_remote(cls, *_: Any, **__: Any) -> FlyteDirectory:
        """Return a new, empty directory; what is remote elsewhere is local here."""
        return cls.new()

    @classmethod
    def from_source(cls, source: Any) -> FlyteDirectory:
        """Return the directory at a path."""
        return cls(source)

    def new_file(self, name: str | None = None) -> FlyteFile:
        """Return a file in the directory; nothing is written yet."""
        return FlyteFile(os.path.join(self.path, name or os.urandom(8).hex()))

    def new_dir(self, name: str | None = None) -> FlyteDirectory:
        """Return a new directory in the directory."""
        path = os.path.join(self.path, name or os.urandom(8).hex())
        os.makedirs(path, exist_ok=True)
        return FlyteDirectory(path)

    @classmethod
    def listdir(cls, directory: FlyteDirectory) -> list[FlyteFile | FlyteDirectory]:
        """Return what is in a directory, sorted by name."""
        found: list[FlyteFile | FlyteDirectory] = []
        for name in sorted(os.listdir(directory.path)):
            path = os.path.join(directory.path, name)
            found.append(FlyteDirectory(path) if os.path.isdir(path) else FlyteFile(path))
        return found

    def crawl(self, maxdepth: int | None = None, topdown: bool = True) -> Any:
        """Yield (directory, path below it) of all files, `maxdepth` levels deep at most."""
        for folder, _, names in os.walk(self.path, topdown=topdown):
            below = os.path.relpath(folder, self.path)
            if maxdepth is not None and below != "." and len(pathlib.PurePath(below).parts) >= maxdepth:
                continue
            for name in sorted(names):
                yield self.path, os.path.normpath(os.path.join(below, name))


def _root_of(cls: type) -> type:
    return FlyteFile if issubclass(cls, FlyteFile) else FlyteDirectory


def _rebuild(root: Any, extension: str, path: str, remote_path: Any, metadata: Any) -> Any:
    return root[extension or None](path, remote_path=remote_path, metadata=metadata)


def of_path_type(cls: Any) -> Checker:
    """Return the checker of `FlyteFile` or `FlyteDirectory`; text and paths are converted.

    What is taken for a file must be one, and be there.
    """
    name = show_type(cls) + (f"[{cls._extension!r}]" if cls._extension else "")
    is_right, word = (os.path.isfile, "file") if issubclass(cls, FlyteFile) else (os.path.isdir, "directory")

    def check(value: Any) -> Any:
        if not isinstance(value, (str, os.PathLike)):
            raise Mismatch(name, value)
        path: Any = value if isinstance(value, _root_of(cls)) else cls(value)
        if "://" not in path.path and not is_right(path.path):
            kind = f"the path of no {word}" if os.path.exists(path.path) else "a path where nothing is"
            raise Mismatch(name, value, got=f"{kind}: {path.path!r:.120}")
        return path

    return Checker(check, name)


def of_path(cls: Any) -> Checker:
    """Return the checker of `pathlib.Path` or `os.PathLike`; text is converted to a path."""
    name = show_type(cls)
    make = pathlib.Path if cls is os.PathLike else cls

    def check(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, (str, os.PathLike)):
            return make(value)
        raise Mismatch(name, value)

    return Checker(check, name)
