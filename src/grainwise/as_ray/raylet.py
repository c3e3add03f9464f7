"""What stands for `ray._raylet`: from there programs import the classes of refs, generators and ids."""

from __future__ import annotations

from ..engine.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from ..objects.ids import (
    ActorClassID,
    ActorID,
    BaseID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)  # fmt: skip
from ..objects.ref import ObjectRef

ObjectID = ObjectRef
StreamingObjectRefGenerator = ObjectRefGenerator
"""Older names."""

__all__ = [
    "ActorClassID",
    "ActorID",
    "BaseID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "StreamingObjectRefGenerator",
    "TaskID",
    "UniqueID",
    "WorkerID",
]
