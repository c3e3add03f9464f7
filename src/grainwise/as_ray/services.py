"""`ray._private.services`: Ray's own inside, of which libraries use one function."""

from __future__ import annotations

from ..util import get_node_ip_address

__all__ = ["get_node_ip_address"]
