"""Where the record is: a folder that only its user may enter.

<folder>/                0700
    runs.sqlite          the tables, in WAL mode
    objects/<run>/<hash> values that are too large for a row, named by the hash of their content
"""

from __future__ import annotations

import os
import stat

VARIABLE = "GRAINWISE_RUN_DIR"
OFF = "off"
FILE = "runs.sqlite"


def record_folder() -> str | None:
    """Return the folder that `GRAINWISE_RUN_DIR` names, None if that is "off"; it need not exist.

    By default it is `grainwise/runs` in `XDG_STATE_HOME` (`~/.local/state`), on macOS
    `~/Library/Application Support/grainwise/runs`.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen == OFF:
        return None
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    import sys

    if sys.platform == "darwin":
        root = "~/Library/Application Support"
    else:
        root = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return os.path.join(os.path.abspath(os.path.expanduser(root)), "grainwise", "runs")


def make_private(folder: str) -> None:
    """Make the folder if need be.

    Raises:
        OSError: it can't be made, belongs to somebody else, or others may enter it: what is in it is
        unpickled.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(
            f"{folder} must belong to this user and others must not write there, got owner {found.st_uid}, "
            f"mode {stat.S_IMODE(found.st_mode):04o} - mend it, or set {VARIABLE}"
        )


def file_in(folder: str) -> str:
    """Return the path of the tables."""
    return os.path.join(folder, FILE)


def objects_of(folder: str, run_id: str) -> str:
    """Return the folder of a run's large values."""
    return os.path.join(folder, "objects", run_id)
