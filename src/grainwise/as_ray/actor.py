"""`ray.actor`: classes of actors and their handles."""

from __future__ import annotations

from ..api.actors import ActorClass, ActorHandle, ActorMethod, exit_actor

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor"]
