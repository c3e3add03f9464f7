"""Ray's names for our errors, in Ray's hierarchy: what `except ray.exceptions.…` catches here.

    RayError                              is GrainwiseError
    ├── RayTaskError                      is TaskError: also an instance of what the task raised
    ├── TaskCancelledError, WorkerCrashedError, GetTimeoutError (· TimeoutError), ObjectStoreFullError,
    │   OutOfDiskError, OutOfMemoryError, RuntimeEnvSetupError   the same classes
    ├── TaskUnschedulableError            is InfeasibleTaskError (· ValueError)
    ├── ObjectLostError                   the same class
    │   ├── ObjectFetchTimedOutError, ObjectFreedError, ObjectReconstructionFailedError, OwnerDiedError
    │   └── ReferenceCountingAssertionError  · AssertionError
    ├── RaySystemError                    is InternalError
    │   ├── RayChannelError
    │   │   └── RayChannelTimeoutError    · TimeoutError
    │   └── RayCgraphCapacityExceeded, RayDirectTransportError, StreamingGeneratorReplayInconsistentError
    ├── RayActorError                     is ActorError
    │   └── ActorDiedError, ActorUnavailableError
    ├── ActorAlreadyExistsError, ActorHandleNotFoundError   · ValueError
    └── all others

A class whose error can't occur here exists all the same, so that an `except` clause that names it can be
read. What is of one name in `grainwise.errors` and here is one class.
"""

from __future__ import annotations

from .errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    InternalError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    WorkerCrashedError,
)
from .errors import ActorError as RayActorError
from .errors import GrainwiseError as RayError
from .errors import InfeasibleTaskError as TaskUnschedulableError
from .errors import TaskError as RayTaskError

RaySystemError = InternalError


class _Worded(RayError):  # noqa: N818 -- no error by itself
    """An error of one text, which Ray also keeps as `error_message`."""

    def __init__(self, error_message: str | None = None) -> None:
        self.error_message = error_message
        super().__init__(*(() if error_message is None else (error_message,)))

    def __str__(self) -> str:
        return self.error_message or (type(self).__doc__ or "").partition("\n")[0]


# -- actors ------------------------------------------------------------------------------------------------


class ActorUnschedulableError(_Worded):
    """The actor can't be placed."""


class ActorPlacementGroupRemoved(_Worded):
    """The placement group of this actor has been removed."""


class RunningActorPlacementGroupRemoved(ActorPlacementGroupRemoved, ActorDiedError):  # noqa: N818
    """The same, of an actor that ran: it is one that has died, too."""

    def __init__(self, error_message: str | None = None) -> None:
        ActorDiedError.__init__(self, error_message or "")
        self.error_message = error_message


class ActorHandleNotFoundError(_Worded, ValueError):
    """There is no such actor in this session."""


class AsyncioActorExit(_Worded):
    """An asynchronous actor ends itself."""


class PendingCallsLimitExceeded(_Worded):
    """More calls wait for the actor than `max_pending_calls` allows."""


# -- tasks and environments --------------------------------------------------------------------------------


class TaskPlacementGroupRemoved(_Worded):
    """The placement group of this task has been removed."""


class RunningTaskPlacementGroupRemoved(TaskPlacementGroupRemoved, WorkerCrashedError):  # noqa: N818
    """The same, of a task that ran: its worker has died, too."""

    def __init__(self, error_message: str | None = None) -> None:
        WorkerCrashedError.__init__(self, error_message or "")
        self.error_message = error_message


class UserCodeException(_Worded):
    """The user's function raised."""


class UnserializableException(_Worded):
    """An exception arrived that can't be unpickled."""


class CrossLanguageError(_Worded):
    """Code in another language raised."""


class ObjectRefStreamEndOfStreamError(_Worded):
    """The generator has no more values."""


# -- objects -----------------------------------------------------------------------------------------------


class ObjectFetchTimedOutError(ObjectLostError):
    """The object could not be fetched in time."""


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object has died."""


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and could not be made again."""


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted while there was a ref to it."""


class OufOfBandObjectRefSerializationException(_Worded):
    """A ref was pickled by other means than by passing it."""


class PlasmaObjectNotAvailable(_Worded):
    """The object is not in the store."""


# -- the machinery -----------------------------------------------------------------------------------------


class LocalRayletDiedError(_Worded):
    """The process that looks after the machine has died."""


class NodeDiedError(_Worded):
    """The machine has died."""


class RpcError(_Worded):
    """A message to another process failed."""

    def __init__(self, error_message: str | None = None, rpc_code: int | None = None) -> None:
        self.rpc_code = rpc_code
        super().__init__(error_message)


class AuthenticationError(_Worded):
    """The cluster does not accept the token."""


class RayChannelError(RaySystemError):
    """A channel of a compiled graph failed."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel of a compiled graph was not read or written in time."""


class RayCgraphCapacityExceeded(RaySystemError):  # noqa: N818
    """The buffer of a compiled graph is full."""


class RayDirectTransportError(RaySystemError):
    """A direct transfer failed."""


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A generator that ran again gave another number of values."""


RAY_EXCEPTION_TYPES = [
    value for value in list(globals().values()) if isinstance(value, type) and issubclass(value, RayError)
]

__all__ = [
    "RAY_EXCEPTION_TYPES",
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]
