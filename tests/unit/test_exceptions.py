"""Ray's names for our errors: what each catches, as the documentation of Ray's exceptions has it."""

from __future__ import annotations

import copy
import pickle

import pytest

from grainwise import errors, exceptions
from grainwise.exceptions import RayError

PARENTS = {
    "ActorAlreadyExistsError": "RayError ValueError",
    "ActorDiedError": "RayActorError",
    "ActorHandleNotFoundError": "RayError ValueError",
    "ActorPlacementGroupRemoved": "RayError",
    "ActorUnavailableError": "RayActorError",
    "ActorUnschedulableError": "RayError",
    "AsyncioActorExit": "RayError",
    "AuthenticationError": "RayError",
    "CrossLanguageError": "RayError",
    "GetTimeoutError": "RayError TimeoutError",
    "LocalRayletDiedError": "RayError",
    "NodeDiedError": "RayError",
    "ObjectFetchTimedOutError": "ObjectLostError",
    "ObjectFreedError": "ObjectLostError",
    "ObjectLostError": "RayError",
    "ObjectReconstructionFailedError": "ObjectLostError",
    "ObjectRefStreamEndOfStreamError": "RayError",
    "ObjectStoreFullError": "RayError",
    "OufOfBandObjectRefSerializationException": "RayError",
    "OutOfDiskError": "RayError",
    "OutOfMemoryError": "RayError",
    "OwnerDiedError": "ObjectLostError",
    "PendingCallsLimitExceeded": "RayError",
    "PlasmaObjectNotAvailable": "RayError",
    "RayActorError": "RayError",
    "RayCgraphCapacityExceeded": "RaySystemError",
    "RayChannelError": "RaySystemError",
    "RayChannelTimeoutError": "RayChannelError TimeoutError",
    "RayDirectTransportError": "RaySystemError",
    "RaySystemError": "RayError",
    "RayTaskError": "RayError",
    "ReferenceCountingAssertionError": "ObjectLostError AssertionError",
    "RpcError": "RayError",
    "RuntimeEnvSetupError": "RayError",
    "StreamingGeneratorReplayInconsistentError": "RaySystemError",
    "TaskCancelledError": "RayError",
    "TaskPlacementGroupRemoved": "RayError",
    "TaskUnschedulableError": "RayError ValueError",
    "UnserializableException": "RayError",
    "UserCodeException": "RayError",
    "WorkerCrashedError": "RayError",
}
BUILTIN = {"AssertionError": AssertionError, "TimeoutError": TimeoutError, "ValueError": ValueError}


def test_every_name_is_there() -> None:
    assert set(exceptions.__all__) == {*PARENTS, "RayError", "RAY_EXCEPTION_TYPES"}
    assert RayError is errors.GrainwiseError


@pytest.mark.parametrize("name", PARENTS)
def test_each_is_caught_by_what_catches_it_in_ray(name: str) -> None:
    cls = getattr(exceptions, name)
    for parent in PARENTS[name].split():
        assert issubclass(cls, BUILTIN.get(parent) or getattr(exceptions, parent))
    assert cls in exceptions.RAY_EXCEPTION_TYPES
    others = set(PARENTS) - {name} - set(_ancestors(name))
    assert not [other for other in others if issubclass(cls, getattr(exceptions, other))]


def _ancestors(name: str) -> list[str]:
    found = []
    for parent in PARENTS.get(name, "").split():
        found += [parent, *_ancestors(parent)]
    return found


@pytest.mark.parametrize("name", sorted(set(PARENTS) - {"RayTaskError"}))
def test_each_can_be_made_of_a_text_pickled_and_copied(name: str) -> None:
    error = getattr(exceptions, name)("boom")
    for clone in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(clone) is type(error)
        assert str(clone) == "boom"


@pytest.mark.parametrize("name", ["RayActorError", "RuntimeEnvSetupError", "TaskPlacementGroupRemoved"])
def test_without_a_text_it_says_what_it_is(name: str) -> None:
    assert str(getattr(exceptions, name)()).endswith(".")


def test_names_of_one_thing_are_one_class() -> None:
    for name in set(exceptions.__all__) & set(errors.__all__):
        assert getattr(exceptions, name) is getattr(errors, name)


def test_a_task_error_has_rays_fields() -> None:
    error = errors.TaskError.wrap(ValueError("x"), task_name="job", traceback_text="text", pid=1)
    assert isinstance(error, exceptions.RayTaskError)
    assert isinstance(error.as_instanceof_cause(), ValueError)
    assert (error.function_name, error.traceback_str) == ("job", "text")
    again = pickle.loads(pickle.dumps(error))
    assert (again.function_name, again.traceback_str) == ("job", "text")
