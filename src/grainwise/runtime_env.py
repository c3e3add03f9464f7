"""What a runtime environment may say: `RuntimeEnv` and `RuntimeEnvConfig`, with Ray's fields and checks.

A plain dict does as well wherever one is taken.

    env_vars      variables of the tasks' processes
    working_dir   a folder or archive whose copy is the tasks' current folder, and on `sys.path`
    excludes      patterns, as in a .gitignore, of what is left out of copies
    py_modules    folders, `.py` files, wheels or imported modules that tasks can import
    pip, uv       packages, installed into a virtual environment
    worker_process_setup_hook   a function that each process calls before its first task, or its module.name
    config        how it is made

What is of Ray and not offered here (`conda`, containers, ...) is refused where the environment is used.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]

FIELDS = (
    "env_vars", "working_dir", "excludes", "py_modules", "pip", "uv", "worker_process_setup_hook", "config",
)  # fmt: skip
NOT_OFFERED = {
    "conda": "expected `pip` or `uv`: packages go into a virtual environment",
    "container": "workers run in no container - expected `pip` or `uv` for packages",
    "image_uri": "workers run in no container - expected `pip` or `uv` for packages",
    "py_executable": "workers run the program's own interpreter",
    "java_jars": "tasks are Python's",
    "nsight": "workers are not started under a profiler",
    "_nsight": "workers are not started under a profiler",
    "rocprof_sys": "workers are not started under a profiler",
    "_rocprof_sys": "workers are not started under a profiler",
}
"""Ray's fields that are refused, and why."""
WITHOUT_EFFECT = ("_ray_release", "_ray_commit", "_inject_current_ray")
SETUP_TIMEOUT_S = 600


