"""What stands for `ray._raylet`, from where programs import the classes of refs and generators."""

from __future__ import annotations

from ..engine.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from ..objects.ref import ObjectRef

StreamingObjectRefGenerator = ObjectRefGenerator
"""Its older name."""

__all__ = ["DynamicObjectRefGenerator", "ObjectRef", "ObjectRefGenerator", "StreamingObjectRefGenerator"]
