"""`import ray` without Ray: a stand-in for programs, and for libraries, that say so.

    install_as_ray() ──► sys.modules["ray"] = stand_in      names lead to grainwise's own
                     ──► finder on sys.meta_path            "ray.util.state", ... are modules of ours
                                                            "ray.serve", ...      are refused

Workers are templates of the program: they load the stand-in as well, if it was installed before the session
began. `python -m grainwise.as_ray script.py` does so and runs the script.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["install_as_ray"]


def install_as_ray() -> ModuleType:
    """Make `import ray` mean grainwise, in this program and in its workers; return that module.

    Tasks, objects, `ray.util` (pools, joblib, listings, serializers), `ray.exceptions` and the runtime
    context are there under Ray's names. What knowingly is not (other machines, Serve, Train, Tune, Data,
    RLlib, compiled graphs, ...) raises `NotImplementedError` when it is imported or asked for; such
    an import counts as an `ImportError`, too, so that libraries which can do without go on.

    Call it before anything imports Ray, and before the session begins. Calling it again does nothing.

    Raises:
        RuntimeError: the real Ray is imported already, or a session has begun without the stand-in.
    """
    from ..api.session import is_initialized
    from . import finder

    found = sys.modules.get("ray")
    stand_in = finder.stand_in()
    if found is stand_in:
        return stand_in
    if found is not None:
        raise RuntimeError(
            f"install_as_ray() was called when ray was imported already, from "
            f"{getattr(found, '__file__', None)} - expected the call before the first `import ray`"
        )
    if is_initialized():
        raise RuntimeError(
            "install_as_ray() was called in a running session, whose workers know nothing of it - expected "
            "the call before init() and the first task - call shutdown() first"
        )
    finder.install()
    return stand_in


install_as_ray.__module__ = "grainwise"