class RuntimeEnvConfig(dict[str, "Any"]):
    """How an environment is made.

    Args:
        setup_timeout_seconds: it fails if it takes longer, default 600; -1 for no limit.
        eager_install: no effect: it is made for the first task that needs it.
        log_files: no effect.

    Raises:
        TypeError: a value is of the wrong type.
        ValueError: a value is out of range.
    """

    known_fields = frozenset({"setup_timeout_seconds", "eager_install", "log_files"})

    def __init__(
        self,
        setup_timeout_seconds: int = SETUP_TIMEOUT_S,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        if isinstance(setup_timeout_seconds, bool) or not isinstance(setup_timeout_seconds, int):
            raise TypeError(
                f"setup_timeout_seconds must be of type int, got: {type(setup_timeout_seconds).__name__}"
            )
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != -1:
            raise ValueError(
                "setup_timeout_seconds must be greater than zero or equals to -1, got: "
                f"{setup_timeout_seconds}"
            )
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be a boolean, got: {type(eager_install).__name__}")
        super().__init__(
            setup_timeout_seconds=setup_timeout_seconds,
            eager_install=eager_install,
            log_files=_texts("config.log_files", log_files or []),
        )

    @classmethod
    def default_config(cls) -> RuntimeEnvConfig:
        """Return what holds where nothing is said."""
        return cls()

    @staticmethod
    def parse_and_validate_runtime_env_config(config: Any) -> RuntimeEnvConfig:
        """Return a dict as one of these.

        Raises:
            TypeError: it is no dict, or a value is of the wrong type.
            ValueError: a field is unknown or out of range.
        """
        if isinstance(config, RuntimeEnvConfig):
            return config
        if not isinstance(config, dict):
            raise TypeError(
                "runtime_env['config'] must be of type dict or RuntimeEnvConfig, got: "
                f"{type(config).__name__}"
            )
        unknown = sorted(set(config) - RuntimeEnvConfig.known_fields)
        if unknown:
            raise ValueError(
                f"runtime_env['config'] has unknown fields {', '.join(map(repr, unknown))} - expected "
                f"{', '.join(sorted(RuntimeEnvConfig.known_fields))}"
            )
        return RuntimeEnvConfig(**config)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict."""
        return dict(self)


class RuntimeEnv(dict[str, "Any"]):
    """A runtime environment: a dict of what it says, checked.

    Args:
        py_modules: what tasks can import besides: paths of folders, of `.py` files and of wheels, or imported
            modules.
        working_dir: path of a folder or archive: tasks run in a copy of it.
        pip: requirements, the path of a requirements file, or a dict with `packages`, `pip_check`,
            `pip_version` and `pip_install_options`.
        env_vars: variables; `${NAME}` stands for what the variable is without the environment.
        config: see `RuntimeEnvConfig`.
        worker_process_setup_hook: a function without arguments that each process calls before its first task,
            or "module.function".
        uv: as `pip`, for uv: a dict has `packages`, `uv_check`, `uv_version`, `uv_pip_install_options`.
        _validate: check now.
        **fields: `excludes`, and what of Ray is not offered: refused where it is used.

    Raises:
        TypeError: a value is of the wrong type.
        ValueError: a field is unknown, or two of them exclude each other.
    """

    known_fields = frozenset((*FIELDS, *NOT_OFFERED, *WITHOUT_EFFECT))

    def __init__(
        self,
        *,
        py_modules: list[Any] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        pip: list[str] | dict[str, Any] | str | None = None,
        env_vars: dict[str, str] | None = None,
        config: dict[str, Any] | RuntimeEnvConfig | None = None,
        worker_process_setup_hook: Callable[[], Any] | str | None = None,
        uv: list[str] | dict[str, Any] | str | None = None,
        _validate: bool = True,
        **fields: Any,
    ) -> None:
        super().__init__()
        fields.update(
            py_modules=py_modules, working_dir=working_dir, pip=pip, env_vars=env_vars, config=config, uv=uv,
            worker_process_setup_hook=worker_process_setup_hook,
        )  # fmt: skip
        given = {name: value for name, value in fields.items() if value is not None}
        if not _validate:
            self.update(given)
            return
        unknown = sorted(set(given) - self.known_fields)
        if unknown:
            raise ValueError(
                f"runtime_env has unknown fields {', '.join(map(repr, unknown))} - expected some of "
                f"{', '.join(FIELDS)}"
            )
        tools = [name for name in ("pip", "uv", "conda") if given.get(name)]
        if len(tools) > 1:
            raise ValueError(
                "The 'pip' field, 'uv' field, and 'conda' field of runtime_env cannot be specified at the "
                f"same time, got {' and '.join(map(repr, tools))}"
            )
        for name, value in given.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        check = _CHECKS.get(name)
        if check is not None:
            value = check(value)
            if value is None:
                return
        super().__setitem__(name, value)

    def set(self, name: str, value: Any) -> None:
        """Set a field."""
        self[name] = value

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in self.items()}

    def serialize(self) -> str:
        """Return it as JSON."""
        import json

        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        """Return what `serialize` made a text of."""
        import json

        return cls(_validate=False, **json.loads(serialized_runtime_env))

    def env_vars(self) -> dict[str, str]:
        """Return the variables."""
        return dict(self.get("env_vars") or {})

    def working_dir(self) -> str:
        """Return the path of the folder, "" for none."""
        return str(self.get("working_dir") or "")

    def has_working_dir(self) -> bool:
        """Say whether it has a folder."""
        return self.get("working_dir") is not None

    def py_modules(self) -> list[Any]:
        """Return what can be imported besides."""
        return list(self.get("py_modules") or [])

    def has_pip(self) -> bool:
        """Say whether it has packages of `pip`."""
        return bool(self.get("pip"))

    def pip_config(self) -> dict[str, Any]:
        """Return the field `pip` as a dict."""
        return dict(self.get("pip") or {})

    def has_uv(self) -> bool:
        """Say whether it has packages of `uv`."""
        return bool(self.get("uv"))

    def uv_config(self) -> dict[str, Any]:
        """Return the field `uv` as a dict."""
        return dict(self.get("uv") or {})


# -- checks ------------------------------------------------------------------------------------------------


def _check_env_vars(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict):
        raise TypeError(f"runtime_env['env_vars'] must be of type Dict[str, str], got {type(value).__name__}")
    for name, text in value.items():
        for what, each in ((f"key {name!r:.200}", name), (f"value of {name!r:.200}", text)):
            if not isinstance(each, str):
                raise TypeError(
                    f"runtime_env['env_vars'] must be of type Dict[str, str], but the {what} is of type "
                    f"{type(each).__name__}"
                )
        if not name or "=" in name or "\0" in name or "\0" in text:
            raise ValueError(f"runtime_env['env_vars'] expected names of variables, got {name!r:.200}")
    return dict(value) or None


def _check_path(value: Any) -> str | None:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`working_dir` must be a string or Path, got {type(value).__name__}")
    return os.fspath(value) or None


def _check_modules(value: Any) -> list[Any] | None:
    from types import ModuleType

    if not isinstance(value, list):
        raise TypeError(f"`py_modules` must be a list of strings, got {type(value).__name__}")
    for each in value:
        if not isinstance(each, (str, os.PathLike, ModuleType)):
            raise TypeError(
                "py_modules must be a list of file paths or imported modules, got one of type "
                f"{type(each).__name__}"
            )
    return list(value) or None


def _check_hook(value: Any) -> Any:
    if not isinstance(value, str) and not callable(value):
        raise TypeError(f"worker_process_setup_hook must be a function, got {type(value).__name__}")
    return value or None


def _check_excludes(value: Any) -> list[str] | None:
    return _texts("excludes", value) or None


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"runtime_env['{name}'] must be of type List[str], got {type(value).__name__}")
    for index, each in enumerate(value):
        if not isinstance(each, str):
            raise TypeError(
                f"runtime_env['{name}'] must be of type List[str], got {type(each).__name__} for item {index}"
            )
    return list(value)


def _check_packages(tool: str, value: Any) -> dict[str, Any] | None:
    """Return what is said of packages as a dict."""
    if isinstance(value, (str, os.PathLike)):
        value = {"packages": os.fspath(value)}
    elif isinstance(value, list):
        value = {"packages": _texts(tool, value)}
    elif not isinstance(value, dict):
        raise TypeError(
            f"runtime_env['{tool}'] must be of type str, List[str] or dict, got {type(value).__name__}"
        )
    options = f"{tool}_install_options" if tool == "pip" else f"{tool}_pip_install_options"
    known = ("packages", f"{tool}_check", f"{tool}_version", options)
    if set(value) - set(known):
        raise ValueError(
            f"runtime_env['{tool}'] can only have these fields: {', '.join(known)}, but got: {sorted(value)}"
        )
    if "packages" not in value:
        raise ValueError(f"runtime_env['{tool}'] must include field 'packages', but got {value}")
    found = dict(value)
    packages = found["packages"]
    if isinstance(packages, (str, os.PathLike)):
        packages = _lines_of(os.fspath(packages))
    elif not isinstance(packages, list):
        raise ValueError(
            f"runtime_env['{tool}']['packages'] must be of type list, got: {type(packages).__name__}"
        )
    found["packages"] = list(dict.fromkeys(_texts(f"{tool}']['packages", packages)))
    if not found["packages"]:
        return None
    check = found.setdefault(f"{tool}_check", False)
    if not isinstance(check, bool):
        raise TypeError(
            f"runtime_env['{tool}']['{tool}_check'] must be of type bool, got {type(check).__name__}"
        )
    version = found.get(f"{tool}_version", "")
    if not isinstance(version, str):
        raise TypeError(
            f"runtime_env['{tool}']['{tool}_version'] must be of type str, got {type(version).__name__}"
        )
    if options in found:
        found[options] = _texts(f"{tool}']['{options}", found[options])
    return found


def _lines_of(path: str) -> list[str]:
    """Return the lines of a requirements file; paths in it are relative to its folder."""
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a valid file")
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    folder = os.path.dirname(os.path.abspath(path))
    kept = (line for line in lines if line and not line.startswith("#"))
    return [_absolute(line, folder) for line in kept]


def _absolute(line: str, folder: str) -> str:
    """Return a line of a requirements file with the path in it made absolute."""
    for option in ("-r", "--requirement", "-c", "--constraint", "-f", "--find-links", "-e", "--editable", ""):
        if not line.startswith(option):
            continue
        rest = line[len(option) :]
        if option and rest[:1] not in (" ", "="):
            continue
        path = os.path.join(folder, rest.lstrip(" =").split(" ;")[0].split(" #")[0].strip())
        is_path = option or rest.startswith(".") or "/" in rest
        if is_path and "://" not in rest and os.path.exists(path):
            return f"{option} {os.path.abspath(path)}".strip()
        break
    return line


_CHECKS: Mapping[str, Any] = {
    "env_vars": _check_env_vars,
    "working_dir": _check_path,
    "excludes": _check_excludes,
    "py_modules": _check_modules,
    "pip": lambda value: _check_packages("pip", value),
    "uv": lambda value: _check_packages("uv", value),
    "worker_process_setup_hook": _check_hook,
    "config": RuntimeEnvConfig.parse_and_validate_runtime_env_config,
}
