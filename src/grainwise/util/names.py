"""Names under which actors can be found: `list_named_actors`."""

from __future__ import annotations

from ..api import session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Return the names of the actors that `get_actor` would find.

    Args:
        all_namespaces: those of other namespaces, too.

    Returns:
        Names; with `all_namespaces` dictionaries of `name` and `namespace`.
    """
    running = session.engine()
    if all_namespaces:
        found = running.list_actors(None)
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for _, name in running.list_actors(session.namespace())]


list_named_actors.__module__ = "grainwise.util"
