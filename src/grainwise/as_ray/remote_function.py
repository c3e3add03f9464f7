"""`ray.remote_function`."""

from __future__ import annotations

from ..api.tasks import RemoteFunction

__all__ = ["RemoteFunction"]
