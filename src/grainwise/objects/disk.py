"""The arena on disk, for what does not fit into memory."""

from __future__ import annotations

import os

from ..errors import OutOfDiskError
from . import arena as arenas


def open_disk_arena(directory: str | None, full: Exception) -> arenas.Arena:
    """Open an arena on disk, as large as the disk has room.

    Raises:
        ObjectStoreFullError: `full`, when spilling is off.
        OutOfDiskError: the folder can't be written to.
    """
    if directory is None:
        raise full
    try:
        room = os.statvfs(directory)
        capacity = max(room.f_bavail * room.f_frsize, 1 << 20)
        return arenas.Arena(arenas.create_disk(capacity, directory), capacity, is_disk=True)
    except OSError as error:
        raise OutOfDiskError(
            f"the object store is full and its spill folder {directory!r} can't be used: {error.strerror}; "
            f"set spill_dir (GRAINWISE_SPILL_DIR) to a folder with room, or drop refs"
        ) from full
