"""Refs that somebody has made of an identity, as `ObjectRef(binary)` does."""

from __future__ import annotations

from ..errors import ObjectLostError
from .ref import FAILED, ID_BYTES, JOB_BYTES, ObjectRef, hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TAIL = JOB_BYTES + b"\x01\x00\x00\x00"


class NamedRef(ObjectRef["Any"]):
    """A ref to nothing that is known here: it has an identity and an error, and equals its like."""

    __slots__ = ("_binary",)

    _binary: bytes

    def is_nil(self) -> bool:
        """Say whether it stands for none."""
        return self._binary == b"\xff" * ID_BYTES

    def binary(self) -> bytes:
        """Return the identity that it was made of."""
        return self._binary

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other.binary() == self._binary

    def __hash__(self) -> int:
        return hash(self._binary)

    def __reduce__(self) -> tuple[Any, ...]:
        return find_ref, (self._binary,)


def find_ref(binary: bytes) -> ObjectRef[Any]:
    """Return the ref of an identity; one to nothing, if this process does not know it.

    Raises:
        TypeError: it is not `bytes`.
        ValueError: it does not have 28 bytes.
    """
    if not isinstance(binary, bytes):
        raise TypeError(f"Unsupported type: {type(binary)}, expected bytes")
    if len(binary) != ID_BYTES:
        raise ValueError(f"an ID string needs to have length {ID_BYTES}, got {len(binary)}")
    if binary.endswith(_TAIL) and hooks.find is not None:
        known = hooks.find(int.from_bytes(binary[:20], "little"))
        if known is not None:
            return known
    ref = NamedRef.__new__(NamedRef)
    ref._binary = binary
    ref._state = FAILED
    ref._value = ObjectLostError(
        f"the value behind ref {binary.hex()} is not known here - expected a ref that is still held somewhere"
    )
    return ref
