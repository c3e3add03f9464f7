"""Types of directories, by the names and under the path that Flyte has for them."""

from __future__ import annotations

from .paths import FlyteDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:  # to a type checker they are all one
    TensorboardLogs = FlyteDirectory
    TFRecordsDirectory = FlyteDirectory
else:
    TensorboardLogs = FlyteDirectory["tensorboard"]
    TFRecordsDirectory = FlyteDirectory["tfrecords_dir"]

__all__ = ["FlyteDirectory", "TFRecordsDirectory", "TensorboardLogs"]
