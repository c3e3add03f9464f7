"""`ray.types`."""

from __future__ import annotations

from ..objects.ref import ObjectRef

__all__ = ["ObjectRef"]
