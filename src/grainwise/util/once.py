"""Messages that are worth saying once."""

from __future__ import annotations

import os
import time

PERIOD_S = 60.0
_said: set[str] = set()
_is_off = bool(os.environ.get("RAY_DISABLE_LOG_ONCE"))
_is_periodic = False
_begin_s = 0.0


def log_once(key: str) -> bool:
    """Say whether this is the first call with this key in this process: then the message is worth it.

    After `enable_periodic_logging`, each minute begins anew.
    """
    global _begin_s
    if _is_off:
        return False
    now = time.monotonic()
    if _is_periodic and now - _begin_s > PERIOD_S:
        _said.clear()
        _begin_s = now
    is_first = key not in _said
    _said.add(key)
    return is_first


def disable_log_once_globally() -> None:
    """Make `log_once` say no from now on."""
    global _is_off
    _is_off = True


def enable_periodic_logging() -> None:
    """Make `log_once` say yes once a minute."""
    global _is_periodic
    _is_periodic = True
