"""`ray.util.client.common`: the types of Ray Client, for `isinstance`; nothing here is of one of them."""

from __future__ import annotations


class ClientObjectRef:
    """A ref of another machine's session."""


class ClientActorHandle:
    """An actor of another machine's session."""


__all__ = ["ClientActorHandle", "ClientObjectRef"]
