"""The address of this machine, as the session knows it."""

from __future__ import annotations

import os

from ..api.context import ADDRESS


def get_node_ip_address(address: str | None = None) -> str:
    """Return the address under which processes of the session reach each other: 127.0.0.1.

    Args:
        address: accepted for compatibility; there is no other machine to look from.
    """
    return ADDRESS


def get_node_instance_id() -> str:
    """Return what `RAY_CLOUD_INSTANCE_ID` says, "" by default."""
    return os.environ.get("RAY_CLOUD_INSTANCE_ID", "")
