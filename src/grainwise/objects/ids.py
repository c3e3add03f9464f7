"""Identities as objects, under Ray's names and of Ray's sizes: `ActorID`, `TaskID`, `JobID`, ...

They are made where somebody asks for one: what is counted and sent is numbers (`ref`). An identity only tells
things apart and can be written down.

    JobID      4 bytes    there is one job in a session
    ActorID   16          of the actor, then the job's
    TaskID    24          of the task, then the job's
    ObjectRef 28          of the task, then which of its results
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    ID = TypeVar("ID", bound="BaseID")


class BaseID:
    """An identity: bytes that can be compared, hashed, pickled and shown.

    Raises:
        TypeError: it was not made of bytes.
        ValueError: of too many or too few of them.
    """

    SIZE = 28
    __slots__ = ("_binary",)

    def __init__(self, binary: bytes) -> None:
        if not isinstance(binary, bytes):
            raise TypeError(f"{type(self).__name__} expected bytes, got {type(binary).__name__}")
        if len(binary) != self.SIZE:
            raise ValueError(
                f"{type(self).__name__}: an ID string needs to have length {self.SIZE}, got {len(binary)}"
            )
        self._binary = binary

    @classmethod
    def from_binary(cls: type[ID], binary: bytes) -> ID:
        """Return the identity of these bytes."""
        return cls(binary)

    @classmethod
    def from_hex(cls: type[ID], text: str | bytes) -> ID:
        """Return the identity that is written like this."""
        return cls(bytes.fromhex(text if isinstance(text, str) else text.decode()))

    @classmethod
    def from_random(cls: type[ID]) -> ID:
        """Return an identity of nothing."""
        import os

        return cls(os.urandom(cls.SIZE))

    @classmethod
    def nil(cls: type[ID]) -> ID:
        """Return the identity that stands for none."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        """Return how many bytes one has."""
        return cls.SIZE

    def binary(self) -> bytes:
        """Return the bytes."""
        return self._binary

    def hex(self) -> str:
        """Return the bytes as hexadecimal digits."""
        return self._binary.hex()

    def is_nil(self) -> bool:
        """Say whether it stands for none."""
        return self._binary == b"\xff" * self.SIZE

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._binary == self._binary

    def __hash__(self) -> int:
        return hash(self._binary)

    def __bytes__(self) -> bytes:
        return self._binary

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._binary,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"


class UniqueID(BaseID):
    """Any identity of 28 bytes."""


class NodeID(UniqueID):
    """Of a machine."""


class WorkerID(UniqueID):
    """Of a process."""


class FunctionID(UniqueID):
    """Of a function."""


class ActorClassID(UniqueID):
    """Of a class of actors."""


class JobID(BaseID):
    """Of a session."""

    SIZE = 4

    @classmethod
    def from_int(cls, number: int) -> JobID:
        """Return the identity of a number."""
        return cls(number.to_bytes(4, "little"))

    def int(self) -> Any:
        """Return it as a number."""
        return int.from_bytes(self._binary, "little")


class ActorID(BaseID):
    """Of an actor."""

    SIZE = 16

    @property
    def job_id(self) -> JobID:
        """The session's identity."""
        return JobID(self._binary[-4:])


class TaskID(BaseID):
    """Of a task."""

    SIZE = 24

    def job_id(self) -> JobID:
        """Return the session's identity."""
        return JobID(self._binary[-4:])

    def actor_id(self) -> ActorID:
        """Return that of the actor whose method it is; of none, if it is a task."""
        return ActorID.nil()


class PlacementGroupID(BaseID):
    """Of a placement group."""

    SIZE = 18
