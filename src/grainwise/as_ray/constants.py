"""`ray._private.ray_constants`: what of Ray's own settings holds here, too."""

from __future__ import annotations

from ..api.actor_options import ASYNC_CONCURRENCY as DEFAULT_MAX_CONCURRENCY_ASYNC

DEFAULT_TASK_MAX_RETRIES = 3
DEFAULT_ACTOR_MAX_RESTARTS = 0
ID_SIZE = 28

__all__ = [
    "DEFAULT_ACTOR_MAX_RESTARTS",
    "DEFAULT_MAX_CONCURRENCY_ASYNC",
    "DEFAULT_TASK_MAX_RETRIES",
    "ID_SIZE",
]
