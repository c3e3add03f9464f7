"""Finding what a command names: a file or module, and something in it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def load_module(name: str) -> ModuleType:
    """Import a file (`path/flow.py`) or a module (`package.flow`), so that workers find it, too.

    Raises:
        UsageError: there is no such file or module.
        Exception: what its code raises.
    """
    is_file = name.endswith(".py") or os.sep in name
    if not is_file:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not name.startswith(f"{error.name}."):
                raise
            raise click.UsageError(f"there is no module {name!r} - expected a file or a module") from None
    path = os.path.abspath(name)
    if not os.path.isfile(path):
        raise click.UsageError(f"there is no file {name!r}")
    folder, dotted = os.path.dirname(path), [os.path.splitext(os.path.basename(path))[0]]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        dotted.insert(0, os.path.basename(folder))
        folder = os.path.dirname(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_name = ".".join(dotted)
    if _leads_to(module_name, path):
        return importlib.import_module(module_name)
    return _load_alone(f"_grainwise_{dotted[-1]}", path)


def _leads_to(module_name: str, path: str) -> bool:
    """Say whether importing a name imports this file, and not another of the same name."""
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        return False
    return (
        spec is not None
        and bool(spec.origin)
        and os.path.realpath(str(spec.origin)) == os.path.realpath(path)
    )


def _load_alone(module_name: str, path: str) -> ModuleType:
    """Load a file whose name is taken, such as `json.py`; workers get what is in it by value."""
    import cloudpickle

    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{path!r} is no Python file")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


def attribute_of(module: Any, dotted: str, what: str) -> Any:
    """Return something in a module by its dotted name.

    Raises:
        UsageError: it is not there.
    """
    found = module
    for part in dotted.split("."):
        if not hasattr(found, part):
            raise click.UsageError(f"{what} {dotted!r} is not in {module.__name__}")
        found = getattr(found, part)
    return found


def entities_of(module: Any) -> dict[str, Any]:
    """Return the tasks, workflows, maps and launch plans of a module, by the names they have there."""
    return {
        name: value for name, value in vars(module).items() if not name.startswith("__") and is_entity(value)
    }


def is_entity(value: Any) -> bool:
    """Say whether `grainwise run` can run it."""
    if isinstance(value, type) or type(value).__module__.partition(".")[0] != "grainwise":
        return False
    return getattr(value, "kind", None) in ("task", "workflow", "dynamic", "map") and hasattr(
        value, "interface"
    )


def find_entity(module: Any, name: str) -> Any:
    """Return what `grainwise run` is to run: by its name in the module, or the name that it was given.

    Raises:
        UsageError: there is no such thing, or it is nothing that runs.
    """
    entities = entities_of(module)
    if name in entities:
        return entities[name]
    for value in entities.values():
        if value.name == name:
            return value
    if name.partition(".")[0] in vars(module):
        found = attribute_of(module, name, "what to run,")
        if is_entity(found):
            return found
        raise click.UsageError(
            f"{name!r} in {module.__name__} is a {type(found).__name__} - expected a task, workflow, map or "
            f"launch plan"
        )
    known = ", ".join(entities) or "none"
    raise click.UsageError(f"there is no {name!r} in {module.__name__} - it has: {known}")
