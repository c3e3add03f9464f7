"""`ray._private.utils`, `ray._common.utils`: small functions of Ray's own inside that programs take along."""

from __future__ import annotations

from ..config import available_cpus, available_memory_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from typing import Any

    from ..objects.ref import ObjectRef


def binary_to_hex(identifier: bytes) -> str:
    """Return bytes as hexadecimal digits."""
    return identifier.hex()


def hex_to_binary(hex_identifier: str) -> bytes:
    """Return hexadecimal digits as bytes."""
    return bytes.fromhex(hex_identifier)


def binary_to_object_ref(binary_object_ref: bytes) -> ObjectRef[object]:
    """Return the ref of an identity."""
    from ..objects.ref import ObjectRef

    made: Any = ObjectRef
    ref: ObjectRef[object] = made(binary_object_ref)
    return ref


def get_num_cpus() -> int:
    """Return how many CPUs this process may use."""
    return available_cpus()


def get_system_memory() -> int:
    """Return the memory of this machine in bytes, or what this process may have of it."""
    return available_memory_bytes()


def is_main_thread() -> bool:
    """Say whether this is the main thread."""
    import threading

    return threading.current_thread() is threading.main_thread()


def get_or_create_event_loop() -> AbstractEventLoop:
    """Return the event loop that runs in this thread; else a new one, which becomes the thread's own."""
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop


__all__ = [
    "binary_to_hex",
    "binary_to_object_ref",
    "get_num_cpus",
    "get_or_create_event_loop",
    "get_system_memory",
    "hex_to_binary",
    "is_main_thread",
]
